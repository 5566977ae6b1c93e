"""256 MiB up and down, through programs that are never told of us: streamed, and never held."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.environments import environment
from tests.support.programs import ALIVE, GONE, HERE, LIBRARIES

pytestmark = pytest.mark.slow

# Far more than may be held. Read at import: the tests run without REVENUEBASE_* variables.
MEGABYTES = int(os.environ.get("REVENUEBASE_COMPAT_TEST_MEGABYTES", "256"))
SIZE = MEGABYTES << 20
#: What may be held of it: buffers, and what a first request imports.
HELD = 32


class Server:
    """Sends and takes bodies of any size over raw sockets, and counts them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.heads: list[list[str]] = []
        self.sizes: list[int] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # It ends at a connection that asks for nothing.
        socket.create_connection(self._socket.getsockname()[:2], timeout=10).close()
        self._thread.join(60)
        self._socket.close()
        assert not self._thread.is_alive()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection, connection.makefile("rb", 1 << 20) as stream:
                connection.settimeout(60)
                head: list[str] = []
                while (line := stream.readline().decode("latin-1").strip()) and len(head) < 50:
                    head.append(line)
                if not head:
                    return
                self.heads.append(head)
                self.sizes.append(sum(self._body(head, stream)))
                if "download" in head[0]:
                    self._send_file(connection)
                else:
                    self._send(connection, "application/json", b'{"process_id": 1}')

    @staticmethod
    def _body(head: list[str], stream: Any) -> Iterator[int]:
        fields = {name.lower(): value for name, _, value in (one.partition(": ") for one in head)}
        left = int(fields.get("content-length", 0))
        while left:
            taken = len(stream.read(min(left, 1 << 20)))
            assert taken, "the connection was closed in the middle of a body"
            left -= taken
            yield taken
        while fields.get("transfer-encoding") == "chunked":
            size = int(stream.readline(), 16)
            yield len(stream.read(size))
            stream.readline()
            if not size:
                break

    @staticmethod
    def _send(connection: socket.socket, kind: str, body: bytes, length: int = 0) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n"
        if length:
            head += 'Content-Disposition: attachment; filename="large.csv"\r\n'
        head += f"Content-Length: {length or len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    def _send_file(self, connection: socket.socket) -> None:
        self._send(connection, "text/csv", b"", SIZE)
        block = bytes(1 << 20)
        for _ in range(MEGABYTES):
            connection.sendall(block)


def transfer(
    library: str, way: str, server: Server, under: Mapping[str, str]
) -> tuple[int, int, str | None, int]:
    python = environment(*LIBRARIES["recent"], with_library=True)
    us = [str(python.with_name("revenuebase-compat")), "run", "--strict", "--"]
    program = [str(python), str(HERE / "large.py"), library, way, str(MEGABYTES), server.url]
    done = subprocess.run(
        [*us, *program],
        env={"PATH": os.defpath, "REVENUEBASE_BASE_URL": server.url, **under},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    status, size, name, grown = json.loads(done.stdout)
    return status, size, name, grown


@pytest.mark.parametrize(("under", "version"), [(GONE, "v2"), (ALIVE, "v1")], ids=["v2", "v1"])
@pytest.mark.parametrize("library", ["requests", "httpx", "aiohttp"])
def test_an_upload_is_streamed(library: str, under: Mapping[str, str], version: str) -> None:
    with Server() as server:
        status, _, _, grown = transfer(library, "upload", server, under)
    path = {"v1": "/v1/batch-upload", "v2": "/v2/email/verify/batch"}[version]
    assert status == 200
    assert [head[0] for head in server.heads] == [f"POST {path}?metadata=true HTTP/1.1"]
    assert SIZE < server.sizes[0] < SIZE + 1024  # the form around it
    assert grown < HELD


@pytest.mark.parametrize(("under", "version"), [(GONE, "v2"), (ALIVE, "v1")], ids=["v2", "v1"])
@pytest.mark.parametrize("library", ["requests", "httpx", "aiohttp"])
def test_a_download_is_streamed(library: str, under: Mapping[str, str], version: str) -> None:
    with Server() as server:
        status, size, name, grown = transfer(library, "download", server, under)
    call = {"v1": "POST /v1/batch-download", "v2": "GET /v2/jobs/7/download"}[version]
    assert [head[0] for head in server.heads] == [f"{call} HTTP/1.1"]
    assert (status, size, name) == (200, SIZE, 'attachment; filename="large.csv"')
    assert grown < HELD
