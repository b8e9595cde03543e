"""How the protocols of object stores differ: conditions, versions of an object, lists, and variables of the client."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

BUCKET = "models"
_CHANGED = "2025-01-01T00:00:00.000Z"
_CHANGED_HTTP = "Wed, 01 Jan 2025 00:00:00 GMT"


@dataclass(frozen=True)
class StoredVersion:
    """An object as it is: its content and how many writes the store has had, this one included."""

    content: bytes
    generation: int


class S3:
    """S3: an ETag is the hash of the content, so the same content has the same ETag again."""

    scheme = "s3"
    written = 200
    exists = 412  # the answer to a creation of what is there

    def environment(self, endpoint: str) -> dict[str, str]:
        """The variables by which the client finds the store."""
        keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
        return {"AWS_ENDPOINT": endpoint, "AWS_REGION": "us-east-1", **keys}

    def etag(self, version: StoredVersion) -> str:
        return f'"{hashlib.md5(version.content, usedforsecurity=False).hexdigest()}"'

    def headers(self, version: StoredVersion) -> dict[str, str]:
        """The headers of an answer about an object."""
        return {"ETag": self.etag(version), "Last-Modified": _CHANGED_HTTP}

    def refused(self, headers: Mapping[str, str], present: StoredVersion | None) -> int:
        """The status with which a write is refused; 0 if its condition holds."""
        if headers.get("If-None-Match") == "*" and present is not None:
            return self.exists
        match = headers.get("If-Match")
        if match and present is None:
            return 404
        return 412 if match and present is not None and match != self.etag(present) else 0

    def listing(self, prefix: str, folders: Sequence[str], objects: Mapping[str, StoredVersion]) -> str:
        """The answer to a list."""
        entries = "".join(f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders)
        for key, version in objects.items():
            entries += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{_CHANGED}</LastModified>"
                f"<ETag>{escape(self.etag(version))}</ETag><Size>{len(version.content)}</Size></Contents>"
            )
        count = len(folders) + len(objects)
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{count}</KeyCount>"
        return f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"


class GoogleCloudStorage(S3):
    """The XML protocol of Google Cloud Storage: S3's, but conditions of writes name the generation of the object."""

    scheme = "gs"

    def environment(self, endpoint: str) -> dict[str, str]:
        unused = dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        key = json.dumps({"gcs_base_url": endpoint, "disable_oauth": True, **unused})
        return {"GOOGLE_SERVICE_ACCOUNT_KEY": key}

    def headers(self, version: StoredVersion) -> dict[str, str]:
        return super().headers(version) | {"x-goog-generation": str(version.generation)}

    def refused(self, headers: Mapping[str, str], present: StoredVersion | None) -> int:
        match = headers.get("x-goog-if-generation-match")
        generation = 0 if present is None else present.generation
        return 412 if match is not None and int(match) != generation else 0


class AzureBlobStorage(S3):
    """Azure Blob Storage: every write gives another ETag, which has no quotes in lists; a creation of what is there is
    a conflict (409).
    """

    scheme = "az"
    written = 201
    exists = 409

    def environment(self, endpoint: str) -> dict[str, str]:
        account = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "eA=="}
        return {"AZURE_STORAGE_ENDPOINT": endpoint, **account}

    def etag(self, version: StoredVersion) -> str:
        return f'"0x{version.generation:X}"'

    def refused(self, headers: Mapping[str, str], present: StoredVersion | None) -> int:
        return 412 if headers.get("If-Match") and present is None else super().refused(headers, present)

    def listing(self, prefix: str, folders: Sequence[str], objects: Mapping[str, StoredVersion]) -> str:
        entries = "".join(f"<BlobPrefix><Name>{escape(folder)}</Name></BlobPrefix>" for folder in folders)
        for key, version in objects.items():
            etag = self.etag(version).strip('"')
            properties = (
                f"<Last-Modified>{_CHANGED_HTTP}</Last-Modified><Etag>{etag}</Etag>"
                f"<Content-Length>{len(version.content)}</Content-Length><Content-Type>a/b</Content-Type>"
            )
            entries += f"<Blob><Name>{escape(key)}</Name><Properties>{properties}</Properties></Blob>"
        head = f"<Prefix>{escape(prefix)}</Prefix>"
        return f"<EnumerationResults>{head}<Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>"


DIALECTS = {dialect.scheme: dialect for dialect in (S3(), GoogleCloudStorage(), AzureBlobStorage())}
