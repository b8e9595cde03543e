"""Tests the addresses of registries: folders, object stores with a folder for the copy, and what is refused."""

from pathlib import Path

import pytest

from service.addresses.registry_address import registry_folder, shown, uri_of
from service.settings import Settings, SettingsError


@pytest.mark.parametrize("uri", ["s3://bucket/some/prefix", "gs://bucket", "az://container/a b%2F", "memory://x"])
def test_the_folder_of_a_copy_knows_its_store(uri: str) -> None:
    folder = registry_folder(f"{uri}/", Path("/cache"))
    assert folder.parent == Path("/cache")
    assert uri_of(folder) == uri
    assert shown(folder / "mmoe" / "3") == f"{uri}/mmoe/3"


@pytest.mark.parametrize("folder", ["registry", "/srv/registry", "s3:/bucket", "s3%3Abucket"])
def test_other_folders_are_what_they_are(folder: str) -> None:
    assert registry_folder(folder, Path("/cache")) == Path(folder)
    assert uri_of(Path(folder)) is None
    assert shown(Path(folder) / "mmoe") == f"{folder}/mmoe"


def test_a_file_uri_is_its_folder() -> None:
    assert registry_folder("file:///srv/a%20b", Path("/cache")) == Path("/srv/a b")


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("ftp://bucket", "a folder or one of s3://, gs://, az://, file:// is needed"),
        ("kafka://broker/topic", "a folder or one of"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "credentials come otherwise"),
        ("s3://bucket?region=x", "credentials come otherwise"),
        ("file://host/folder", "write file:///folder"),
        (f"s3://bucket/{'x' * 200}", "too long"),
    ],
)
def test_a_bad_address_is_refused_by_the_setting(uri: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=f"^FUNNELRANK_REGISTRY: .*{problem}"):
        Settings.from_environment({"FUNNELRANK_REGISTRY": uri})


@pytest.mark.parametrize("variable", ["FUNNELRANK_REGISTRY", "FUNNELRANK_EXPOSURE_LOG"])
def test_a_password_in_an_address_is_not_shown(variable: str) -> None:
    with pytest.raises(SettingsError, match="credentials come otherwise") as refused:
        Settings.from_environment({variable: "s3://key:secret@bucket/x"})
    assert "secret" not in str(refused.value)


def test_the_copy_lies_in_the_folder_of_the_setting() -> None:
    settings = Settings.from_environment({"FUNNELRANK_REGISTRY": "s3://b/p", "FUNNELRANK_REGISTRY_CACHE": "/var/cache"})
    assert settings.registry == Path("/var/cache/s3%3A%2F%2Fb%2Fp")
    assert Settings.from_environment({"FUNNELRANK_REGISTRY": "s3://b"}).registry.is_relative_to(Path.home())
