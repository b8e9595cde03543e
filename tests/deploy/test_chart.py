"""Tests the Helm chart over a grid of values: strictly valid manifests, restricted pods, refused contradictions."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_chart import AXES, CHART, LEAST, NIGHTLY, Document, grid, one, pod_of, rendered
from resource_schemas import SCHEMAS

from loop.nightly.config import read_config
from service.addresses.registry_address import uri_of
from service.settings import Settings, unknown_variables

pytestmark = pytest.mark.tools
ROOT = Path(__file__).parents[2]
# The oldest version that the chart accepts, and the newest one that has schemas.
VERSIONS = ("1.29", "1.37")


@cache
def releases() -> list[list[Document]]:
    """The documents of each set of values."""
    return [rendered(values) for values in grid()]


@cache
def all_documents() -> list[Document]:
    """Every document of the grid, each once."""
    documents = {json.dumps(document, sort_keys=True): document for release in releases() for document in release}
    return list(documents.values())


def test_every_document_of_the_grid_is_strictly_valid() -> None:
    from jsonschema import Draft202012Validator
    from kubernetes_validate import validate

    kinds = set()
    for document in all_documents():
        kinds.add(document["kind"])
        if document["kind"] in SCHEMAS:
            Draft202012Validator(SCHEMAS[document["kind"]]).validate(document)
            continue
        for version in VERSIONS:
            validate(document, version, strict=True)
    assert kinds >= {*SCHEMAS, "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget"}
    assert kinds >= {"ConfigMap", "CronJob", "Job", "Pod", "Secret", "Service", "ServiceAccount"}


def test_a_misspelt_field_of_a_manifest_would_be_found() -> None:
    from jsonschema import Draft202012Validator
    from jsonschema import ValidationError as SchemaError
    from kubernetes_validate import ValidationError, validate

    deployment = one(rendered(LEAST), "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readinessProb"] = container.pop("readinessProbe")
    with pytest.raises(ValidationError, match="readinessProb"):
        validate(deployment, VERSIONS[-1], strict=True)
    monitor = one(rendered(LEAST | {"prometheusOperator": {"enabled": True}}), "ServiceMonitor")
    monitor["spec"]["endpoints"][0]["intervall"] = "15s"
    with pytest.raises(SchemaError, match="intervall"):
        Draft202012Validator(SCHEMAS["ServiceMonitor"]).validate(monitor)


def test_every_pod_fits_the_restricted_security_profile() -> None:
    pods = [pod for document in all_documents() if (pod := pod_of(document))]
    assert len(pods) > 20
    for pod in pods:
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        assert pod["automountServiceAccountToken"] is False
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
            assert "cpu" not in container["resources"]["limits"]
            assert not any("hostPort" in port for port in container.get("ports", []))
        for volume in pod.get("volumes", []):
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "persistentVolumeClaim"}


def test_every_mount_has_its_volume_and_every_reference_its_object() -> None:
    for documents in releases():
        present = {(document["kind"], document["metadata"]["name"]) for document in documents}
        for document in documents:
            pod = pod_of(document)
            if pod is None:
                continue
            volumes = {volume["name"] for volume in pod.get("volumes", [])}
            for container in [*pod.get("initContainers", []), *pod["containers"]]:
                assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes
            maps = [volume["configMap"]["name"] for volume in pod.get("volumes", []) if "configMap" in volume]
            assert {("ConfigMap", name) for name in maps} <= present


def test_the_settings_of_every_pod_are_those_of_the_service() -> None:
    environments = [document["data"] for document in all_documents() if "FUNNELRANK_PORT" in document.get("data", {})]
    assert len(environments) > 3
    for environment in environments:
        assert unknown_variables(environment) == []
        settings = Settings.from_environment(environment)
        assert settings.host == "0.0.0.0"
    # Large numbers are not written as 4.19e+06.
    assert {environment.get("FUNNELRANK_MAX_BODY_BYTES") for environment in environments} == {None, "4194304"}


def test_the_grace_period_is_longer_than_the_service_needs() -> None:
    documents = rendered(LEAST)
    settings = Settings.from_environment(one(documents, "ConfigMap")["data"])
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] * 1000 > settings.drain_ms + settings.shutdown_timeout_ms
    probe = pod["containers"][0]["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] * 1000 > settings.load_timeout_ms
    # The pod is out of the service before its listener closes.
    probe = pod["containers"][0]["readinessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] * 1000 < settings.drain_ms


def test_the_alerts_and_recording_rules_are_those_of_the_rule_file() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())
    values = LEAST | {"prometheusOperator": {"enabled": True}}
    assert one(rendered(values), "PrometheusRule")["spec"] == rules
    # A release of another name has a job of its own.
    other = rendered(values, name="shop")
    relabelling = one(other, "ServiceMonitor", "shop-funnelrank")["spec"]["endpoints"][0]["relabelings"]
    assert relabelling == [{"targetLabel": "job", "replacement": "shop-funnelrank"}]
    text = json.dumps(one(other, "PrometheusRule", "shop-funnelrank")["spec"], sort_keys=True)
    assert text == json.dumps(rules, sort_keys=True).replace('job=\\"funnelrank\\"', 'job=\\"shop-funnelrank\\"')
    assert 'job=\\"shop-funnelrank\\"' in text


def test_the_boards_are_those_of_the_folder() -> None:
    documents = rendered(LEAST | {"dashboards": {"enabled": True}})
    for path in sorted((ROOT / "deploy" / "grafana").glob("*.json")):
        board = one(documents, "ConfigMap", f"funnelrank-board-{path.stem}")["data"][f"funnelrank-{path.name}"]
        assert json.loads(board) == json.loads(path.read_text())


@pytest.mark.parametrize("registry", [{"claim": "models"}, {"uri": "s3://models/ranking"}])
@pytest.mark.parametrize("log", [{"claim": "log"}, {"bucket": "s3://logs/ranking"}])
def test_the_nightly_configuration_is_one_that_the_command_reads(
    tmp_path: Path, log: Document, registry: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUNNELRANK_REGISTRY_CACHE", "/registry")
    documents = rendered(LEAST | {"exposureLog": log, "nightly": NIGHTLY, "registry": registry})
    (tmp_path / "nightly.yaml").write_text(one(documents, "ConfigMap", "funnelrank-nightly")["data"]["nightly.yaml"])
    read = read_config(tmp_path / "nightly.yaml")
    assert read.compare.margins == {"pctr": 0.003}
    assert read.source == log.get("bucket")
    pod = pod_of(one(documents, "CronJob", "funnelrank-nightly"))
    assert pod is not None
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    for named in (read.log, read.registry, read.work, read.recipe):
        assert any(named.is_relative_to(mount) for mount in mounts)
    assert uri_of(read.registry) == registry.get("uri")


def test_a_registry_in_a_bucket_is_read_by_the_service_itself() -> None:
    values = LEAST | {"registry": {"uri": "s3://models/ranking", "environment": {"AWS_REGION": "eu-west-1"}}}
    documents = rendered(values | {"load": {"enabled": True, "claim": "tables"}})
    settings = Settings.from_environment(one(documents, "ConfigMap")["data"])
    assert uri_of(settings.registry) == "s3://models/ranking"
    assert settings.registry.parent == Path("/registry")
    for kind, name in (("Deployment", "funnelrank"), ("Job", "funnelrank-load-1")):
        pod = one(documents, kind, name)["spec"]["template"]["spec"]
        assert "initContainers" not in pod
        (container,) = pod["containers"]
        assert {"name": "AWS_REGION", "value": "eu-west-1"} in container["env"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "registry"]
        assert mount == {"name": "registry", "mountPath": "/registry"}
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "registry"]
        # Room for what the setting allows, and for one more version while it is fetched.
        assert volume["emptyDir"] == {"sizeLimit": "16Gi"}
        assert settings.registry_cache_mb < 16 << 10


BUCKET = AXES["registry"][1]
CONTRADICTIONS: dict[str, tuple[Document, str]] = {
    "two secrets": ({"existingSecret": "ranking"}, "existingSecret excludes redisUrl"),
    "no Redis": ({"redisUrl": ""}, "needs a Redis"),
    "port shut": ({"redisUrl": "redis://redis:7000/0"}, "port 7000, which networkPolicy.redis.ports"),
    "two registries": ({"registry": {"claim": "a", "bucket": "s3://b"}}, "exclude each other"),
    "a bucket twice": ({"registry": {"uri": "s3://a", "bucket": "s3://b"}}, "exclude each other"),
    "no account of the URI": ({"registry": {"uri": "az://models"}}, "registry.environment.AZURE_STORAGE_ACCOUNT_NAME"),
    "no registry": ({"registry": {}}, "needs a registry"),
    "two logs": ({"exposureLog": {"claim": "a", "bucket": "s3://b"}}, "exposureLog.bucket exclude each other"),
    "no account": ({"registry": {"bucket": "az://models"}}, "registry.sync.options.account"),
    "short grace": ({"terminationGracePeriodSeconds": 15}, "must be longer than settings.drain_ms"),
    "long drain": ({"settings": {"drain_ms": 40000}}, "must be longer than settings.drain_ms"),
    "no time to send": (
        {"terminationGracePeriodSeconds": 25, "exposureLog": {"bucket": "s3://b"}},
        "must be longer than settings.drain_ms",
    ),
    "least above most": ({"autoscaling": {"enabled": True, "minReplicas": 20}}, "is above autoscaling.maxReplicas"),
    "KEDA without Prometheus": (
        {"autoscaling": {"enabled": True, "inflight": {"source": "keda", "perPod": 8}}},
        "needs autoscaling.inflight.perPod and autoscaling.inflight.prometheus",
    ),
    "scaled without a request": (
        {"autoscaling": {"enabled": True}, "resources": {"requests": {"cpu": None}}},
        "needs resources.requests.cpu",
    ),
    "too many workers": ({"workers": 16}, "below what 16 workers need"),
    "too large caches": ({"settings": {"item_cache_mb": 1024}}, "below what 2 workers need"),
    "metrics behind a key": (
        {"settings": {"metrics_need_key": True}, "prometheusOperator": {"enabled": True}},
        "needs prometheusOperator.tokenSecret",
    ),
    "load without tables": ({"load": {"enabled": True}}, "needs load.claim"),
    "a night without a log": ({"nightly": NIGHTLY}, "needs exposureLog.claim or exposureLog.bucket"),
    "a night with a bucket": ({"nightly": NIGHTLY, **BUCKET, "exposureLog": {"claim": "log"}}, "needs registry.claim"),
    "a night without margins": ({"nightly": NIGHTLY | {"config": {}}}, "needs nightly.config.compare.margins"),
    "a night without an image": ({"nightly": NIGHTLY | {"image": ""}}, "needs nightly.image"),
    "the chart's setting": ({"settings": {"redis_url": "redis://x"}}, "settings.redis_url is set by the chart"),
    "the chart's path": ({"nightly": {"config": {"log": "/log"}}}, "nightly.config.log is set by the chart"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_values_that_contradict_each_other_are_refused_with_what_to_do(name: str) -> None:
    from helm_python import HelmError

    values, message = CONTRADICTIONS[name]
    with pytest.raises(HelmError) as refusal:
        rendered(LEAST | values)
    assert message in str(refusal.value)


def test_all_contradictions_are_named_at_once() -> None:
    from helm_python import HelmError

    with pytest.raises(HelmError) as refusal:
        rendered({})
    assert str(refusal.value).count("\n- ") == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"registri": {}}, "registri"),
        ({"replicas": "two"}, "/replicas"),
        ({"registry": {"bucket": "ftp://models"}}, "/registry/bucket"),
        ({"redisUrl": "redis:6379"}, "/redisUrl"),
        ({"autoscaling": {"inflight": {"source": "metrics"}}}, "/autoscaling/inflight/source"),
        ({"resources": {"limits": {"memory": "one gigabyte"}}}, "/resources/limits/memory"),
    ],
)
def test_a_value_of_a_wrong_name_or_form_is_refused_with_its_place(values: Any, message: str) -> None:
    from helm_python import HelmError

    with pytest.raises(HelmError) as refusal:
        rendered(LEAST | values)
    assert message in str(refusal.value)


def test_lint_finds_nothing() -> None:
    import helm_python

    linted = helm_python.lint(CHART, LEAST)
    # Severity 1 is for information: an icon is recommended.
    assert [message for message in linted["messages"] if message["severity"] > 1] == []
