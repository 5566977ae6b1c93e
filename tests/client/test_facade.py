"""The two clients and the facade: their life, threads, forks, loops, and callers' own clients."""

from __future__ import annotations

import asyncio
import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

import revenuebase_compat as rc
from revenuebase_compat.client.memory import memory
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE, FakeTime, fault_server
from tests.support.fault_server import FaultServer


def settings(server: FaultServer, **more: Any) -> rc.Settings:
    return rc.Settings(TEST_KEY, base_url=server.base_url, **more)


def test_the_facade_goes_to_v2_on_the_default_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        result = rc.cancel_job(42)
        assert result == rc.CancelResult(
            42,
            "42.csv",
            "CANCELLING",
            result.message,
            route=rc.Route(result.route.version, rc.RouteReason.SUNSET),
            attempts=1,
        )
        assert str(result.route.version) == "2"
        assert result.status is rc.JobStatus.CANCELLING
        rc.cancel_job("43")
        assert server.connections == 1, "the process-wide client keeps its connection"
        assert memory.default_client is not None
        memory.default_client.close()


def test_before_the_date_v1_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with FaultServer() as server, FakeTime(BEFORE).client(settings(server)) as client:
        with pytest.warns(rc.ApiDeprecationWarning) as caught:
            result = client.cancel_job(42)
    assert str(result.route) == "v1 (DEFAULT)"
    assert server.seen[0].body == b'{"process_id":42}'
    assert server.seen[0].headers["content-type"] == "application/json"
    assert len(caught) == 1
    assert len(caplog.records) == 1


def test_what_goes_over_the_wire() -> None:
    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        client.cancel_job(42)
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/v2/jobs/42/cancel", b"")
    assert seen.headers == {
        "host": f"127.0.0.1:{server.port}",
        "x-key": TEST_KEY,
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"revenuebase-compat/{rc.__version__}",
        "content-length": "0",
    }


def test_a_path_prefix_is_kept() -> None:
    with FaultServer() as server:
        made = rc.Settings(TEST_KEY, base_url=server.base_url + "/proxy/api/")
        with FakeTime().client(made) as client, pytest.raises(rc.EndpointNotFoundError):
            client.cancel_job(42)
    assert server.seen[0].path == "/proxy/api/v2/jobs/42/cancel"


def test_route_sends_nothing_and_needs_no_key() -> None:
    with FakeTime(AFTER).client(rc.Settings()) as client:
        assert str(client.route("42")) == "v2 (SUNSET)"
        with pytest.raises(rc.InvalidProcessIdError):
            client.route("x")

    async def main() -> None:
        async with FakeTime(BEFORE).async_client(rc.Settings(v2_rollout=100)) as client:
            assert str(await client.route(42)) == "v2 (ROLLOUT)"

    asyncio.run(main())


def test_a_missing_key_is_an_error_only_when_sending() -> None:
    with FakeTime().client(rc.Settings()) as client:
        with pytest.raises(rc.ConfigurationError, match="REVENUEBASE_API_KEY"):
            client.cancel_job(42)


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, "1 ", "+1", "٣", "../1", "", None, b"1", 2**63])
def test_a_bad_process_id_never_reaches_a_path(bad: Any) -> None:
    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        with pytest.raises(rc.InvalidProcessIdError, match="give an int from 1"):
            client.cancel_job(bad)
        assert server.connections == 0


def test_settings_must_be_settings() -> None:
    with pytest.raises(rc.ConfigurationError, match="give Settings"):
        rc.Client(TEST_KEY)  # type: ignore[arg-type]


def test_a_naive_clock_is_refused() -> None:
    with rc.Client(rc.Settings(TEST_KEY), clock=lambda: datetime(2026, 6, 1)) as client:  # noqa: DTZ001
        with pytest.raises(rc.ConfigurationError, match="aware datetime"):
            client.cancel_job(42)


def test_clients_are_not_pickled_and_settings_lose_their_key() -> None:
    made = rc.Settings(TEST_KEY, timeout=5)
    with rc.Client(made) as client, pytest.raises(TypeError, match="pickle its settings"):
        pickle.dumps(client)
    dumped = pickle.dumps(made)
    assert TEST_KEY.encode() not in dumped
    assert pickle.loads(dumped).timeout == 5  # noqa: S301
    assert pickle.loads(dumped).api_key is None  # noqa: S301
    assert copy.deepcopy(made) == made


def test_closed_clients_refuse_before_anything_is_sent() -> None:
    with FaultServer() as server:
        client = FakeTime().client(settings(server))
        client.cancel_job(1)
        client.close()
        client.close()
        with pytest.raises(rc.ConfigurationError, match="closed"):
            client.cancel_job(2)

        theirs = httpx.Client()
        with FakeTime().client(settings(server), http_client=theirs) as client:
            client.cancel_job(3)
            theirs.close()
            with pytest.raises(rc.ConfigurationError, match="http_client is closed"):
                client.cancel_job(4)
        assert [seen.process_id for seen in server.seen] == [1, 3]


