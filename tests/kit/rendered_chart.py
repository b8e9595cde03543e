"""Renders the Helm chart without a cluster, and lists the values that the tests render it with."""

import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "funnelrank"
Document = dict[str, Any]

# The least that an installation names.
LEAST: Document = {"redisUrl": "redis://redis:6379/0", "registry": {"claim": "funnelrank-registry"}}
NIGHTLY: Document = {
    "enabled": True,
    "image": "funnelrank-train:0.2.0",
    "runsClaim": "runs",
    "recipe": "name: tiny\n",
    "config": {"compare": {"margins": {"pctr": 0.003}}},
}
# Every axis has values of its own keys, so that one of each can be merged.
AXES: dict[str, list[Document]] = {
    "secret": [
        {"redisUrl": "rediss://user:word@redis:6379/0", "adminToken": "secret", "workers": 1},
        {"existingSecret": "ranking", "serviceAccount": {"create": False, "name": "ranker"}},
    ],
    "registry": [
        {"registry": {"claim": "registry"}},
        {"registry": {"bucket": "s3://models/ranking", "sync": {"options": {"region": "eu-west-1"}}}},
        {
            "registry": {
                "uri": "s3://models/ranking",
                "environment": {"AWS_REGION": "eu-west-1", "AWS_ALLOW_HTTP": True},
                "existingSecret": "keys",
            }
        },
        {"registry": {"bucket": "gs://models"}},
        {"registry": {"bucket": "az://models/", "sync": {"options": {"account": "shop"}, "existingSecret": "keys"}}},
    ],
    "scaling": [
        {"replicas": 3},
        {"autoscaling": {"enabled": True}},
        {"autoscaling": {"enabled": True, "inflight": {"perPod": 8}}},
        {
            "autoscaling": {
                "enabled": True,
                "inflight": {"perPod": 2.5, "source": "keda", "prometheus": "http://p:9090"},
            }
        },
    ],
    "network": [
        {"networkPolicy": {"enabled": False}},
        {
            "networkPolicy": {
                "from": [{"namespaceSelector": {"matchLabels": {"team": "shop"}}}],
                "redis": {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [6379, 6380]},
                "egress": [{"ports": [{"port": 4317}]}],
            }
        },
    ],
    "observers": [
        {},
        {
            "prometheusOperator": {"enabled": True, "labels": {"release": "prometheus"}},
            "dashboards": {"enabled": True},
        },
    ],
    "rest": [
        {"podDisruptionBudget": {"enabled": False}},
        {
            "image": {"repository": "ranking/funnelrank", "tag": "7"},
            "imagePullSecrets": [{"name": "pull"}],
            "podLabels": {"azure.workload.identity/use": "true"},
            "podAnnotations": {"note": "seven"},
            "nodeSelector": {"kubernetes.io/arch": "arm64"},
            "tolerations": [{"key": "ranking", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"nodeAffinity": {}},
            "priorityClassName": "high",
            "fusion": {"profiles": {"home": {"weights": {"pctr": 1.0}}}},
            "trustedKeys": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
            "exposureLog": {"claim": "log"},
            "load": {"enabled": True, "claim": "tables", "path": "kuairand"},
            "settings": {"max_body_bytes": 4194304, "exposure_share": 0.5, "brownout": True, "log_level": "warning"},
        },
    ],
}
LABELLED = [dict(zip(AXES, chosen, strict=True)) for chosen in itertools.product(*AXES.values())]


def grid() -> Iterator[Document]:
    """One set of values for each choice of the axes, and four with the nightly run."""
    for chosen in LABELLED:
        yield merged(*chosen.values())
    for log in ({"claim": "log"}, {"bucket": "s3://logs/ranking"}):
        yield LEAST | {"exposureLog": log, "nightly": NIGHTLY}
        yield LEAST | {"exposureLog": log, "nightly": NIGHTLY, "registry": {"uri": "gs://models/ranking"}}


def merged(*parts: Document) -> Document:
    result: Document = {}
    for part in parts:
        assert not result.keys() & part.keys(), "two axes have the same key"
        result |= part
    return result


def rendered(values: Document, name: str = "funnelrank") -> list[Document]:
    """The documents of a release. Raises helm_python.HelmError if the values are refused."""
    texts = chart().render(values, name=name, namespace="ranking", revision=1)
    manifests = (text for path, text in texts.items() if path.endswith(".yaml"))
    loaded = (yaml.load_all(text, Loader=yaml.CSafeLoader) for text in manifests)
    return [document for documents in loaded for document in documents if document]


@cache
def chart() -> Any:
    """The chart, read once: it cannot be changed."""
    import helm_python

    return helm_python.Chart.load(CHART)


def one(documents: list[Document], kind: str, name: str = "funnelrank") -> Document:
    """The document of a kind and a name."""
    (document,) = [d for d in documents if d["kind"] == kind and d["metadata"]["name"] == name]
    return document


def pod_of(document: Document) -> Document | None:
    """The pod's specification within a document; None if it makes no pod."""
    spec: Document = document.get("spec", {})
    if document["kind"] == "Pod":
        return spec
    if document["kind"] == "CronJob":
        spec = spec["jobTemplate"]["spec"]
    pod: Document | None = spec.get("template", {}).get("spec")
    return pod
