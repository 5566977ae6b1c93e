"""Exceptions that are not the transport's: they pass through at once, and nothing stays locked."""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest

from revenuebase_compat import (
    AsyncClient,
    CancelError,
    CancelEvent,
    Client,
    Settings,
    TransportError,
)
from tests.conftest import TEST_KEY
from tests.core.test_errors import our_frames
from tests.support.fault_server import (
    Fault,
    FaultServer,
    drop,
    hang,
    trickle_body,
    trickle_headers,
    unreachable,
)


class TooLong(Exception):
    """As celery's ``SoftTimeLimitExceeded``."""


class TooLongAsWell(OSError):
    pass


class Stop(BaseException):
    pass


def settings(base_url: str, **more: Any) -> Settings:
    return Settings(TEST_KEY, base_url=base_url, api_version="v2", **{"timeout": 20, **more})


@contextmanager
def alarm(seconds: float, raised: BaseException) -> Iterator[None]:
    def handler(number: int, frame: FrameType | None) -> None:
        raise raised

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def soon(condition: Callable[[], bool]) -> bool:
    until = time.monotonic() + 5
    while not condition() and time.monotonic() < until:
        time.sleep(0.002)
    return condition()


RAISED = [TooLong("0.1 s"), TimeoutError("0.1 s"), TooLongAsWell(5, "0.1 s"), Stop()]


