"""A server of raw sockets that keeps every byte it was sent, for tests that count requests."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

JOB = {"process_id": 42, "filename": "a.csv", "current_status": "CANCELLING", "message": ""}


class RawRequest(NamedTuple):
    """One request as it came."""

    line: str
    head: bytes
    body: bytes


def reply(status: int = 200, body: object = JOB, *headers: str) -> bytes:
    """A framed answer; a body that is no bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(raw)}", "", ""]).encode() + raw


class RawServer:
    """Answers each request by ``answer(request, number on its connection)``; ``None`` hangs up."""

    def __init__(self, answer: Callable[[RawRequest, int], bytes | None]) -> None:
        self.requests: list[RawRequest] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[str]:
        """The request lines, without the HTTP version."""
        return [request.line for request in self.requests]

    def __enter__(self) -> RawServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # of a Mac, where a listener is not connected
            self._listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves accept() waiting
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            number = 0
            while True:
                request = _read(stream)
                if request is None:
                    return
                number += 1
                self.requests.append(request)
                answer = self._answer(request, number)
                if answer is None:
                    return
                try:
                    connection.sendall(answer)
                except OSError:
                    return


def _read(stream: object) -> RawRequest | None:
    read, readline = stream.read, stream.readline  # type: ignore[attr-defined]
    try:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = readline()
            if not line:
                return None
            head += line
        fields = dict(
            field.lower().split(b":", 1) for field in head.split(b"\r\n")[1:] if b":" in field
        )
        body = b""
        if b"chunked" in fields.get(b"transfer-encoding", b""):
            while not body.endswith(b"0\r\n\r\n"):
                line = readline()
                if not line:
                    return None
                body += line
        else:
            length = int(fields.get(b"content-length", b"0"))
            body = read(length)
            if len(body) < length:
                return None
    except OSError:
        return None
    return RawRequest(head.split(b" HTTP/")[0].decode(), head, body)
