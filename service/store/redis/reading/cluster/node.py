"""The connection to one node of a Redis Cluster."""

from service.addresses.redis_url import Address, RedisAddress
from service.store.redis.reading.connection import OnPush
from service.store.redis.reading.replicas import ReplicaSet
from service.store.redis.reading.wire import Wire


class Node(Wire):
    """The connection to one node. `replicas` are those of a primary, if replicas are read."""

    def __init__(
        self, cluster: RedisAddress, on_push: OnPush | None, address: Address, of_replica: bool = False
    ) -> None:
        super().__init__(cluster, on_push, address, of_replica)
        self.is_replica = of_replica
        self.address = address
        self.name = "{}:{}".format(*address)
        self.replicas: ReplicaSet[Node] | None = None

    @property
    def reader(self) -> "Node":
        """The node from which rankings read the slots of this primary."""
        return self if self.replicas is None else self.replicas.reader

    def close(self) -> None:
        if self.replicas is not None:
            self.replicas.close()
        super().close()
