"""Checks signatures of bundles: `manifest.sig`, Ed25519 (RFC 8032) over the bytes of `manifest.json`.

The keys are read again at each check, so that one can be added or removed while the service runs. `cryptography` is
imported only if keys are set.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from service.files import read_regular

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNATURE_FILE = "manifest.sig"
_MOST_BYTES = 1 << 20
_PEM = re.compile(rb"-----BEGIN ([A-Z ]+)-----.*?-----END \1-----", re.DOTALL)


class UntrustedBundle(Exception):  # noqa: N818 - a state, not a mistake
    """A manifest without a signature of a trusted key. `code` is meant for counters and programs, `detail`
    for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


def check_signature(folder: Path, manifest: bytes, trusted_keys: Path) -> None:
    """Raise UntrustedBundle unless `manifest.sig` is a signature of exactly these bytes by one of the keys."""
    from cryptography.exceptions import InvalidSignature

    keys = public_keys(trusted_keys)
    path = folder / SIGNATURE_FILE
    try:
        signature = read_regular(path, _MOST_BYTES)
    except FileNotFoundError:
        message = f"{path} does not exist, and only bundles signed by a key of {trusted_keys} are accepted"
        raise UntrustedBundle(
            "signature_missing", f"{message}; sign it: python -m export.sign {folder} --key KEY.pem"
        ) from None
    except OSError as error:
        raise UntrustedBundle("signature_missing", f"{path}: {error.strerror}") from None
    for key in keys:
        try:
            key.verify(signature, manifest)
        except InvalidSignature:
            continue
        return
    raise UntrustedBundle(
        "signature_wrong",
        f"{path} matches no key of {trusted_keys} and the present manifest ({len(keys)} tried)",
    )


def public_keys(path: Path) -> "list[Ed25519PublicKey]":
    """Read every key of a PEM file.

    Raises UntrustedBundle, whose message names the problem and quotes nothing of the file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    # A regular file of bounded size: a pipe would block the check.
    try:
        blocks = list(_PEM.finditer(read_regular(path, _MOST_BYTES)))
    except OSError as error:
        raise _unusable(path, error.strerror or "cannot be read") from None
    if not blocks:
        raise _unusable(path, "it holds no public key in PEM form")
    # One unusable key refuses the whole file, because a forgotten key would silently trust less than intended.
    keys = []
    for place, block in enumerate(blocks, 1):
        if b"PRIVATE" in block[1]:
            raise _unusable(
                path,
                f"key {place} is private and must not be on a machine that serves; "
                "openssl pkey -pubout makes its public key",
            )
        try:
            key = load_pem_public_key(block[0])
        except (ValueError, UnsupportedAlgorithm):
            raise _unusable(path, f"key {place} is no public key in PEM form") from None
        if not isinstance(key, Ed25519PublicKey):
            raise _unusable(path, f"key {place} is of another kind than Ed25519")
        keys.append(key)
    return keys


def _unusable(path: Path, why: str) -> UntrustedBundle:
    return UntrustedBundle("trusted_keys_unusable", f"{path}: {why} (FUNNELRANK_TRUSTED_KEYS)")
