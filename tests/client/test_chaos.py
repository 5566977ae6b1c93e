"""All at once, for a while: TLS, faults, threads, tasks, signals that raise, and forks.

What must hold: nothing hangs beyond its time, nothing is sent twice without need, no descriptor is
left, and what a call says of its job is what the server has.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from types import FrameType

import pytest
import trustme

from revenuebase_compat import (
    AlreadyCancelledError,
    AsyncClient,
    CancelError,
    CancelEvent,
    Client,
    Settings,
)
from tests.conftest import TEST_KEY
from tests.support.fault_server import (
    FaultServer,
    cut_body,
    drop,
    half_headers,
    hang,
    late,
    reset,
    respond,
    trickle_body,
)

FAULTS = [
    *(drop(), drop(applied=True), reset(), reset(applied=True), cut_body(applied=True)),
    *(half_headers(), hang(), hang(applied=True), trickle_body(applied=True), late(0.2)),
    *(respond(503), respond(500, applied=True), respond(429, headers={"Retry-After": "0"})),
]
TIMEOUT = 3.0
# Read at import: the tests themselves run without REVENUEBASE_* variables.
SECONDS = os.environ.get("REVENUEBASE_COMPAT_TEST_CHAOS", "20")


class TooLong(Exception):
    pass


@contextmanager
def tls_proxy(target: int, ca: trustme.CA) -> Iterator[int]:
    """Ends TLS before the fault server, and cuts a connection now and then."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    random = Random(7)  # noqa: S311

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                sink.sendall(data)
                if random.random() < 0.002:
                    break
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(raw: socket.socket) -> None:
        with suppress(OSError), raw:
            raw.settimeout(20)
            if random.random() < 0.02:
                return  # in the middle of the handshake
            with (
                context.wrap_socket(raw, server_side=True) as outer,
                socket.create_connection(("127.0.0.1", target), timeout=20) as inner,
            ):
                # One thread reads and one writes; OpenSSL admits that for one connection.
                back = threading.Thread(target=pump, args=(inner, outer), daemon=True)
                back.start()
                pump(outer, inner)
                back.join(20)

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                one, _ = listener.accept()
                threading.Thread(target=serve, args=(one,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


class Told:
    """What calls said of their jobs."""

    def __init__(self) -> None:
        self.cancelled: set[int] = set()
        self.failed: dict[int, CancelError] = {}
        self.interrupted: set[int] = set()
        self.slowest = 0.0
        self.events: list[CancelEvent] = []
        self.ids = count(1)

    def note(self, job: int, began: float, error: BaseException | None) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)
        if error is None:
            self.cancelled.add(job)
        elif isinstance(error, CancelError):
            self.failed[job] = error
        else:
            self.interrupted.add(job)


def in_threads(client: Client, told: Told, until: float) -> None:
    while time.monotonic() < until:
        job, began = next(told.ids), time.monotonic()
        try:
            client.cancel_job(job)
        except CancelError as error:
            told.note(job, began, error)
        else:
            told.note(job, began, None)


async def in_tasks(made: Settings, told: Told, until: float) -> None:
    async def work(client: AsyncClient) -> None:
        while time.monotonic() < until:
            job, began = next(told.ids), time.monotonic()
            try:
                await client.cancel_job(job)
            except CancelError as error:
                told.note(job, began, error)
            else:
                told.note(job, began, None)

    async with AsyncClient(made, max_connections=50) as client:
        await asyncio.gather(*(work(client) for _ in range(200)))


def in_signals(client: Client, told: Told, until: float, random: Random) -> None:
    """The main thread's calls, some of which a signal handler ends."""
    armed = False

    def handler(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TooLong

    before = signal.signal(signal.SIGALRM, handler)
    try:
        while time.monotonic() < until:
            job, began = next(told.ids), time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.5))
            try:
                armed = True
                client.cancel_job(job)
                armed = False
            except (CancelError, TooLong) as error:
                armed = False
                told.note(job, began, error)
            else:
                told.note(job, began, None)
            if random.random() < 0.02:
                signal.setitimer(signal.ITIMER_REAL, 0)
                forked(client, next(told.ids), told)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forked(client: Client, job: int, told: Told) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(20)  # a child that hangs says where, and dies of it
        with suppress(BaseException):
            try:
                client.cancel_job(job)
                code = 0
            except CancelError:
                code = 3
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 3), f"a forked child ended with {code}"
    (told.cancelled if code == 0 else told.interrupted).add(job)


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@pytest.mark.slow
def test_chaos(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.test_chaos", SECONDS, str(tmp_path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=float(SECONDS) + 120,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    print(done.stdout)


def main(seconds: float, folder: Path) -> None:
    faulthandler.dump_traceback_later(seconds + 60, exit=True)
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    os.environ["SSL_CERT_FILE"] = str(folder / "ca.pem")
    told, random = Told(), Random(11)  # noqa: S311
    with FaultServer() as server, tls_proxy(server.port, ca) as port:
        server.chance(0.08, FAULTS, seed=5)
        made = Settings(
            TEST_KEY,
            base_url=f"https://localhost:{port}",
            api_version="v2",
            timeout=TIMEOUT,
            on_event=told.events.append,
        )
        client = Client(made)
        before = descriptors()
        # Struck amid an import, Python may keep its import lock for ever, in any program: what is
        # imported late is here already when the signals come.
        in_threads(client, told, time.monotonic() + 1)
        asyncio.run(in_tasks(made, told, time.monotonic() + 1))
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=in_threads, args=(client, told, until), daemon=True)
            for _ in range(8)
        ]
        threads.append(
            threading.Thread(target=lambda: asyncio.run(in_tasks(made, told, until)), daemon=True)
        )
        for thread in threads:
            thread.start()
        in_signals(client, told, until, random)
        for thread in threads:
            thread.join(TIMEOUT * 4)
            assert not thread.is_alive(), "a call hangs beyond its time"
        client.close()
        deadline = time.monotonic() + 25
        while server.open_connections and time.monotonic() < deadline:
            time.sleep(0.05)
        left = descriptors() - before
        applied, seen = set(server.applied), Counter(one.process_id for one in server.seen)
    for job in told.cancelled:
        assert job in applied, f"job {job} was said to be cancelled"
    for job, error in told.failed.items():
        known = isinstance(error, AlreadyCancelledError) or error.outcome_unknown
        assert known or job not in applied, f"job {job}: {error!r}"
        if not error.outcome_unknown and error.attempts == 0:
            assert job not in seen
    attempts = Counter[int]()
    for event in told.events:
        attempts[event.process_id] += event.attempts
    reads = Counter(one.process_id for one in server.seen if one.route == "status")
    for job, times in attempts.items():
        assert seen[job] - reads[job] <= times, f"job {job} was sent more often than tried"
    assert told.slowest < TIMEOUT + 2, told.slowest
    assert left < 20, f"{left} descriptors are left"
    print(
        f"{len(told.cancelled)} cancelled, {len(told.failed)} failed, "
        f"{len(told.interrupted)} interrupted; slowest {told.slowest:.2f} s; {left} descriptors"
    )


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
