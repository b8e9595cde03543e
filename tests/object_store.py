"""A small object store with S3's protocol and its conditional writes, which are atomic here, and with faults on demand.

moto's server is not used: in 5 of 120 races of 20 writers (moto 5.2.5), two of them passed the same condition.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from service.objects import copies

BUCKET = "models"
URI = f"s3://{BUCKET}/ranking"
PREFIX = "ranking/"


class ObjectStore:
    """The objects of one bucket. `fault` may answer a request (method, key) with a status instead of the store."""

    def __init__(self, port: int) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.fault: Callable[[str, str], int | None] = lambda _method, _key: None
        self.fault_body = b"<Error><Code>SlowDown</Code></Error>"
        self.after_writing = False  # whether a fault of a PUT is answered after the object was written
        self.lock = Lock()
        self.parts: dict[str, dict[int, bytes]] = {}
        self.environment = {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }

    def names(self) -> set[str]:
        """The names of the objects under the prefix."""
        with self.lock:
            return {key.removeprefix(PREFIX) for key in self.objects}

    def count(self, method: str, name: str, status: int | None = None) -> int:
        """How many requests there were for an object."""
        key = PREFIX + name
        return sum(r[0] == method and r[1] == key and status in (None, r[2]) for r in list(self.requests))


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def do_GET(self) -> None:
        key, query = self._request()
        if key == "" and "list-type" in query:
            self._list(query)
            return
        with self.store.lock:
            content = self.store.objects.get(key)
        if self._faulty(key):
            return
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        elif self.headers.get("If-None-Match") == etag_of(content):
            self._answer(304, etag=etag_of(content))
        elif self.headers.get("Range"):
            start, end = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            span = f"bytes {start}-{min(end, len(content) - 1)}/{len(content)}"
            self._answer(206, content[start : end + 1], etag_of(content), span)
        else:
            self._answer(200, content, etag_of(content))

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        key, query = self._request()
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.store.after_writing and self._faulty(key):
            return
        if "uploadId" in query:
            self.store.parts[query["uploadId"][0]][int(query["partNumber"][0])] = content
            self._answer(200, etag=etag_of(content))
            return
        with self.store.lock:
            refused = self._refused(self.store.objects.get(key))
            if not refused:
                self.store.objects[key] = content
        if refused:
            self._answer(refused, b"<Error><Code>PreconditionFailed</Code></Error>")
        elif not (self.store.after_writing and self._faulty(key)):
            self._answer(200, etag=etag_of(content))

    def do_POST(self) -> None:
        key, query = self._request()
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._faulty(key):
            return
        if "uploads" in query:
            upload = f"u{len(self.store.parts)}"
            self.store.parts[upload] = {}
            self._answer(200, f"<R><UploadId>{upload}</UploadId></R>".encode())
            return
        parts = self.store.parts[query["uploadId"][0]]
        content = b"".join(parts[number] for number in sorted(parts))
        with self.store.lock:
            self.store.objects[key] = content
        self._answer(200, f"<R><ETag>{escape(etag_of(content))}</ETag></R>".encode())

    def log_message(self, *_: object) -> None: ...

    def _request(self) -> tuple[str, dict[str, list[str]]]:
        parts = urlsplit(self.path)
        key = unquote(parts.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        return key, parse_qs(parts.query, keep_blank_values=True)

    def _refused(self, present: bytes | None) -> int:
        if self.headers.get("If-None-Match") == "*" and present is not None:
            return 412
        match = self.headers.get("If-Match")
        if match and present is None:
            return 404
        return 412 if match and present is not None and match != etag_of(present) else 0

    def _faulty(self, key: str) -> bool:
        status = self.store.fault(self.command, key.removeprefix(PREFIX))
        if status is None:
            return False
        self._answer(status, self.store.fault_body)
        return True

    def _list(self, query: dict[str, list[str]]) -> None:
        if self._faulty(""):
            return
        prefix = query.get("prefix", [""])[0]
        if "delimiter" not in query:
            self._list_all(prefix)
            return
        with self.store.lock:
            rests = [key.removeprefix(prefix) for key in self.store.objects if key.startswith(prefix)]
        folders = sorted({match[0] for rest in rests if (match := re.match(r"[^/]*/", rest))})
        listed = "".join(f"<CommonPrefixes><Prefix>{escape(prefix + f)}</Prefix></CommonPrefixes>" for f in folders)
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(folders)}</KeyCount>"
        text = f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{listed}</ListBucketResult>"
        self._answer(200, text.encode())

    def _list_all(self, prefix: str) -> None:
        with self.store.lock:
            objects = {key: value for key, value in self.store.objects.items() if key.startswith(prefix)}
        listed = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2025-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(etag_of(value))}</ETag><Size>{len(value)}</Size></Contents>"
            for key, value in objects.items()
        )
        head = f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(objects)}</KeyCount>"
        text = f"<ListBucketResult>{head}<IsTruncated>false</IsTruncated>{listed}</ListBucketResult>"
        self._answer(200, text.encode())

    def _answer(self, status: int, body: bytes = b"", etag: str = "", span: str = "") -> None:
        key, _ = self._request()
        self.store.requests.append((self.command, key, status))
        self.send_response(status)
        if etag:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        if span:
            self.send_header("Content-Range", span)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 304:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def object_store(port: int = 0) -> Iterator[ObjectStore]:
    """A store on a port of loopback."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", port), handler) as server:
        handler.store = store = ObjectStore(server.server_port)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        # A process opens each address once, and the store of another test had the same.
        copies._opened.cache_clear()
        try:
            yield store
        finally:
            copies._opened.cache_clear()
            server.shutdown()
            thread.join()
