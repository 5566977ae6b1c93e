"""Calls that end otherwise than planned: Ctrl-C, cancelled tasks, closed clients, forks, exits.

Whatever comes in between, it is not swallowed, no connection is left to the garbage collector,
and the next call works. Some programs run in a process of their own (``python -m
tests.client.test_interrupts NAME``), as what they look for would hang the tests.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import os
import resource
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import revenuebase_compat
from revenuebase_compat import (
    AsyncClient,
    CancelError,
    CancelResult,
    CancelTimeoutError,
    Client,
    ConfigurationError,
    Settings,
    TransportError,
)
from revenuebase_compat.client.process import import_late, is_unfinished
from tests.conftest import TEST_KEY
from tests.support.fault_server import (
    End,
    Exchange,
    Fault,
    FaultServer,
    hang,
    late,
    too_many,
    trickle_body,
    trickle_headers,
    unreachable,
)

#: What a busy machine may add to a wait, in seconds. Eight addresses of 0.3 s each take longer.
LATE = 1.5

HANDSHAKE_OF_16_KIB = b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb" + b"\0" * 2**14


def settings(base_url: str, timeout: float = 5.0, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=base_url, api_version="v2", timeout=timeout, **more)


def call_sync(given: Settings) -> CancelResult:
    with Client(given, random=lambda: 0.01) as client:
        return client.cancel_job(42)


def call_async(given: Settings) -> CancelResult:
    async def main() -> CancelResult:
        async with AsyncClient(given, random=lambda: 0.01) as client:
            return await client.cancel_job(42)

    return asyncio.run(main())


Call = Callable[[Settings], CancelResult]
DRIVERS = pytest.mark.parametrize(
    "call", [pytest.param(call_sync, id="sync"), pytest.param(call_async, id="async")]
)


def wait_for(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 3
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


@contextmanager
def no_collector() -> Iterator[None]:
    """What is left to the garbage collector stays open in here, and is warned of here, too.

    A socket that was collected in a later test would be that one's failure.
    """
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


@contextmanager
def interrupted(after: float) -> Iterator[None]:
    def ctrl_c(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ctrl_c)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Mute:
    """Accepts connections and never speaks TLS; ``words`` go out byte by byte."""

    def __init__(self, words: bytes = b"") -> None:
        self.accepted = self.ended = 0
        self._words = words
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Mute:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            for byte in self._words:
                connection.sendall(bytes([byte]))
                time.sleep(0.01)
            while connection.recv(2**16):
                pass
        self.ended += 1


# --- Ctrl-C -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "still_open"),
    [
        pytest.param(hang(), 0, id="no answer"),
        pytest.param(trickle_headers(), 0, id="headers"),
        pytest.param(trickle_body(), 0, id="body"),
        pytest.param(too_many(Retry_After="1"), 1, id="pause"),
    ],
)
def test_ctrl_c(fault: Fault, still_open: int) -> None:
    with FaultServer() as server, no_collector():
        with Client(settings(server.base_url)) as client:
            client.cancel_job(1)
            server.script(fault)
            with pytest.raises(KeyboardInterrupt), interrupted(after=0.05):
                client.cancel_job(2)
            assert wait_for(lambda: server.open_connections == still_open)
            assert client.cancel_job(3).process_id == 3
        assert wait_for(lambda: server.open_connections == 0)


# Python itself does not close a socket whose handshake is interrupted: we can but end it.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket")
def test_ctrl_c_in_a_tls_handshake() -> None:
    with Mute() as server, no_collector(), Client(settings(server.base_url)) as client:
        # On a busy machine the first one may come before the connection.
        while not server.accepted:
            with pytest.raises(KeyboardInterrupt), interrupted(after=0.1):
                client.cancel_job(1)
        assert wait_for(lambda: server.accepted == server.ended == 1)


def run_program(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.test_interrupts", name, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


PACKAGE = str(Path(revenuebase_compat.__file__).parent)


def is_ours(frame: FrameType | None) -> bool:
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def test_ctrl_c_at_every_step() -> None:
    """Python lets a signal in whenever a function is entered: nothing may stay locked."""
    assert int(run_program("interrupt_every_step")) > 50


def interrupt_every_step() -> None:
    """Interrupts calls at their first function, their second, and so on; prints how many."""
    left = 0

    def trace(frame: FrameType, event: str, argument: object) -> None:
        # Not what httpcore calls in turn: it has interrupts of its own to care for.
        nonlocal left
        if event == "call" and (is_ours(frame) or is_ours(frame.f_back)):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt

    with FaultServer() as server, Client(settings(server.base_url, timeout=0.5)) as client:
        client.cancel_job(1)
        for step in range(1, 10_000):
            left = step
            sys.settrace(trace)
            try:
                client.cancel_job(2 * step)
            except KeyboardInterrupt:
                pass
            else:
                break
            finally:
                sys.settrace(None)
            assert client.cancel_job(2 * step + 1).process_id == 2 * step + 1
        gc.collect()
        # Where the interrupt fell into the clearing up, a connection lives on to its deadline.
        assert wait_for(lambda: server.open_connections == 1)
    print(step)


@pytest.mark.parametrize("by", ["itself", "a thread"])
def test_a_signal_handler_may_cancel_a_job_amid_another(by: str) -> None:
    """As programs do that cancel what they started once they are told to end."""
    assert int(run_program("handle_at_every_step", by)) > 100


def handle_at_every_step(by: str) -> None:
    """As a signal handler would, cancels a job at each line of another call; prints how many."""
    left = 0

    def strike() -> None:
        if by == "itself":
            client.cancel_job(2 * step)
            return
        thread = threading.Thread(target=client.cancel_job, args=[2 * step], daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "it waits for a lock that this thread holds"

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal left
        if not is_ours(frame):
            return None
        left -= 1
        if left == 0:
            sys.settrace(None)
            strike()
        return trace

    with FaultServer() as server, Client(settings(server.base_url)) as client:
        client.cancel_job(1)
        for step in range(1, 10_000):
            left = step
            sys.settrace(trace)
            try:
                client.cancel_job(2 * step + 1)
            finally:
                sys.settrace(None)
            if left > 0:
                break
        assert wait_for(lambda: server.open_connections <= 3)
        assert sorted(server.applied) == [*range(1, 2 * step), 2 * step + 1], "each once"
    print(step)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_or_a_handler_amid_the_first_call_is_told_what_to_do() -> None:
    """httpx is imported by it: the child could wait for ever, the handler would find half of it."""
    with FaultServer() as server:
        run_program("call_amid_the_first", server.base_url)
        assert server.applied == [1]


def call_amid_the_first(base_url: str) -> None:
    here, client = threading.Event(), Client(settings(base_url))

    class Slow:
        """A finder that forks, and calls, while httpx is being imported."""

        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            if name != "httpx._api" or here.is_set():
                return
            here.set()
            with pytest.raises(ConfigurationError, match="import httpx and httpcore when"):
                client.cancel_job(2)
            time.sleep(0.2)

    sys.meta_path.insert(0, Slow())
    first = threading.Thread(target=client.cancel_job, args=[1])
    first.start()
    assert here.wait(10)
    if not (child := os.fork()):
        signal.alarm(10)
        with pytest.raises(ConfigurationError, match="import httpx and httpcore when"):
            client.cancel_job(3)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    first.join(10)


def test_a_handler_just_after_an_import_of_a_call_finds_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "imported_late.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    found: list[object] = []

    def strike(frame: FrameType, event: str, _: object) -> Any:
        module = sys.modules.get("imported_late")
        if module is not None and not is_unfinished(module) and not found:
            found.append(None)
            found.append(import_late("imported_late"))
        return strike

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: strike if frame.f_code is import_late.__code__ else None)
    try:
        made = import_late("imported_late")
    finally:
        sys.settrace(before)
        sys.modules.pop("imported_late", None)
    assert found == [None, made]


# --- the end of the program -------------------------------------------------------------------


def test_a_job_can_be_cancelled_at_exit() -> None:
    """Python 3.12 starts no thread any more by then."""
    with FaultServer() as server:
        assert run_program("cancel_at_exit", server.base_url) == "CANCELLING\n"
        assert server.applied == [42]


def cancel_at_exit(base_url: str) -> None:
    atexit.register(lambda: print(call_sync(settings(base_url)).current_status))


# --- cancelled tasks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        None,
        hang(),
        pytest.param(trickle_body(), marks=pytest.mark.slow),
        pytest.param(too_many(Retry_After="1"), marks=pytest.mark.slow),
    ],
    ids=lambda f: f and f.title,
)
def test_a_task_cancelled_at_every_step(fault: Fault | None) -> None:
    async def main(server: FaultServer) -> int:
        cancelled = 0
        for turns in range(60):
            async with AsyncClient(settings(server.base_url, timeout=2)) as client:
                if turns % 2:  # the connection is there already
                    await client.cancel_job(1000 + turns)
                if fault:
                    server.script_for(turns + 1, fault)
                task = asyncio.ensure_future(client.cancel_job(turns + 1))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.wait([task])
                cancelled += task.cancelled()
                # On Python 3.10 anyio, below httpx, loses what comes right after connecting.
                assert task.cancelled() or not fault or sys.version_info < (3, 11)
                assert (await client.cancel_job(2000 + turns)).process_id == 2000 + turns
        return cancelled

    with FaultServer() as server, no_collector():
        assert asyncio.run(main(server)) > 5
        assert wait_for(lambda: server.open_connections == 0)


def test_a_task_cancelled_in_a_tls_handshake() -> None:
    async def main(server: Mute) -> None:
        async with AsyncClient(settings(server.base_url)) as client:
            task = asyncio.ensure_future(client.cancel_job(42))
            await asyncio.to_thread(wait_for, lambda: server.accepted == 1)
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await asyncio.to_thread(wait_for, lambda: server.ended == 1)
            assert server.ended == 1

    with Mute() as server, no_collector():
        asyncio.run(main(server))


def test_a_timeout_of_the_caller() -> None:
    async def main(server: FaultServer) -> None:
        async with AsyncClient(settings(server.base_url)) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.cancel_job(42), 0.05)
            assert (await client.cancel_job(43)).process_id == 43

    with FaultServer() as server, no_collector():
        server.script(hang())
        asyncio.run(main(server))
        assert wait_for(lambda: server.open_connections == 0)


# --- no connection, or not all of it ----------------------------------------------------------


@DRIVERS
@pytest.mark.parametrize("words", [b"", HANDSHAKE_OF_16_KIB], ids=["silent", "slow"])
def test_a_tls_handshake_without_end(call: Call, words: bytes) -> None:
    with Mute(words) as server, no_collector():
        started = time.monotonic()
        with pytest.raises(CancelTimeoutError) as caught:
            call(settings(server.base_url, timeout=0.2))
        assert time.monotonic() - started < 0.2 + LATE
        assert not caught.value.outcome_unknown, "nothing was sent"
        assert wait_for(lambda: server.accepted == server.ended > 0)


def test_a_deadline_between_connecting_and_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """ssl makes no handshake on a socket that was shut down, and httpcore would go on to write."""
    wrap = ssl.SSLContext.wrap_socket

    def late(context: ssl.SSLContext, sock: socket.socket, **options: Any) -> ssl.SSLSocket:
        sock.setblocking(True)
        sock.recv(1)  # ends when the watchdog shuts the socket down
        return wrap(context, sock, **options)

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", late)
    with Mute(b"") as server, no_collector():
        with pytest.raises(CancelTimeoutError) as caught:
            call_sync(settings(server.base_url, timeout=0.2))
        assert not caught.value.outcome_unknown, "nothing was sent"
        assert "requests sent: 0" in str(caught.value)
        assert wait_for(lambda: server.accepted == server.ended > 0)


@DRIVERS
@pytest.mark.parametrize("addresses", [1, 8])
def test_a_host_that_cannot_be_reached(
    call: Call, addresses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its addresses are tried in turn, and all of them in the time of one call."""
    with unreachable() as base_url:
        address = ("127.0.0.1", int(base_url.rpartition(":")[2]))
        found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found * addresses)
        started = time.monotonic()
        with pytest.raises(CancelTimeoutError) as caught:
            call(settings(base_url.replace("127.0.0.1", "localhost"), timeout=0.3, max_attempts=1))
        assert time.monotonic() - started < 0.3 + LATE
        assert not caught.value.outcome_unknown, "nothing was sent"