def test_many_threads_share_a_client() -> None:
    with FaultServer() as server, FakeTime().client(settings(server)) as client:
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(client.cancel_job, range(1, 201)))
        assert [result.process_id for result in results] == list(range(1, 201))
        assert sorted(server.applied) == list(range(1, 201))
        assert server.connections <= 8


def test_the_default_client_is_one_for_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        barrier = threading.Barrier(8)

        def work(process_id: int) -> int:
            barrier.wait(10)
            rc.cancel_job(process_id)
            return id(memory.default_client)

        with ThreadPoolExecutor(8) as pool:
            assert len(set(pool.map(work, range(1, 9)))) == 1
        assert memory.default_client is not None
        memory.default_client.close()


@pytest.mark.parametrize(
    ("later", "options"),
    [("", ["-X", "dev", "-W", "error"]), ("atexit.register(lambda: cancel_job(2))", [])],
)
def test_the_default_client_is_closed_at_exit_and_a_later_handler_gets_another(
    monkeypatch: pytest.MonkeyPatch, later: str, options: list[str]
) -> None:
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        use = "from revenuebase_compat import cancel_job; cancel_job(1)"
        command = [sys.executable, *options, "-c", f"import atexit; {later}\n{use}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert [seen.process_id for seen in server.seen] == ([1, 2] if later else [1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_opens_connections_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As gunicorn and celery do after the parent has used the client."""
    with FaultServer() as server:
        monkeypatch.setenv("REVENUEBASE_API_KEY", TEST_KEY)
        monkeypatch.setenv("REVENUEBASE_BASE_URL", server.base_url)
        program = """
import os, sys, warnings
from revenuebase_compat.client.memory import memory
from revenuebase_compat import cancel_job
cancel_job(1)
children = []
for number in (2, 3):
    pid = os.fork()
    if pid == 0:
        cancel_job(number * 10); cancel_job(number * 10 + 1)
        os._exit(0)
    children.append(pid)
cancel_job(4)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
cancel_job(5)
sys.exit(max(codes))
"""
        subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=30)
        by_connection: dict[int, set[int | None]] = {}
        for seen in server.seen:
            by_connection.setdefault(seen.connection, set()).add(seen.process_id)
    assert {1, 4, 5} in by_connection.values()
    assert {20, 21} in by_connection.values()
    assert {30, 31} in by_connection.values()


def _in_child(base_url: str) -> None:
    async def main() -> None:
        assert shared is not None
        await shared.cancel_job(7)

    asyncio.run(main())


shared: rc.AsyncClient | None = None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:multiprocessing.*")
def test_an_async_client_survives_a_fork() -> None:
    global shared
    with FaultServer() as server:
        shared = FakeTime().async_client(settings(server))

        async def main() -> None:
            assert shared is not None
            await shared.cancel_job(1)
            child = multiprocessing.get_context("fork").Process(target=_in_child, args=("",))
            child.start()
            await asyncio.to_thread(child.join, 20)
            assert child.exitcode == 0
            await shared.cancel_job(2)
            await shared.aclose()

        asyncio.run(main())
        assert {seen.process_id: seen.connection for seen in server.seen} == {1: 1, 7: 2, 2: 1}
    shared = None


# A loop that ended without aclose() leaves its sockets to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_second_event_loop_gets_a_pool_of_its_own() -> None:
    with FaultServer() as server:
        client = FakeTime().async_client(settings(server))
        for process_id in (1, 2, 3):
            asyncio.run(client.cancel_job(process_id))
        assert {seen.connection for seen in server.seen} == {1, 2, 3}
        del client
        gc.collect()


def _httpx2() -> Any:
    return pytest.importorskip("httpx2", reason="httpx2 needs Python 3.11")


@pytest.mark.parametrize("module", [lambda: httpx, _httpx2], ids=["httpx", "httpx2"])
def test_a_callers_own_client(module: Callable[[], Any]) -> None:
    library = module()
    seen_by_hook: list[str] = []
    with FaultServer() as server:
        hooks = {"request": [lambda request: seen_by_hook.append(str(request.url))]}
        with library.Client(event_hooks=hooks, follow_redirects=True) as theirs:
            with FakeTime().client(settings(server), http_client=theirs) as client:
                server.script(fault_server.drop(applied=True), route="cancel")
                assert client.cancel_job(1).attempts == 2
                server.script(fault_server.redirect(307, server.base_url + "/v2/jobs/1/cancel"))
                with pytest.raises(rc.UnexpectedResponseError, match="not followed"):
                    client.cancel_job(2)
                server.script(fault_server.gzip_ok())
                client.cancel_job(3)
            assert not theirs.is_closed, "a caller's own client is the caller's to close"
    assert seen_by_hook[0] == server.base_url + "/v2/jobs/1/cancel"

    async def main() -> None:
        with FaultServer() as server:
            async with library.AsyncClient(follow_redirects=True) as theirs:
                made = settings(server, timeout=0.3)
                async with FakeTime(jitter=0.1).async_client(made, http_client=theirs) as client:
                    server.script(fault_server.hang(applied=True), route="cancel")
                    assert (await client.cancel_job(1)).attempts == 2
                    server.always(fault_server.trickle_headers())
                    with pytest.raises(rc.CancelTimeoutError):
                        await client.cancel_job(2)

    asyncio.run(main())


