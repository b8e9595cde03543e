"""Calls a URL, and waits until a started process answers at one."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import Any

_POLL_S = 0.05


class NotReadyError(RuntimeError):
    """A process has ended, or did not answer before its deadline."""


def call(method: str, url: str, body: Any = None, token: str | None = None, timeout_s: float = 10.0) -> tuple[int, Any]:
    """Return the status and body of an answer.

    `body` is sent as JSON; bytes are sent unchanged. The answer is parsed if it is JSON, otherwise returned as text. If
    there is no answer, the status is 0 and the body says why.
    """
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=data, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:  # nosec B310 # the caller's own URL
            return answer.status, _parsed(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _parsed(error.read())
    except (OSError, HTTPException) as error:
        return 0, str(error)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def wait_until_ready(process: "subprocess.Popen[Any]", url: str, seconds: float, name: str = "the service") -> None:
    """Return when `url` answers 200. Raises NotReadyError if the process ends, or after `seconds`."""
    end = time.monotonic() + seconds
    problem: Any = "no answer"
    while time.monotonic() < end:
        if process.poll() is not None:
            raise NotReadyError(f"{name} ended with exit code {process.returncode}; its log says why")
        status, problem = call("GET", url, timeout_s=2)
        if status == 200:
            return
        time.sleep(_POLL_S)
    raise NotReadyError(f"{name} is not ready after {seconds:g} s: {problem}")
