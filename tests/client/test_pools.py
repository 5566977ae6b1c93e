"""Pools in production: losses on kept connections, ended event loops, many at once, descriptors."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from revenuebase_compat import (
    AsyncClient,
    CancelResult,
    CancelTimeoutError,
    Client,
    ConfigurationError,
    Settings,
    TransportError,
    UnexpectedResponseError,
)
from tests.conftest import TEST_KEY
from tests.support.fault_server import (
    Exchange,
    Fault,
    FaultServer,
    hang,
    late,
    leftover,
)


def settings(base_url: str, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=base_url, api_version="v2", **{"timeout": 20, **more})


class Failover:
    """Healthy, until each connection of before is dead: it ends with the next request on it."""

    def __init__(self) -> None:
        self.dead: set[int] = set()
        self.lost = 0

    def fault(self, healthy: Fault) -> Fault:
        def write(exchange: Exchange) -> Iterator[bytes]:
            if exchange.seen.connection in self.dead:
                self.lost += 1
                raise OSError("dead")  # the server closes the connection, without a byte
            yield from healthy.write(exchange)

        return Fault("failover", write, applied=True)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_loss_on_a_kept_connection_is_retried_on_a_new_one(kind: str) -> None:
    """Eight idle connections, all of them dead; the server behind is well."""
    failover = Failover()
    barrier = threading.Barrier(8)

    def together(exchange: Exchange) -> Iterator[bytes]:
        barrier.wait(20)
        yield from late(0).write(exchange)

    def sync(server: FaultServer) -> CancelResult:
        with Client(settings(server.base_url), random=lambda: 0.001) as client:
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(client.cancel_job, range(1, 9)))
            die(server)
            return client.cancel_job(42)

    async def main(server: FaultServer) -> CancelResult:
        async with AsyncClient(settings(server.base_url), random=lambda: 0.001) as client:
            await asyncio.gather(*map(client.cancel_job, range(1, 9)))
            die(server)
            return await client.cancel_job(42)

    def die(server: FaultServer) -> None:
        assert server.connections == 8
        failover.dead.update(range(1, 9))
        server.always(failover.fault(late(0)))

    with FaultServer() as server:
        server.always(Fault("together", together, applied=True))
        result = sync(server) if kind == "sync" else asyncio.run(main(server))
        assert (result.attempts, failover.lost, server.connections) == (2, 1, 9)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_connection_with_bytes_left_over_is_not_used_again(kind: str) -> None:
    """Where the socket shows them: the rest comes after the answer was read."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield b"".join(late(0).write(exchange))
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    async def main(server: FaultServer) -> None:
        async with AsyncClient(settings(server.base_url)) as client:
            await client.cancel_job(1)
            await asyncio.sleep(0.3)
            assert (await client.cancel_job(2)).attempts == 1

    with FaultServer() as server:
        server.script(Fault("more comes later", write, applied=True, interval=0.05))
        if kind == "async":
            asyncio.run(main(server))
        else:
            with Client(settings(server.base_url)) as client:
                client.cancel_job(1)
                time.sleep(0.3)
                assert client.cancel_job(2).attempts == 1
        assert {seen.process_id: seen.connection for seen in server.seen} == {1: 1, 2: 2}


def test_answer_left_over_of_another_job_is_never_a_result() -> None:
    with FaultServer() as server, Client(settings(server.base_url)) as client:
        server.script(leftover())
        client.cancel_job(1)
        with suppress(UnexpectedResponseError):  # that it is unusable is all one can know
            assert client.cancel_job(2).process_id == 2


# --- event loops ------------------------------------------------------------------------------


def test_pools_of_ended_event_loops_are_dropped() -> None:
    """300 x ``asyncio.run`` with one client; 256 descriptors suffice, and no warning is given."""
    program = """
import asyncio, os, resource, sys
from revenuebase_compat import AsyncClient, Settings
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
client = AsyncClient(Settings("rb_test_loops", base_url=sys.argv[1], api_version="v2"))
for job in range(1, 301):
    asyncio.run(client.cancel_job(job))
print(len(os.listdir("/dev/fd")))
"""
    with FaultServer() as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", program, server.base_url],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert int(done.stdout) < 20
        assert len(server.applied) == 300


def test_pool_of_a_loop_that_ended_by_hand_is_dropped() -> None:
    with FaultServer() as server:
        client = AsyncClient(settings(server.base_url))
        for job in range(1, 6):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(client.cancel_job(job))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()
        until = time.monotonic() + 5
        while server.open_connections and time.monotonic() < until:
            time.sleep(0.005)
        assert server.open_connections == 0


# --- many at once -----------------------------------------------------------------------------


