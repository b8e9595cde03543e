"""Signs bundles: writes `manifest.sig` with a private key that only the publisher has."""

import runpy
import sys
from pathlib import Path

from export.publish import PublishError, Sign
from features.files.writing import write_whole
from service.addresses.registry_address import shown
from service.bundle.fetching import put_signature
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.signature import SIGNATURE_FILE
from service.bundle.verify import BundleRejected, read_manifest, verified_files


def signer(path: Path) -> Sign:
    """Return a function that signs with the private key of a PEM file. Raises PublishError, which quotes nothing of the
    file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror}") from None
    except TypeError:
        raise PublishError(
            f"{path} needs a passphrase; give a key without one: openssl pkey -in {path} -out KEY.pem"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise PublishError(
            f"{path} is no private key in PEM form; make one: openssl genpkey -algorithm ed25519 -out KEY.pem"
        ) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise PublishError(
            f"{path} is a key of another kind than Ed25519; make one: openssl genpkey -algorithm ed25519 -out KEY.pem"
        )
    return key.sign


def sign_bundle(folder: Path, sign: Sign) -> Path:
    """Sign a published bundle whose files have the hashes of its manifest; return the signature's file.

    Raises PublishError.
    """
    try:
        manifest = read_manifest(folder.resolve())
        verified_files(folder, manifest)
        path = folder / SIGNATURE_FILE
        write_whole(path, sign((folder / MANIFEST_FILE).read_bytes()))
        put_signature(folder)
    except BundleRejected as error:
        raise PublishError(f"not signed: {error}") from None
    except OSError as error:
        raise PublishError(f"{shown(folder)}: {error.strerror}; not signed") from None
    return path


if __name__ == "__main__":  # `python -m export.sign` is `funnelrank sign`
    sys.argv.insert(1, "sign")
    runpy.run_module("funnelrank", run_name="__main__")
