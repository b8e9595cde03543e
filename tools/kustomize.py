"""Writes the kustomize base and its components from the Helm chart, so that both install the same.

python -m tools.kustomize          # needs Helm's library: `make test-tools` installs it
"""

from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "funnelrank"
FOLDER = ROOT / "deploy" / "kustomize"
NAME = "funnelrank"
HEADER = "# Written from the Helm chart by `python -m tools.kustomize`.\n"
Document = dict[str, Any]

# An overlay makes the secret; everything else has the chart's values.
_BASE: Document = {
    "existingSecret": NAME,
    "registry": {"claim": "funnelrank-registry"},
    "autoscaling": {"enabled": True},
}
_NIGHTLY: Document = {
    "enabled": True,
    "image": "funnelrank-train:latest",
    "runsClaim": "funnelrank-runs",
    "recipe": "# The overlay has the recipe.",
    "config": {
        "keep_days": 30,
        "verify": {"share": 0.01},
        "compare": {"metric": "auc", "margins": {"pctr": 0.003, "pctcvr": 0.005}, "newest_h": 24},
        "publish": {"role": "canary", "percent": 5},
    },
}


def files() -> dict[Path, str]:
    """Every file that is written, with its text."""
    base = _rendered(_BASE)
    monitoring = _beside(base, _rendered(_BASE | {"prometheusOperator": {"enabled": True}}))
    nightly = _beside(base, _rendered(_BASE | {"exposureLog": {"claim": "funnelrank-log"}, "nightly": _NIGHTLY}))
    components = FOLDER / "components"
    return {
        FOLDER / "base" / "settings.env": _settings(base),
        FOLDER / "base" / "resources.yaml": _text(_without_maps(base)),
        components / "monitoring" / "resources.yaml": _text(monitoring),
        FOLDER / "example" / "nightly.yaml": _map(nightly, f"{NAME}-nightly")["nightly.yaml"],
        components / "nightly" / "resources.yaml": _text(_without_maps(nightly)),
    }


def _rendered(values: Document) -> list[Document]:
    """The chart's documents by kind and name, without what only Helm needs."""
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(values, name=NAME, namespace=NAME)
    manifests = [text for path, text in texts.items() if path.endswith(".yaml") and "/tests/" not in path]
    documents = [document for text in manifests for document in yaml.safe_load_all(text) if document]
    for document in documents:
        _remove_helm(document)
    return sorted(documents, key=_key)


def _remove_helm(part: Any) -> None:
    """Remove Helm's labels, and the checksum of the settings: kustomize names their ConfigMap by its content."""
    if isinstance(part, list):
        for inner in part:
            _remove_helm(inner)
    elif isinstance(part, dict):
        for name in ("helm.sh/chart", "app.kubernetes.io/managed-by"):
            part.get("labels", {}).pop(name, None)
        if part.get("annotations", {}).pop("checksum/configuration", None) and not part["annotations"]:
            del part["annotations"]
        for inner in part.values():
            _remove_helm(inner)


def _key(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def _beside(base: list[Document], documents: list[Document]) -> list[Document]:
    """The documents that the base does not have."""
    present = {_key(document) for document in base}
    return [document for document in documents if _key(document) not in present]


def _without_maps(documents: list[Document]) -> list[Document]:
    return [document for document in documents if document["kind"] != "ConfigMap"]


def _map(documents: list[Document], name: str) -> dict[str, str]:
    (data,) = [document["data"] for document in documents if _key(document) == ("ConfigMap", name)]
    return dict(data)


def _settings(documents: list[Document]) -> str:
    lines = [f"{name}={value}\n" for name, value in sorted(_map(documents, NAME).items())]
    return HEADER + "".join(lines)


def _text(documents: list[Document]) -> str:
    return HEADER + yaml.safe_dump_all(documents, sort_keys=False, width=120)


if __name__ == "__main__":
    for _path, _written in files().items():
        _path.write_text(_written)
