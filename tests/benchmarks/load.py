"""Clients that keep a connection each and ask again at once: ``load.py PORT CLIENTS SECONDS``.

Prints JSON: answers, seconds, and what was no 200.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BODY = b'{"process_id": 42}'
_REQUEST = (
    b"POST /v1/cancel-process HTTP/1.1\r\nHost: 127.0.0.1\r\nx-key: rb_test_benchmark\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)
)


class _Client(asyncio.Protocol):
    answers = failures = 0
    stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""

    def ask(self) -> None:
        self._transport.write(_REQUEST)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        length = _LENGTH.search(self._received, 0, head + 2) if head >= 0 else None
        if length is None or len(self._received) < head + 4 + int(length[1]):
            return
        _Client.answers += 1
        _Client.failures += not self._received.startswith(b"HTTP/1.1 200 ")
        self._received = b""
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        _Client.failures += not _Client.stopping


async def _main(port: int, clients: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(_Client, "127.0.0.1", port) for _ in range(clients)]
    for _, client in made:
        client.ask()
    await asyncio.sleep(seconds / 3)  # the first requests make the connections to the upstream
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    before, began = _Client.answers, time.perf_counter()
    await asyncio.sleep(seconds)
    answers, took = _Client.answers - before, time.perf_counter() - began
    _Client.stopping = True
    sys.stdout.write(
        json.dumps({"answers": answers, "seconds": took, "failures": _Client.failures}) + "\n"
    )
    sys.stdout.flush()
    for transport, _ in made:
        transport.abort()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
