"""HTTP requests and clients for tests, each on a new connection: httpx, with less CPU and longer timeouts.

httpx loads the certificates for https again for each client, which takes 20 ms of CPU. Polling a service in that way
would slow its start down.
"""

from functools import partial

import httpx

_PATIENT = {"verify": False, "timeout": 60}
get = partial(httpx.get, **_PATIENT)
post = partial(httpx.post, **_PATIENT)
put = partial(httpx.put, **_PATIENT)
client = partial(httpx.Client, **_PATIENT)
