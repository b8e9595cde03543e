"""A Kafka cluster for tests: librdkafka's own mock brokers, in a process of their own."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_CLUSTER = """
import sys
from confluent_kafka import Producer
client = Producer({"test.mock.num.brokers": "1", "log_level": 0})
# The address of the cluster is what the client itself was told.
brokers = client.list_topics(timeout=30).brokers.values()
print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class KafkaCluster:
    """The address of the brokers, and the process that has them."""

    brokers: str
    process: subprocess.Popen[str]

    def uri(self, topic: str) -> str:
        return f"kafka://{self.brokers}/{topic}"

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let the brokers answer nothing during the block."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextmanager
def kafka_cluster() -> Iterator[KafkaCluster]:
    """Run a cluster of one broker."""
    command = [sys.executable, "-c", _CLUSTER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield KafkaCluster(process.stdout.readline().strip(), process)
        finally:
            process.kill()