@DRIVERS
@pytest.mark.parametrize("left", [0, 1])
def test_no_file_descriptor_left(call: Call, left: int) -> None:
    taken: list[int] = []

    def take_all() -> None:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        for _ in range(left):
            os.close(taken.pop())

    async def main() -> None:
        async with AsyncClient(given) as client:
            take_all()  # the event loop has its own by now
            await client.cancel_job(42)

    with FaultServer() as server:
        call(settings(server.base_url))  # what is imported on first use takes a descriptor, too
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # connects, and that is all
        given = settings(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.2)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
        try:
            with pytest.raises(TransportError) as caught:
                if call is call_async:
                    asyncio.run(main())
                take_all()
                call(given)
        finally:
            for number in taken:
                os.close(number)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    # One is enough to send, but not to send and watch the time.
    assert caught.value.outcome_unknown is (left == 1 and call is call_async)


@DRIVERS
def test_a_body_that_we_end_is_no_answer(call: Call) -> None:
    """It says 403, but nobody knows the rest; closing would have been its end."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\n\r\n"
        while True:
            yield b" "

    with FaultServer() as server:
        server.script(Fault("403 without end", write, End.CLOSE, interval=0.01))
        assert call(settings(server.base_url, timeout=2)).attempts == 2


# --- closed clients, and forks ----------------------------------------------------------------


def test_a_client_closed_amid_a_call() -> None:
    with FaultServer() as server:
        server.script(late(0.1))
        client = Client(settings(server.base_url))
        outcomes: list[CancelResult] = []
        worker = threading.Thread(target=lambda: outcomes.append(client.cancel_job(42)))
        worker.start()
        assert wait_for(lambda: server.open_connections == 1)
        client.close()
        worker.join()
        assert [one.process_id for one in outcomes] == server.applied == [42]
        assert wait_for(lambda: server.open_connections == 0)
        with pytest.raises(ConfigurationError, match="closed"):
            client.cancel_job(43)


def test_an_async_client_closed_amid_a_call() -> None:
    async def main(server: FaultServer) -> None:
        client = AsyncClient(settings(server.base_url))
        task = asyncio.ensure_future(client.cancel_job(42))
        await asyncio.to_thread(wait_for, lambda: len(server.seen) == 1)
        await client.aclose()
        assert (await task).process_id == 42
        with pytest.raises(ConfigurationError, match="closed"):
            await client.cancel_job(43)

    with FaultServer() as server, no_collector():
        server.script(late(0.1))
        asyncio.run(main(server))
        assert wait_for(lambda: server.open_connections == 0)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_amid_a_call() -> None:
    with FaultServer() as server:
        server.script_for(42, late(0.2))
        client = Client(settings(server.base_url))
        client.cancel_job(1)
        outcomes: list[CancelResult] = []
        worker = threading.Thread(target=lambda: outcomes.append(client.cancel_job(42)))
        worker.start()
        assert wait_for(lambda: len(server.seen) == 2)
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                client.cancel_job(43)
                os._exit(0)
            os._exit(1)
        worker.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert [one.process_id for one in outcomes] == [42]
        assert server.applied == [1, 43, 42] or server.applied == [1, 42, 43]
        assert client.cancel_job(44).process_id == 44
        client.close()


# --- many -------------------------------------------------------------------------------------


def test_many_at_once_are_answered_or_told() -> None:
    async def one(client: AsyncClient, job: int) -> CancelResult | CancelError:
        try:
            return await client.cancel_job(job)
        except CancelError as error:
            return error

    async def main(server: FaultServer) -> list[CancelResult | CancelError]:
        async with AsyncClient(settings(server.base_url)) as client:
            return await asyncio.gather(*(one(client, job) for job in range(1, 301)))

    with FaultServer() as server:
        told = asyncio.run(main(server))
        assert [one.process_id for one in told if isinstance(one, CancelResult)] == sorted(
            server.applied
        )
        assert len(server.applied) == 300
        assert wait_for(lambda: server.open_connections == 0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