def test_a_hook_that_reads_the_answer_is_no_trouble() -> None:
    with FaultServer() as server:
        server.script(fault_server.gzip_ok())
        with httpx.Client(event_hooks={"response": [lambda response: response.read()]}) as theirs:
            with FakeTime().client(settings(server), http_client=theirs) as client:
                assert client.cancel_job(1).filename == "1.csv"


def test_the_wrong_kind_of_client_is_refused() -> None:
    with pytest.raises(rc.ConfigurationError, match=r"give an httpx\.Client"):
        rc.Client(rc.Settings(TEST_KEY), http_client=httpx.AsyncClient())  # type: ignore[arg-type]
    with httpx.Client() as theirs, pytest.raises(rc.ConfigurationError, match="AsyncClient"):
        rc.AsyncClient(rc.Settings(TEST_KEY), http_client=theirs)  # type: ignore[arg-type]
    with pytest.raises(rc.ConfigurationError, match=r"a builtins\.str"):
        rc.Client(rc.Settings(TEST_KEY), http_client="requests")  # type: ignore[arg-type]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_loopback_never_goes_through_a_proxy(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer() as proxy, FaultServer() as server:
        monkeypatch.setenv(variable, proxy.base_url)
        with FakeTime().client(settings(server)) as client:
            client.cancel_job(1)

        async def main() -> None:
            async with FakeTime().async_client(settings(server)) as client:
                await client.cancel_job(2)

        asyncio.run(main())
        assert proxy.connections == 0


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_sees_no_key(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer() as proxy:
        monkeypatch.setenv(variable, proxy.base_url)
        made = rc.Settings(TEST_KEY, base_url="https://api.example.test", timeout=0.5)
        with (
            FakeTime(jitter=0.1).client(made) as client,
            pytest.raises(rc.TransportError) as caught,
        ):
            client.cancel_job(1)
        assert {seen.method for seen in proxy.seen} == {"CONNECT"}
        assert {seen.key for seen in proxy.seen} == {None}
        assert not caught.value.outcome_unknown, "refused by the proxy, so nothing was sent"
        monkeypatch.setenv("NO_PROXY", "example.test")
        before = proxy.connections
        with FakeTime(jitter=0.1).client(made) as client, pytest.raises(rc.TransportError):
            client.cancel_job(1)
        assert proxy.connections == before


def test_a_flag_that_is_asked_decides() -> None:
    contexts: list[rc.RouteContext] = []

    def flag(context: rc.RouteContext) -> bool:
        contexts.append(context)
        return True

    with FaultServer() as server:
        with FakeTime(BEFORE).client(settings(server, v2_flag=flag, v2_rollout=25)) as client:
            assert str(client.cancel_job(42).route) == "v2 (FLAG)"
    (context,) = contexts
    assert (context.process_id, context.share, context.phase.value) == (42, 25.0, "sunsetting")
    assert context.now == datetime(2026, 6, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("answer", [1, "v2", 0, object(), ValueError("no")])
def test_a_flag_that_makes_no_sense_is_no_opinion(
    answer: object, caplog: pytest.LogCaptureFixture
) -> None:
    def flag(context: rc.RouteContext) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer

    with FaultServer() as server:
        made = settings(server, v2_flag=flag, v2_rollout=100)
        with FakeTime(BEFORE).client(made) as client:
            assert str(client.cancel_job(42).route) == "v2 (ROLLOUT)"
    assert "gave no opinion" in caplog.text


def test_an_asynchronous_flag_belongs_to_the_async_client(caplog: pytest.LogCaptureFixture) -> None:
    async def flag(context: rc.RouteContext) -> bool:
        return True

    made = rc.Settings(TEST_KEY, v2_flag=flag)
    with FakeTime(BEFORE).client(made) as client:
        assert str(client.route(42)) == "v1 (DEFAULT)"
    assert "use AsyncClient" in caplog.text

    async def main() -> None:
        async with FakeTime(BEFORE).async_client(made) as client:
            assert str(await client.route(42)) == "v2 (FLAG)"

    asyncio.run(main())


def test_events_are_told_and_cannot_hurt(caplog: pytest.LogCaptureFixture) -> None:
    events: list[rc.CancelEvent] = []

    def on_event(event: rc.CancelEvent) -> None:
        events.append(event)
        raise ValueError("from the hook")

    with FaultServer() as server:
        fake = FakeTime()
        with fake.client(settings(server, on_event=on_event)) as client:
            server.script(fault_server.drop())
            client.cancel_job(1)
            with pytest.raises(rc.AlreadyCancelledError):
                client.cancel_job(1)
    first, second = events
    assert (first.outcome, first.attempts, first.switched, first.duration) == (
        "cancelled", 2, False, 0.25,
    )  # fmt: skip
    assert (second.outcome, second.status_code) == ("AlreadyCancelledError", 400)
    assert str(second.route) == "v2 (SUNSET)"
    assert "from the hook" in caplog.text
