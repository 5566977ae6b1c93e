"""The server, and places where there is none."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BufferedReader
from random import Random
from types import TracebackType
from typing import Literal

from .faults import ENVELOPES, HEALTHY, End, Exchange, Fault, RecordedRequest, job_body

RouteName = Literal["cancel", "status"]
VersionName = Literal["v1", "v2"]

HOST = "127.0.0.1"

_ROUTES: tuple[tuple[str, VersionName, RouteName, str], ...] = (
    ("POST", "v1", "cancel", r"/v1/cancel-process"),
    ("POST", "v1", "status", r"/v1/batch-process-email-status"),
    ("POST", "v2", "cancel", r"/v2/jobs/([^/]+)/cancel"),
    ("GET", "v2", "status", r"/v2/jobs/([^/]+)"),
)


def _asked_for(path: str, body: bytes) -> tuple[str, str, int | None, str]:
    """API version, route, process id and the one method allowed there."""
    for method, version, route, pattern in _ROUTES:
        if match := re.fullmatch(pattern, path.partition("?")[0]):
            if version == "v1":
                return version, route, _id_in(body), method
            text = match[1]
            known = text.isascii() and text.isdigit()
            return version, route, int(text) if known else None, method
    return "", "", None, ""


def _id_in(body: bytes) -> int | None:
    try:
        process_id = json.loads(body)["process_id"]
    except (ValueError, LookupError, TypeError):
        return None
    return process_id if type(process_id) is int else None


@dataclass(frozen=True)
class _For:
    route: RouteName | None = None
    version: VersionName | None = None

    def fits(self, seen: RecordedRequest) -> bool:
        return self.route in (None, seen.route) and self.version in (None, seen.version)


class FaultServer:
    def __init__(self) -> None:
        self.jobs: dict[int, str] = {}  # a job not named here is QUEUED
        self.missing: set[int] = set()  # no such job, or not yours
        self.envelope = "detail.error"  # how a 400 is worded: a key of ENVELOPES
        self.applied: list[int] = []
        self.seen: list[RecordedRequest] = []
        self.connections = 0
        self.port = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._scripts: dict[int | None, list[tuple[_For, deque[Fault]]]] = {}
        self._always: list[tuple[_For, Fault]] = []
        self._chance: tuple[_For, float, tuple[Fault, ...], Random] | None = None

    # --- what it shall do ---

    def script(
        self,
        *faults: Fault,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """The next requests that fit get these faults, one each, in order of arrival."""
        self._queue(None, faults, _For(route, version))

    def script_for(
        self,
        process_id: int,
        *faults: Fault,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """The same for the requests of one job; it goes before every other script."""
        self._queue(process_id, faults, _For(route, version))

    def always(
        self,
        fault: Fault,
        *,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """From now on, once no script fits; the latest that fits wins."""
        with self._lock:
            self._always.insert(0, (_For(route, version), fault))

    def chance(
        self,
        probability: float,
        faults: Sequence[Fault],
        seed: int,
        *,
        route: RouteName | None = None,
        version: VersionName | None = None,
    ) -> None:
        """Where nothing else fits: one of these faults now and then."""
        with self._lock:
            random = Random(seed)  # noqa: S311
            self._chance = (_For(route, version), probability, tuple(faults), random)

    def heal(self) -> None:
        """Forget every fault."""
        with self._lock:
            self._scripts.clear()
            self._always.clear()
            self._chance = None

    def _queue(self, process_id: int | None, faults: Sequence[Fault], which: _For) -> None:
        with self._lock:
            self._scripts.setdefault(process_id, []).append((which, deque(faults)))

    # --- its life ---

    @property
    def base_url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def __enter__(self) -> FaultServer:
        self._listener = socket.create_server((HOST, 0), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close everything and wait for every thread; a second call does nothing."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        with suppress(OSError):  # closing a listener does not wake its accept() everywhere
            socket.create_connection((HOST, self.port), timeout=1).close()
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
            if thread.is_alive():
                raise RuntimeError("a connection of the fault server outlives it")

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._stopping.is_set():
                sock.close()
                return
            with self._lock:
                self.connections += 1
                self._open.add(sock)
                number = self.connections
            thread = threading.Thread(target=self._serve, args=(sock, number), daemon=True)
            self._threads = [old for old in self._threads if old.is_alive()]
            self._threads.append(thread)
            thread.start()

    # --- one connection ---

    def _serve(self, sock: socket.socket, number: int) -> None:
        reader = sock.makefile("rb")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (end := self._turn(sock, reader, number)) is End.KEEP:
                pass
            if end is End.HANG:
                while reader.read1(2**16):
                    pass
            elif end is End.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                # A plain close would say nothing while a forked child holds a copy.
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client has gone, or stop() was called
        finally:
            with self._lock:
                self._open.discard(sock)
                reader.close()
                sock.close()

    def _turn(self, sock: socket.socket, reader: BufferedReader, number: int) -> End:
        if not reader.peek(1):
            return End.CLOSE
        fault = self._pick_early()
        if fault:
            self._send(sock, fault, self._exchange(RecordedRequest(), apply=False))
            if fault.end is not End.KEEP:
                return fault.end
        seen = _read_request(reader, number)
        if seen is None:
            return End.CLOSE
        with self._lock:
            chosen = fault or self._pick(seen)
            self.seen.append(replace(seen, fault=chosen.title))
        exchange = self._exchange(seen, apply=chosen.applied)
        if not fault:
            self._send(sock, chosen, exchange)
        asked_to_close = seen.headers.get("connection", "").lower() == "close"
        return End.CLOSE if asked_to_close and chosen.end is End.KEEP else chosen.end

    def _send(self, sock: socket.socket, fault: Fault, exchange: Exchange) -> None:
        if fault.delay and self._stopping.wait(fault.delay):
            raise ConnectionAbortedError
        for piece in fault.write(exchange):
            sock.sendall(piece)
            if fault.interval and self._stopping.wait(fault.interval):
                raise ConnectionAbortedError

    def _pick_early(self) -> Fault | None:
        with self._lock:
            for which, faults in self._scripts.get(None, ()):
                if faults:
                    first = which == _For() and faults[0].early
                    return faults.popleft() if first else None
        return None

    def _pick(self, seen: RecordedRequest) -> Fault:
        for key in (seen.process_id, None):
            for which, faults in self._scripts.get(key, ()):
                if faults and which.fits(seen):
                    return faults.popleft()
        for which, fault in self._always:
            if which.fits(seen):
                return fault
        if self._chance:
            which, probability, choices, random = self._chance
            if which.fits(seen) and random.random() < probability:
                return random.choice(choices)
        return HEALTHY

    # --- the API itself ---

    def _exchange(self, seen: RecordedRequest, *, apply: bool) -> Exchange:
        with self._lock:
            status, content = self._answer(seen, apply=apply)
            process_id = seen.process_id or 0
            current = self.jobs.get(process_id, "QUEUED")
        if isinstance(content, dict) and "process_id" in content:
            job = content
        else:
            job = job_body(process_id, current)
        return Exchange(seen, status, content, job, self.port)

    def _answer(self, seen: RecordedRequest, *, apply: bool) -> tuple[int, object]:
        process_id = seen.process_id
        *_, method = _asked_for(seen.path, seen.body)
        if not seen.route:
            return 404, {"detail": "Not Found"}
        if seen.method != method:
            return 405, {"detail": "Method Not Allowed"}
        if not (seen.key or "").strip():
            return 401, {"detail": "Not authenticated"}
        if process_id is None:
            where = ["body" if seen.version == "v1" else "path", "process_id"]
            message = "Input should be a valid integer"
            return 422, {"detail": [{"loc": where, "msg": message, "type": "int_parsing"}]}
        if process_id < 1 or process_id in self.missing:
            return 400, {"detail": "Invalid process_id"}
        current = self.jobs.setdefault(process_id, "QUEUED")
        if seen.route == "status":
            return 200, job_body(process_id, current)
        refuse = ENVELOPES[self.envelope]
        if current in ("CANCELLING", "CANCELLED"):
            return 400, refuse("already_cancelled", "Job is already cancelled.")
        if current in ("COMPLETED", "ERROR"):
            return 400, refuse("not_cancellable", f"A job that is {current} is not cancellable.")
        if apply:
            self.jobs[process_id] = "CANCELLING"
            self.applied.append(process_id)
        return 200, job_body(process_id)


def _read_request(reader: BufferedReader, number: int) -> RecordedRequest | None:
    """None where the client hung up, or does not speak HTTP."""
    words = reader.readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers: dict[str, str] = {}
    while (line := reader.readline().decode("latin-1")) not in ("\r\n", ""):
        name, _, value = line.partition(":")
        name, value = name.strip().lower(), value.strip("\r\n \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    length = headers.get("content-length", "0")
    if not line or not length.isdigit():
        return None
    body = reader.read(int(length))
    if len(body) < int(length):
        return None
    version, route, process_id, _ = _asked_for(words[1], body)
    return RecordedRequest(
        method=words[0],
        path=words[1],
        version=version,
        route=route,
        process_id=process_id,
        headers=headers,
        body=body,
        key=headers.get("x-key"),
        connection=number,
    )


# --- places where there is no server ----------------------------------------------------------


@contextmanager
def refusing() -> Iterator[str]:
    """A base URL that refuses every connection; the port stays ours meanwhile."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        yield f"http://{HOST}:{sock.getsockname()[1]}"


@contextmanager
def unreachable() -> Iterator[str]:
    """A base URL where connecting takes for ever: its queue is full (Linux)."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind((HOST, 0))
        listener.listen(0)
        for sock in (first, second):
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(listener.getsockname())
        yield f"http://{HOST}:{listener.getsockname()[1]}"