@pytest.mark.parametrize("raised", RAISED, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize(
    "fault", [hang(), trickle_headers(), trickle_body()], ids=lambda one: one.title
)
@pytest.mark.parametrize("kept", [False, True], ids=["new", "kept"])
def test_signal_handlers_exception_passes_at_once(
    raised: BaseException, fault: Fault, kept: bool
) -> None:
    events: list[CancelEvent] = []
    with FaultServer() as server:
        with Client(settings(server.base_url, on_event=events.append)) as client:
            if kept:
                client.cancel_job(1)
            server.script(fault)
            with pytest.raises(type(raised)) as caught, alarm(0.1, raised):
                client.cancel_job(2)
            assert caught.value is raised
            assert [seen.process_id for seen in server.seen] == [1, 2][not kept :], "sent again"
            assert soon(lambda: server.open_connections == 0), "abandoned"
            assert client.cancel_job(3).attempts == 1
    event = events[-2]
    named = type(raised).__name__ if isinstance(raised, Exception) else "interrupted"
    assert (event.outcome, event.attempts, event.outcome_unknown) == (named, 1, True)


class _Once:
    """A handler that puts itself out of force before it raises."""

    def method(self, number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise TooLongAsWell(5, "0.1 s")


def _starred(*args: Any) -> None:
    _number, *args = args  # type: ignore[assignment]
    raise TooLongAsWell(5, "0.1 s")


class _Bound:
    def method(*args: Any) -> None:
        _self, *args = args  # type: ignore[assignment]
        raise TooLongAsWell(5, "0.1 s")


@pytest.mark.parametrize(
    "handler",
    [
        _starred,
        _Bound().method,
        _Once().method,
        partial(_Once.method, _Once()),
        lambda *given: _Once().method(*given),
        lambda number, frame=None, *, more=1: _Once().method(number, None),
    ],
)
def test_a_handler_that_is_in_force_no_more_is_known_as_one(
    handler: Callable[[int, FrameType | None], Any],
) -> None:
    with FaultServer() as server, Client(settings(server.base_url)) as client:
        client.cancel_job(1)
        server.script(hang())
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(TooLongAsWell):
                client.cancel_job(2)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert [seen.process_id for seen in server.seen] == [1, 2]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    def inner(*args: Any, **kw: Any) -> Any:
        return function(*args, **kw)

    return inner


class Service:
    def method(self, *given: Any) -> Any:
        raise httpx.ConnectError("no")


@pytest.mark.parametrize(
    ("handler", "transport"),
    [
        (logged(lambda *given: None), logged(Service().method)),
        (Service().method, Service().method),
        (MagicMock(), MagicMock(side_effect=httpx.ConnectError("no"))),
        (partial(logged(lambda *given: None), 1), logged(Service().method)),
    ],
)
def test_what_shares_its_lines_with_a_handler_is_none(
    handler: Callable[..., Any], transport: Callable[..., Any]
) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        mocked = httpx.Client(transport=httpx.MockTransport(transport))
        retried = settings("http://127.0.0.1:9", max_attempts=2)
        with mocked, Client(retried, http_client=mocked, sleep=lambda _: None) as client:
            with pytest.raises(TransportError) as caught:
                client.cancel_job(1)
        assert caught.value.attempts == 2
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("kind", ["from", "amid"])
def test_what_a_library_makes_of_a_handlers_exception_is_none(kind: str) -> None:
    """As urllib3 does it: below a transport of the caller's, with the traceback of what it was."""
    limit = TooLong("0.1 s")

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            try:
                time.sleep(5)
            except Exception as error:
                made = httpx.ReadError("ended").with_traceback(error.__traceback__)
                if kind == "from":
                    raise made from error
                raise made  # noqa: B904 (as people write it)
            raise AssertionError

    mine = httpx.Client(transport=Transport())
    with mine, Client(settings("http://127.0.0.1:9"), http_client=mine) as client:
        with pytest.raises(TooLong) as caught, alarm(0.1, limit):
            client.cancel_job(1)
    assert caught.value is limit


@pytest.mark.parametrize("explicit", [True, False])
def test_of_a_handlers_exceptions_the_last_comes_out(explicit: bool) -> None:
    def handler(number: int, frame: FrameType | None) -> None:
        try:
            raise KeyError
        except KeyError as error:
            if explicit:
                raise TimeoutError("0.1 s") from error
            raise TimeoutError("0.1 s")  # noqa: B904 (as people write it)

    with FaultServer() as server, Client(settings(server.base_url)) as client:
        server.script(hang())
        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(TimeoutError, match=r"0\.1 s") as caught:
                client.cancel_job(1)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    led: list[BaseException] = []
    one: BaseException | None = caught.value
    while one is not None and len(led) < 9:
        led.append(one)
        one = one.__cause__ or one.__context__
    assert [type(one) for one in led] == [TimeoutError, KeyError], "and no circle"


def test_signal_handlers_exception_passes_while_connecting() -> None:
    with unreachable() as base_url, Client(settings(base_url)) as client:
        with pytest.raises(TimeoutError) as caught, alarm(0.1, TimeoutError("mine")):
            client.cancel_job(1)
    assert str(caught.value) == "mine"
    assert not isinstance(caught.value, CancelError)


def test_foreign_exception_shows_no_frame_that_holds_the_key() -> None:
    with FaultServer() as server, Client(settings(server.base_url)) as client:
        server.script(hang())
        with pytest.raises(TooLong) as caught, alarm(0.05, TooLong()):
            client.cancel_job(1)
    names = set()
    trace = caught.value.__traceback__
    while trace is not None:
        names.add((trace.tb_frame.f_globals["__name__"] or "").partition(".")[0])
        if not trace.tb_frame.f_globals["__name__"].startswith("tests"):
            assert TEST_KEY not in repr(trace.tb_frame.f_locals)
        trace = trace.tb_next
    assert names == {"tests", "revenuebase_compat"}
    assert list(our_frames(caught.value))


@pytest.mark.parametrize("raised", [TooLong(), TimeoutError("mine")], ids=["plain", "timeout"])
def test_foreign_exception_passes_through_a_callers_own_client(raised: Exception) -> None:
    with FaultServer() as server, httpx.Client() as theirs:
        server.script(hang())
        client = Client(settings(server.base_url), http_client=theirs)
        with pytest.raises(type(raised)) as caught, alarm(0.1, raised):
            client.cancel_job(1)
        assert caught.value is raised
        assert len(server.seen) == 1


def test_foreign_exception_of_an_event_hook_passes() -> None:
    def hook(request: httpx.Request) -> None:
        raise LookupError("no quota left")

    async def hook_async(request: httpx.Request) -> None:
        hook(request)

    async def main(base_url: str) -> None:
        async with httpx.AsyncClient(event_hooks={"request": [hook_async]}) as theirs:
            await AsyncClient(settings(base_url), http_client=theirs).cancel_job(1)

    with FaultServer() as server:
        with httpx.Client(event_hooks={"request": [hook]}) as theirs:
            client = Client(settings(server.base_url), http_client=theirs)
            with pytest.raises(LookupError, match="no quota left"):
                client.cancel_job(1)
        with pytest.raises(LookupError, match="no quota left"):
            asyncio.run(main(server.base_url))
        assert server.seen == []


def test_transport_errors_of_all_kinds_are_still_attempts() -> None:
    with FaultServer() as server, Client(settings(server.base_url), sleep=lambda _: None) as client:
        server.script(drop(), drop())
        assert client.cancel_job(1).attempts == 3
        server.script(drop(), drop(), drop())
        with pytest.raises(TransportError):
            client.cancel_job(2)


@pytest.mark.slow
def test_signal_storm_never_locks_up() -> None:
    """Each signal raises wherever it falls, in httpcore's own locks too."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.client.test_foreign"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    raised, answered = map(int, done.stdout.split())
    assert raised > 500
    assert answered > 500


def storm() -> None:
    """Prints how many calls a signal ended, and how many were answered."""
    raised = answered = 0
    armed = False

    def handler(number: int, frame: FrameType | None) -> None:
        if armed:
            raise TooLong

    faulthandler.dump_traceback_later(90, exit=True)
    signal.signal(signal.SIGALRM, handler)
    with FaultServer() as server:
        client = Client(settings(server.base_url, timeout=5))
        client.cancel_job(10**8)  # a signal amid an import may come out as another exception
        random, until = Random(1), time.monotonic() + 15  # noqa: S311
        while time.monotonic() < until:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.006))
            try:
                armed = True
                client.cancel_job(raised + answered + 1)
                armed = False
                answered += 1
            except TooLong:
                armed = False
                raised += 1
            except CancelError:  # the job was cancelled by the call that was ended
                armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert client.cancel_job(10**9).attempts == 1
    print(raised, answered)


if __name__ == "__main__":
    storm()


@pytest.mark.parametrize("end", [StopIteration, StopAsyncIteration])
def test_an_iterator_of_the_callers_that_ends_is_no_result(end: type[Exception]) -> None:
    """A script of answers that is used up, say: the flow's own end is another ``StopIteration``."""
    events: list[CancelEvent] = []
    answers = [httpx.Response(503)]

    def answer(_: httpx.Request) -> httpx.Response:
        if not answers:
            raise end
        return answers.pop()

    async def pause(_: float) -> None: ...

    async def call_async(settings: Settings) -> object:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport) as theirs:
            return await AsyncClient(settings, http_client=theirs, sleep=pause).cancel_job(7)

    made = settings("https://api.example.com", on_event=events.append)
    with httpx.Client(transport=httpx.MockTransport(answer)) as theirs:
        with pytest.raises((RuntimeError, StopAsyncIteration)):
            Client(made, http_client=theirs, sleep=lambda _: None).cancel_job(7)
    answers.append(httpx.Response(503))
    with pytest.raises((RuntimeError, StopAsyncIteration)):
        asyncio.run(call_async(made))
    assert [event.outcome_unknown for event in events] == [True, True]
    assert {event.outcome for event in events} <= {end.__name__, "RuntimeError"}
