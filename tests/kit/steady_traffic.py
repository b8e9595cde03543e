"""Sends requests to a service from several threads without a pause, while a test changes something."""

import itertools
import threading
from typing import Self

import fresh_http
import httpx


class SteadyTraffic:
    """Several clients, each with a connection of its own. A subclass says what a request is."""

    def __init__(self, url: str, clients: int) -> None:
        self._url = url
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,)) for client in range(clients)]

    def send(self, http: httpx.Client, number: int) -> None:
        """Send one request. All requests of all clients have different numbers: client 1 of 3 sends 1, 4, 7, ..."""
        raise NotImplementedError

    def _run(self, client: int) -> None:
        with fresh_http.client(base_url=self._url) as http:
            for number in itertools.count(client, len(self._threads)):
                if self._end.is_set():
                    return
                self.send(http, number)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
