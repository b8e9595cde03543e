"""Tests the kustomize base and its components: written from the chart, valid, and complete in the example."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendered_chart import one, pod_of
from resource_schemas import SCHEMAS

from loop.nightly.config import read_config
from models.recipe import load_recipe
from service.settings import Settings, unknown_variables
from tools.kustomize import FOLDER, files

EXAMPLE = FOLDER / "example"


@pytest.mark.tools
def test_the_folders_are_those_of_the_chart() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path}: run `python -m tools.kustomize`"


def built(folder: Path) -> list[dict[str, Any]]:
    kubectl = Path(sys.executable).parent / "kubectl"
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.tools
@pytest.mark.parametrize("folder", [FOLDER / "base", EXAMPLE])
def test_what_kubectl_builds_is_strictly_valid(folder: Path) -> None:
    from jsonschema import Draft202012Validator
    from kubernetes_validate import validate

    documents = built(folder)
    for document in documents:
        if document["kind"] not in SCHEMAS:
            validate(document, "1.37", strict=True)
            continue
        # The schemas of the chart's own resources know no namespace.
        document["metadata"].pop("namespace", None)
        Draft202012Validator(SCHEMAS[document["kind"]]).validate(document)
    assert {document["kind"] for document in documents} >= {"Deployment", "HorizontalPodAutoscaler", "NetworkPolicy"}


@pytest.mark.tools
def test_the_example_names_what_it_has_and_its_settings_are_valid() -> None:
    documents = built(EXAMPLE)
    present = {(document["kind"], document["metadata"]["name"]) for document in documents}
    container = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == "registry.example/funnelrank:0.2.0"
    for variable in container["env"]:
        assert ("Secret", variable["valueFrom"]["secretKeyRef"]["name"]) in present
    map_name = container["envFrom"][0]["configMapRef"]["name"]
    environment = one(documents, "ConfigMap", map_name)["data"]
    assert unknown_variables(environment) == []
    assert Settings.from_environment(environment).redis_timeout_ms == 50
    # The exposure log of the component is mounted where the setting names it.
    assert environment["FUNNELRANK_EXPOSURE_LOG"] in {mount["mountPath"] for mount in container["volumeMounts"]}
    for document in documents:
        pod = pod_of(document)
        if pod is not None:
            maps = {("ConfigMap", volume["configMap"]["name"]) for volume in pod["volumes"] if "configMap" in volume}
            assert maps <= present


def test_the_example_of_a_cron_job_has_a_valid_configuration() -> None:
    resources = (FOLDER / "components" / "nightly" / "resources.yaml").read_text()
    (job,) = yaml.safe_load_all(resources)
    read = read_config(EXAMPLE / "nightly.yaml")
    container = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    assert container["args"][0] == "nightly"
    # Whatever the configuration names lies in a volume.
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for named in (read.log, read.registry, read.work, read.recipe, Path(container["args"][1])):
        assert any(named.is_relative_to(mount) for mount in mounts)
    # The recipe is one, with the labels for which the comparison has margins.
    assert load_recipe(EXAMPLE / "recipe.yaml").name == "shop"
