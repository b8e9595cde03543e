"""Ranks a request on the service at URL: `helm test` runs this. Prints the answer; exits 1 if it is no ranking."""

import json
import os
import sys
import urllib.error
import urllib.request

URL = os.environ["URL"]
TOKEN = os.environ.get("FUNNELRANK_ADMIN_TOKEN", "")


def call(path: str, body: bytes | None = None) -> str:
    """The answer of a call. Ends the program with the problem's text if it is no success."""
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = f"Bearer {TOKEN}"
    request = urllib.request.Request(URL + path, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            sys.exit(f"{path}: {error.code} {error.read().decode()}")
    except OSError as error:
        sys.exit(f"{path}: {error}")


print(call("/readyz?verbose"))
print(json.dumps(json.loads(call("/rank", os.environ["REQUEST"].encode())), indent=2))
