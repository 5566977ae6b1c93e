"""The server of the benchmarks: right answers, and as little of its own as can be measured.

``python server.py [SECONDS]`` prints its port and answers until it is ended, each request after so
many seconds. It reads no more than it must:
where a request ends, and which job it names.
"""

from __future__ import annotations

import asyncio
import re
import socket
import sys

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_JOB = re.compile(rb'/v2/jobs/(\d+)|"process_id": *(\d+)')
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_BODY = (
    b'{"process_id":%b,"filename":"%b.csv","current_status":"CANCELLING",'
    b'"message":"The job is being cancelled."}'
)


DELAY = float(sys.argv[1]) if len(sys.argv) > 1 else 0.0


def _answer(job: bytes) -> bytes:
    body = _BODY % (job, job)
    return _HEAD % len(body) + body


class _Connection(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head := self._received.find(b"\r\n\r\n")) >= 0:
            length = _LENGTH.search(self._received, 0, head + 2)
            end = head + 4 + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            job = _JOB.search(self._received, 0, end)
            found = (job[1] or job[2]) if job else b"0"
            if DELAY:
                asyncio.get_running_loop().call_later(DELAY, self._transport.write, _answer(found))
            else:
                self._transport.write(_answer(found))
            self._received = self._received[end:]


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
