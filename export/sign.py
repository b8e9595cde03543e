"""Owns signing: `manifest.sig` of a bundle, by a private key that stays with whoever publishes. `python -m export.sign` signs what exists."""

import argparse
import sys
from pathlib import Path

from export.publish import PublishError, Sign
from service.bundle.manifest import MANIFEST_FILE
from service.bundle.signature import SIGNATURE_FILE
from service.bundle.verify import BundleRejected, read_manifest, verified_files
from service.files import write_whole

_MAKE_ONE = """a key pair:
  openssl genpkey -algorithm ed25519 -out KEY.pem          # private: stays with whoever publishes
  openssl pkey -in KEY.pem -pubout >> TRUSTED.pem          # public: FUNNELRANK_TRUSTED_KEYS of the service
example:
  python -m export.sign registry/kuairand-mmoe/3 --key KEY.pem"""


def signer(path: Path) -> Sign:
    """Signs with the private key of a PEM file. Raises PublishError, which shows nothing of the file."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise PublishError(f"{path}: {error.strerror}") from None
    except TypeError:
        raise PublishError(
            f"{path} wants a passphrase; give a key without one: openssl pkey -in {path} -out KEY.pem"
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
    """Sign a published bundle whose files have the hashes that its manifest says; the signature's file. Raises PublishError."""
    try:
        manifest = read_manifest(folder.resolve())
        verified_files(folder, manifest)
        path = folder / SIGNATURE_FILE
        write_whole(path, sign((folder / MANIFEST_FILE).read_bytes()))
    except BundleRejected as error:
        raise PublishError(f"not signed: {error}") from None
    except OSError as error:
        raise PublishError(f"{folder}: {error.strerror}; not signed") from None
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m export.sign",
        description="Sign bundles that are published already, once their files have the hashes of their manifests.",
        epilog=_MAKE_ONE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "bundle", type=Path, nargs="+", metavar="BUNDLE", help="folder of a bundle: REGISTRY/NAME/VERSION"
    )
    parser.add_argument("--key", type=Path, required=True, metavar="KEY.pem", help="private Ed25519 key")
    arguments = parser.parse_args()
    try:
        sign = signer(arguments.key)
        for folder in arguments.bundle:
            print(f"signed      {sign_bundle(folder, sign)}")
    except PublishError as error:
        print(f"export.sign: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