class Counted:
    """Counts how many requests it holds at once."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._lock = threading.Lock()

    def __call__(self, exchange: Exchange) -> Iterator[bytes]:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        time.sleep(0.01)
        with self._lock:
            self.now -= 1
        yield from late(0).write(exchange)


@pytest.mark.parametrize("most", [1, 5, None])
def test_async_client_sends_a_bounded_number_at_once(most: int | None) -> None:
    counted = Counted()
    options: dict[str, Any] = {} if most is None else {"max_connections": most}

    async def main(server: FaultServer) -> None:
        async with AsyncClient(settings(server.base_url, timeout=60), **options) as client:
            found = await asyncio.gather(*map(client.cancel_job, range(1, 151)))
            assert {one.attempts for one in found} == {1}

    with FaultServer() as server:
        server.always(Fault("counted", counted, applied=True))
        asyncio.run(main(server))
        assert counted.peak <= (most or 100)
        assert server.connections <= (most or 100)
        assert sorted(server.applied) == list(range(1, 151))


def test_waiting_for_a_connection_counts_inside_the_timeout() -> None:
    async def main(server: FaultServer) -> None:
        made = settings(server.base_url, timeout=0.3, max_attempts=1)
        async with AsyncClient(made, max_connections=1) as client:
            calls = [client.cancel_job(job) for job in (1, 2, 3)]
            began = time.monotonic()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert time.monotonic() - began < 1.5
            assert {type(error) for error in errors} == {CancelTimeoutError}
            error = errors[2]
            assert isinstance(error, CancelTimeoutError)
            assert "within 0.3 s at http" in str(error)
            assert "no connection was free (max_connections is 1)" in str(error)
            assert "requests sent: 0" in str(error)
            assert not error.outcome_unknown

    with FaultServer() as server:
        server.always(hang())
        asyncio.run(main(server))
        assert 3 not in {seen.process_id for seen in server.seen}


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "5", None])
def test_max_connections_is_checked(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="max_connections"):
        AsyncClient(Settings(TEST_KEY), max_connections=wrong)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_running_out_of_descriptors_is_named(kind: str) -> None:
    """In a process of its own, as other threads give descriptors back meanwhile."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, kind],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "named\n"), done.stderr


def run_out_of_descriptors(kind: str) -> None:
    taken: list[int] = []

    def take_all() -> None:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.dup(0))

    async def main(made: Settings, job: int, before: Callable[[], object]) -> None:
        async with AsyncClient(made) as client:
            before()
            await client.cancel_job(job)

    with FaultServer() as server:
        made = settings(server.base_url, timeout=1, max_attempts=1)
        # What is imported for a first call needs descriptors.
        with Client(made) as warm:
            warm.cancel_job(9)
        asyncio.run(main(made, 8, time.monotonic))
    # The server is gone: its threads would give descriptors back meanwhile.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/dev/fd")) + 20, hard))
    try:
        with pytest.raises(TransportError, match=r"no file descriptor is left.*ulimit -n") as e:
            if kind == "async":
                asyncio.run(main(made, 1, take_all))
            else:
                client = Client(made)
                take_all()
                client.cancel_job(1)
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not e.value.outcome_unknown
    print("named")


# --- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_name_that_resolves_slowly(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded under asyncio; one look-up, and no second, in the synchronous client."""
    looked: list[float] = []
    released = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> Any:
        looked.append(time.monotonic())
        released.wait(0.6)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def main() -> None:
        try:
            async with AsyncClient(made) as client:
                await client.cancel_job(1)
        finally:
            took.append(time.monotonic() - began)
            released.set()

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    made = settings("http://localhost:9", timeout=0.2)
    took: list[float] = []
    began = time.monotonic()
    with pytest.raises(CancelTimeoutError) as caught:
        if kind == "async":
            asyncio.run(main())
        else:
            Client(made, random=lambda: 0.001).cancel_job(1)
    assert not caught.value.outcome_unknown
    assert "requests sent: 0" in str(caught.value)
    if kind == "async":
        assert took[0] < 0.55
    else:
        assert len(looked) == 1


def test_time_out_names_the_time_that_was_asked_for() -> None:
    with FaultServer() as server, Client(settings(server.base_url, timeout=0.2)) as client:
        server.always(hang())
        with pytest.raises(CancelTimeoutError, match=r"gave no answer within 0\.2 s at "):
            client.cancel_job(1)


def test_attempts_that_never_connected_are_told_apart() -> None:
    events: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = settings(f"http://127.0.0.1:{port}", on_event=events.append)
    with Client(made, sleep=lambda _: None) as client:
        with pytest.raises(TransportError, match=r"\(attempts: 3, requests sent: 0\)") as caught:
            client.cancel_job(1)
    assert (caught.value.attempts, caught.value.outcome_unknown) == (3, False)
    (event,) = events
    assert (event.attempts, event.unsent, event.outcome_unknown) == (3, 3, False)


# --- closing ----------------------------------------------------------------------------------


def test_four_threads_close_one_client() -> None:
    with FaultServer() as server:
        for _ in range(20):
            client = Client(settings(server.base_url))
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(client.cancel_job, range(1, 9)))
                barrier = threading.Barrier(4)
                for one in [pool.submit(close_together, client, barrier) for _ in range(4)]:
                    one.result(10)
            server.jobs.clear()


def close_together(client: Client, barrier: threading.Barrier) -> None:
    barrier.wait(10)
    client.close()


if __name__ == "__main__":
    run_out_of_descriptors(sys.argv[1])
