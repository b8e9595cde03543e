"""Tests signed bundles: with trusted keys, only bundles signed by one of them are served."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export.publish import PublishError
from export.sign import sign_bundle, signer
from service.bundle.signature import SIGNATURE_FILE, UntrustedBundle, public_keys
from service.bundle.verify import BundleRejected, read_manifest
from service.sample.embedded_redis import EmbeddedRedis

ROOT = Path(__file__).parents[3]


def key_pair(folder: Path, name: str, algorithm: str = "ed25519") -> tuple[Path, bytes]:
    """A private key's file and the public key, made as the documentation says."""
    path = folder / f"{name}.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, "-out", path], check=True, capture_output=True)
    return path, subprocess.run(["openssl", "pkey", "-in", path, "-pubout"], check=True, capture_output=True).stdout


@pytest.fixture
def keys(tmp_path: Path) -> SimpleNamespace:
    """Two trusted keys in one file, and one that is not trusted."""
    (first, first_public), (second, second_public), (other, _) = (
        key_pair(tmp_path, name) for name in ("first", "second", "other")
    )
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(b"# the team's keys\n" + first_public + b"\n" + second_public)
    return SimpleNamespace(first=first, second=second, other=other, trusted=trusted)


def refused(folder: Path, trusted: Path) -> str:
    with pytest.raises(BundleRejected) as error:
        read_manifest(folder, trusted)
    return error.value.code


def test_any_of_the_trusted_keys_will_do_and_no_other(registry: Path, keys: SimpleNamespace) -> None:
    folder = registry / "synthetic" / "1"
    assert refused(folder, keys.trusted) == "signature_missing"
    for key in (keys.first, keys.second):
        sign_bundle(folder, signer(key))
        assert read_manifest(folder, keys.trusted).version == "1"
    sign_bundle(folder, signer(keys.other))
    assert refused(folder, keys.trusted) == "signature_wrong"
    assert read_manifest(folder).version == "1", "without trusted keys a signature is not looked at"


def test_a_signature_holds_for_one_manifest_alone(registry: Path, kit: SimpleNamespace, keys: SimpleNamespace) -> None:
    folder = registry / "synthetic" / "1"
    other = kit.publish(registry, "2")
    signature = sign_bundle(folder, signer(keys.first)).read_bytes()
    (other / SIGNATURE_FILE).write_bytes(signature)
    assert refused(other, keys.trusted) == "signature_wrong"
    manifest = (folder / "manifest.json").read_bytes()
    for spoiled in (manifest + b" ", manifest.replace(b'"synthetic"', b'"Synthetic"', 1)):
        (folder / "manifest.json").write_bytes(spoiled)
        assert refused(folder, keys.trusted) == "signature_wrong"
    (folder / "manifest.json").write_bytes(manifest)
    for spoiled in (b"", signature[:-1], signature + b"\n", bytes(64)):
        (folder / SIGNATURE_FILE).write_bytes(spoiled)
        assert refused(folder, keys.trusted) == "signature_wrong"


def test_openssl_agrees_with_a_signature(registry: Path, keys: SimpleNamespace) -> None:
    folder = registry / "synthetic" / "1"
    sign_bundle(folder, signer(keys.first))
    command = [
        "openssl",
        "pkeyutl",
        "-verify",
        "-inkey",
        keys.first,
        "-rawin",
        "-in",
        folder / "manifest.json",
        "-sigfile",
        folder / SIGNATURE_FILE,
    ]
    assert "Verified Successfully" in subprocess.run(command, capture_output=True, text=True).stdout


def test_what_does_not_have_the_hashes_of_its_manifest_is_not_signed(registry: Path, keys: SimpleNamespace) -> None:
    folder = registry / "synthetic" / "1"
    (folder / "report.html").write_text("another")
    with pytest.raises(PublishError, match="not signed: hash_mismatch"):
        sign_bundle(folder, signer(keys.first))
    assert not (folder / SIGNATURE_FILE).exists()


