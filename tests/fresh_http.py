"""HTTP requests on a connection of their own, and clients, for tests: those of httpx, cheap and patient.

httpx loads the certificates for https anew for each client, which takes 20 ms of a processor. Polling a service in that
way would slow its start down.
"""

from functools import partial

import httpx

_PATIENT = {"verify": False, "timeout": 60}
get = partial(httpx.get, **_PATIENT)
post = partial(httpx.post, **_PATIENT)
put = partial(httpx.put, **_PATIENT)
client = partial(httpx.Client, **_PATIENT)