def test_only_signed_versions_are_taken_over_http_and_the_old_one_goes_on(
    tmp_path: Path, registry: Path, kit: SimpleNamespace, redis_server: EmbeddedRedis, store: Any, keys: SimpleNamespace
) -> None:
    signed = ("1", "2", "3")
    for version in ("2", "3", "4", "5"):
        kit.publish(registry, version, bias=float(version))
    for version in signed:
        sign_bundle(registry / "synthetic" / version, signer(keys.first))
    manifest = registry / "synthetic" / "3" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"architecture": "synthetic"', '"architecture": "tampered"'))
    sign_bundle(registry / "synthetic" / "4", signer(keys.other))
    bad = {"3": "signature_wrong", "4": "signature_wrong", "5": "signature_missing"}
    with kit.serving(tmp_path, registry, redis_server.url, trusted_keys=keys.trusted) as server:
        problems = {m["version"]: m.get("problem", "") for m in server.http.get("/models").json()["published"]}
        for version, code in bad.items():
            assert code in problems[version]
            ahead = server.put("/models/rollout", {"stable": {"name": "synthetic", "version": version}})
            assert (ahead.status_code, ahead.json()["code"]) == (422, "unusable_model")
            assert ahead.json()["detail"].startswith(code)
            kit.go_live(registry, version)  # by somebody whose command checks nothing
            kit.wait_until(lambda code=code, version=version: refusal(server) == (f"synthetic/{version}", code))
            assert server.rank(["1"]).json()["model"]["version"] == "1"
        assert server.put("/models/rollout", {"stable": {"name": "synthetic", "version": "2"}}).status_code == 200
        kit.wait_until(lambda: server.rank(["1"]).json()["model"]["version"] == "2")
        keys.trusted.write_bytes(b"withdrawn")
        detail = server.put("/models/rollout", {"stable": {"name": "synthetic", "version": "1"}}).json()["detail"]
        assert "trusted_keys_unusable" in detail
        assert "FUNNELRANK_TRUSTED_KEYS" in detail


def refusal(server: Any) -> tuple[str, str] | None:
    refusals = server.http.get("/models").json()["worker"]["refused"]
    return (refusals[0]["model"], refusals[0]["code"]) if refusals else None


def command(*arguments: Any, **settings: Any) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {f"FUNNELRANK_{k.upper()}": str(v) for k, v in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_rollout_command_refuses_ahead(registry: Path, kit: SimpleNamespace, keys: SimpleNamespace) -> None:
    folder = kit.publish(registry, "2")
    trusting = {"registry": registry, "trusted_keys": keys.trusted}
    before = (registry / "rollout.json").read_bytes()
    failed = command("service", "rollout", "synthetic", "2", **trusting)
    assert (failed.returncode, "signature_missing" in failed.stderr) == (1, True)
    assert f"python -m export.sign {folder}" in failed.stderr
    assert (registry / "rollout.json").read_bytes() == before
    assert "signed" in command("export.sign", folder, "--key", keys.first).stdout
    assert command("service", "rollout", "synthetic", "2", **trusting).returncode == 0


def test_keys_that_cannot_be_used_are_told_at_the_start_and_never_shown(
    registry: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    _, rsa = key_pair(tmp_path, "rsa", "RSA")
    broken = b"-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAo3nHbwV2PWoYhushhushhush\n-----END PUBLIC KEY-----\n"
    cases = {
        b"": "it holds no public key",
        b"hush": "it holds no public key",
        broken: "key 1 is no public key",
        rsa: "key 1 is of another kind than Ed25519",
        keys.trusted.read_bytes() + keys.first.read_bytes(): "key 3 is private",
    }
    secret = keys.first.read_text().splitlines()[1]
    for content, detail in cases.items():
        keys.trusted.write_bytes(content)
        failed = command("service", "serve", registry=registry, trusted_keys=keys.trusted)
        assert (failed.returncode, detail in failed.stderr, "FUNNELRANK_TRUSTED_KEYS" in failed.stderr) == (
            1,
            True,
            True,
        ), failed.stderr
        assert "Traceback" not in failed.stderr
        assert "hush" not in failed.stderr
        assert secret not in failed.stderr
    with pytest.raises(UntrustedBundle, match="No such file"):
        public_keys(tmp_path / "nowhere.pem")


def test_private_keys_that_cannot_be_used_are_told_and_never_shown(
    registry: Path, tmp_path: Path, keys: SimpleNamespace
) -> None:
    rsa, _ = key_pair(tmp_path, "rsa", "RSA")
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "pkey", "-in", keys.first, "-aes256", "-passout", "pass:hush", "-out", locked],
        check=True,
        capture_output=True,
    )
    (tmp_path / "rubbish.pem").write_text("hush")
    for path, detail in (
        (rsa, "another kind"),
        (locked, "passphrase"),
        (tmp_path / "rubbish.pem", "no private key"),
        (tmp_path / "gone.pem", "No such"),
    ):
        with pytest.raises(PublishError, match=detail) as error:
            signer(path)
        assert "hush" not in str(error.value)


def test_the_service_does_not_load_cryptography_where_no_keys_are_set(registry: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from service.bundle.loading import load_bundle\n"
        "import service.server.app, service.server.serve, funnelrank.commands.serving\n"
        "load_bundle(Path(sys.argv[1]), 1, 10); print('cryptography.hazmat.bindings._rust' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, registry / "synthetic" / "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
