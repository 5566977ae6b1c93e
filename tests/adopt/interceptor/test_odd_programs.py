"""Programs do odd things: what comes of them is what would come of them without us."""

from __future__ import annotations

import asyncio
import copy
import http.client
import io
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
import requests
import urllib3

from revenuebase_compat import Settings, adopt
from tests.support.raw_server import RawRequest, RawServer, reply

from .support import ALIVE, CANCEL, GONE, JSON, LIBRARIES, STATUS, Send

BODY = b'{"process_id": 42}'
both_sides = pytest.mark.parametrize("sunset", [GONE, ALIVE], ids=["after", "before"])
quiet = pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")


def answer(request: RawRequest, _: int) -> bytes:
    if " /mine" in request.line:
        return reply(307, b"mine", "Location: /elsewhere")
    return reply(410, {"detail": "Gone"}) if " /gone" in request.line else reply()


@pytest.fixture
def raw() -> Iterator[RawServer]:
    with RawServer(answer) as running:
        yield running


def install(raw: RawServer, sunset: dict[str, Any], **more: Any) -> None:
    adopt.install(Settings(base_url=raw.url, **sunset, **more))


def connected(raw: RawServer) -> Any:
    return closing(http.client.HTTPConnection("127.0.0.1", raw.port, timeout=5))


# --- http.client ------------------------------------------------------------------------------


@quiet
@both_sides
@pytest.mark.parametrize("path", [CANCEL, STATUS])
@pytest.mark.parametrize(("other", "status"), [("/gone", 410), ("/mine", 307)])
def test_an_answer_that_nobody_fetched_is_not_that_of_putrequest(
    raw: RawServer, sunset: dict[str, Any], path: str, other: str, status: int
) -> None:
    install(raw, sunset)
    with connected(raw) as connection:
        connection.request("POST", path, BODY, JSON)
        connection.close()
        connection.putrequest("GET", other)
        connection.endheaders()
        found = connection.getresponse()
        assert (found.status, found.getheader("Location")) in (
            (status, None),
            (status, "/elsewhere"),
        )
    assert raw.lines.count(f"GET {other}") == 1
    assert len(raw.lines) <= 2  # the first may not have been read


@quiet
@both_sides
def test_a_closed_connection_can_be_copied_and_pickled(
    raw: RawServer, sunset: dict[str, Any]
) -> None:
    install(raw, sunset)
    with connected(raw) as connection:
        connection.request("POST", CANCEL, BODY, JSON)
        connection.close()
        for made in (copy.deepcopy(connection), pickle.loads(pickle.dumps(connection))):  # noqa: S301
            with closing(made):
                made.request("GET", "/gone")
                assert made.getresponse().status == 410


@both_sides
def test_what_is_no_text_is_left_to_the_library(raw: RawServer, sunset: dict[str, Any]) -> None:
    install(raw, sunset)
    with connected(raw) as connection:
        connection.request("GET", None)
        connection.getresponse().read()
        host, connection.host = connection.host, None
        connection.request("GET", "/gone", headers={"Host": host})
        assert connection.getresponse().status == 410
    assert raw.lines == ["GET /", "GET /gone"]


def test_a_port_that_is_text(raw: RawServer) -> None:
    install(raw, GONE, api_version="v2")
    with closing(http.client.HTTPConnection("127.0.0.1", str(raw.port))) as connection:  # type: ignore[arg-type]
        connection.request("POST", CANCEL, BODY, JSON)
        assert connection.getresponse().status == 200
    assert raw.lines == ["POST /v2/jobs/42/cancel"]


@both_sides
def test_a_default_that_another_tool_changes_is_not_everybodys(
    raw: RawServer, sunset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = http.client.HTTPConnection.request

    def traced(self: Any, method: str, url: str, body: Any = None, **kw: Any) -> None:
        kw.setdefault("headers", {})["x-trace"] = url
        plain(self, method, url, body, **kw)

    with monkeypatch.context() as patched:
        patched.setattr(http.client.HTTPConnection, "request", traced)
        install(raw, sunset)
        with connected(raw) as connection:
            for url in ("/gone", "/other"):
                connection.request("GET", url)
                connection.getresponse().read()
        adopt.uninstall()
    assert [one.head.count(b"x-trace") for one in raw.requests] == [1, 1]


@both_sides
def test_a_tool_of_older_days_gets_no_argument_that_was_not_given(
    raw: RawServer, sunset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = http.client.HTTPConnection.request

    def older(self: Any, method: str, url: str, body: Any = None, headers: Any = {}) -> None:  # noqa: B006
        plain(self, method, url, body, headers)

    with monkeypatch.context() as patched:
        patched.setattr(http.client.HTTPConnection, "request", older)
        install(raw, sunset)
        with connected(raw) as connection:
            connection.request("GET", "/other")
            assert connection.getresponse().status == 200
        adopt.uninstall()


# --- bodies -----------------------------------------------------------------------------------


class Flaky(io.RawIOBase):
    """Cannot be read at first, and is empty then."""

    failed = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return 0

    def seek(self, *_: Any) -> int:
        return 0

    def readinto(self, _: Any) -> int:
        if not self.failed:
            self.failed = True
            raise OSError("the disk is gone")
        return 0


def failed_as(send: Callable[[], object]) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each library has its own)
        send()
    return type(caught.value).__name__


@quiet
@both_sides
@pytest.mark.parametrize(
    "library", ["requests", "urllib3", "urllib.request", "http.client", "aiohttp"]
)
def test_a_body_that_cannot_be_read_is_not_sent_without_what_it_held(
    raw: RawServer, sunset: dict[str, Any], library: str
) -> None:
    send: Send = LIBRARIES[library]
    headers = {**JSON, "Content-Length": "18"}
    bare = failed_as(lambda: send("POST", raw.url + CANCEL, Flaky(), headers))
    install(raw, sunset)
    assert failed_as(lambda: send("POST", raw.url + CANCEL, Flaky(), headers)) == bare
    assert raw.lines == []


def broken_off() -> Iterator[bytes]:
    yield BODY
    raise KeyError("what a body is made of")


@quiet
@both_sides
@pytest.mark.parametrize("library", ["requests", "http.client", "httpx"])
def test_a_body_that_breaks_off_is_not_sent_for_what_it_held(
    raw: RawServer, sunset: dict[str, Any], library: str
) -> None:
    send: Send = LIBRARIES[library]
    bare = failed_as(lambda: send("POST", raw.url + CANCEL, broken_off(), JSON))
    install(raw, sunset)
    assert failed_as(lambda: send("POST", raw.url + CANCEL, broken_off(), JSON)) == bare
    assert raw.lines == []


class ByPieces:
    """A file that wants to know how much to read."""

    def __init__(self) -> None:
        self._file = io.BytesIO(BODY)

    def read(self, size: int) -> bytes:
        return self._file.read(size)


@quiet
@both_sides
def test_a_file_that_wants_a_size_is_left_as_it_is(raw: RawServer, sunset: dict[str, Any]) -> None:
    install(raw, sunset)
    with connected(raw) as connection:
        headers = {**JSON, "Content-Length": str(len(BODY))}
        connection.request("POST", CANCEL, ByPieces(), headers)
        assert connection.getresponse().status == 200
    assert raw.lines == [f"POST {CANCEL}"]
    assert raw.requests[0].body == BODY


# --- aiohttp ----------------------------------------------------------------------------------


@quiet
@both_sides
@pytest.mark.parametrize("path", [CANCEL, "/v1/process-email"])
def test_headers_that_can_be_read_once_keep_the_key(
    raw: RawServer, sunset: dict[str, Any], path: str
) -> None:
    async def send() -> int:
        async with aiohttp.ClientSession() as session:
            headers: Any = iter(JSON.items())
            async with session.post(raw.url + path, data=BODY, headers=headers) as response:
                return response.status

    install(raw, sunset)
    assert asyncio.run(send()) == 200
    assert b"x-key: rb_test_sandbox" in raw.requests[0].head


async def ask(session: aiohttp.ClientSession, path: str) -> int:
    async with session.get(path) as response:
        return response.status


@quiet
@both_sides
@pytest.mark.parametrize("path", [CANCEL, STATUS])
def test_hooks_of_aiohttp_are_given_the_session(
    raw: RawServer, sunset: dict[str, Any], path: str
) -> None:
    given: list[object] = []
    later: list[asyncio.Task[int]] = []
    answered = asyncio.Event()
    own = ["/token", "/chunk", "/later"]

    async def much_later(session: aiohttp.ClientSession) -> int:
        await answered.wait()
        return await ask(session, "/later")

    async def start(session: aiohttp.ClientSession, _: Any, params: Any) -> None:
        if params.url.path not in own:
            given.append(session)
            assert await ask(session, "/token") == 200
            later.append(asyncio.create_task(much_later(session)))

    async def chunk(session: aiohttp.ClientSession, _: Any, params: Any) -> None:
        if params.url.path not in own:
            given.append(session)
            assert await ask(session, "/chunk") == 200

    async def headers(session: aiohttp.ClientSession, _: Any, params: Any) -> None:
        if params.url.path not in own:
            given.append(session)

    async def send() -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(start)
        trace.on_request_headers_sent.append(headers)
        trace.on_response_chunk_received.append(chunk)
        async with aiohttp.ClientSession(raw.url, trace_configs=[trace], headers=JSON) as session:
            async with session.post(path, data=BODY) as response:
                assert str(response.url) == raw.url + path
                assert (await response.json())["process_id"] == 42
            answered.set()
            assert await later[0] == 200
            assert given == [session] * 3

    install(raw, sunset)
    asyncio.run(send())
    lines = [f"GET {one}" for one in own]
    assert [line for line in raw.lines if line in lines] == lines
    asked = [request.head for request in raw.requests if request.line in lines]
    assert all(b"Content-Type: application/json" in head for head in asked)


@pytest.mark.skipif("_middlewares" not in aiohttp.ClientSession.ATTRS, reason="from 3.12 on")
@quiet
@both_sides
@pytest.mark.parametrize("path", [CANCEL, STATUS])
def test_a_token_outlives_the_request_that_began_to_fetch_it(
    raw: RawServer, sunset: dict[str, Any], path: str
) -> None:
    async def send() -> int:
        begun, given_up = asyncio.Event(), asyncio.Event()
        given: list[object] = []
        tokens: list[asyncio.Task[int]] = []

        async def token(session: aiohttp.ClientSession) -> int:
            begun.set()
            await given_up.wait()
            return await ask(session, "/token")

        async def authorize(request: Any, handler: Any) -> Any:
            if request.url.path != "/token":
                given.append(request.session)
                tokens[:] = tokens or [asyncio.create_task(token(request.session))]
                assert await asyncio.shield(tokens[0]) == 200
            return await handler(request)

        async def post() -> int:
            async with session.post(path, data=BODY) as response:
                return response.status

        async with aiohttp.ClientSession(
            raw.url, headers=JSON, middlewares=(authorize,)
        ) as session:
            first = asyncio.create_task(post())
            await begun.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            given_up.set()
            status = await post()
            assert given == [session, session]
            return status

    install(raw, sunset)
    assert asyncio.run(send()) == 200
    assert [raw.lines[0], len(raw.lines)] == ["GET /token", 2]


@quiet
@both_sides
@pytest.mark.parametrize("path", [CANCEL, STATUS])
@pytest.mark.filterwarnings("ignore:Inheritance class Own:DeprecationWarning")
def test_a_session_of_aiohttp_with_slots_below_another_tool(
    raw: RawServer, sunset: dict[str, Any], path: str
) -> None:
    class Own(aiohttp.ClientSession):
        __slots__ = ("secret",)
        secret: str

        def _prepare_headers(self, headers: Any) -> Any:
            made = super()._prepare_headers(headers)
            made["X-Secret"] = self.secret
            return made

    async def theirs(session: Any, *given: Any, **options: Any) -> Any:
        assert isinstance(session, Own)
        return await original(session, *given, **options)

    async def send() -> int:
        async with Own(raw.url, headers=JSON) as session:
            object.__setattr__(session, "secret", "of its own")
            async with session.post(path, data=BODY) as response:
                return response.status

    original = vars(aiohttp.ClientSession)["_request"]
    with mock.patch.object(aiohttp.ClientSession, "_request", theirs):
        install(raw, sunset)
        assert asyncio.run(send()) == 200
        adopt.uninstall()
    assert b"X-Secret: of its own" in raw.requests[0].head


def test_a_file_that_aiohttp_would_have_closed_is_closed(raw: RawServer, tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(BODY)

    async def send(file: Any) -> bool:
        async with (
            aiohttp.ClientSession() as session,
            session.post(raw.url + CANCEL, data=file, headers=JSON) as response,
        ):
            await response.read()
        return bool(file.closed)

    install(
        raw, GONE
    )  # before, aiohttp closes it itself, or lets an early answer keep it from that
    assert asyncio.run(send((tmp_path / "job").open("rb")))
    assert not asyncio.run(send(io.BytesIO(BODY)))  # some close it, and none needs it closed


# --- urllib3 ----------------------------------------------------------------------------------


class Tagged(urllib3.Retry):
    """A policy that holds something outside of its ``__dict__``."""

    __slots__ = ("tag",)

    def new(self, **kw: Any) -> Any:
        made = super().new(**kw)
        made.tag = self.tag  # type: ignore[attr-defined]
        return made


@quiet
@both_sides
def test_a_retry_with_slots_keeps_them(raw: RawServer, sunset: dict[str, Any]) -> None:
    install(raw, sunset)
    policy = Tagged(2)
    policy.tag = "mine"  # type: ignore[attr-defined]
    with urllib3.PoolManager() as pool:
        found = pool.request("POST", raw.url + CANCEL, body=BODY, headers=JSON, retries=policy)
    assert found.retries.tag == "mine"  # type: ignore[union-attr]


def test_a_translated_422_has_the_rest_of_the_answer() -> None:
    detail = [{"loc": ["path", "process_id"], "msg": "no", "type": "int"}]
    with RawServer(lambda request, number: reply(422, {"detail": detail})) as raw:
        install(raw, GONE)
        with connected(raw) as connection:
            connection.request("POST", CANCEL, BODY, JSON)
            found = connection.getresponse()
            assert found.peek(2)[:2] == b'{"'
            assert b'"body"' in found.read()
        with requests.Session() as session:
            answered = session.post(raw.url + CANCEL, data=BODY, headers=JSON)
        assert answered.json()["detail"][0]["loc"] == ["body", "process_id"]
        assert getattr(answered.raw, "version_string", "HTTP/1.1") in ("HTTP/1.1", "")


# --- stand-ins --------------------------------------------------------------------------------


@quiet
@both_sides
def test_a_stand_in_for_an_answer_is_handed_on(
    raw: RawServer, sunset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = mock.MagicMock()
    with monkeypatch.context() as patched:
        patched.setattr(urllib3.HTTPConnectionPool, "urlopen", lambda *_, **__: stand_in)
        install(raw, sunset)
        with urllib3.HTTPConnectionPool("127.0.0.1", raw.port) as pool:
            assert pool.urlopen("POST", CANCEL, BODY, JSON) is stand_in
        adopt.uninstall()


@quiet
@both_sides
def test_the_end_of_a_mocks_answers_is_a_stop_iteration(
    raw: RawServer, sunset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        ended = mock.Mock(side_effect=[])
        patched.setattr(urllib3.HTTPConnectionPool, "urlopen", lambda *_, **__: ended())
        install(raw, sunset)
        with (
            urllib3.HTTPConnectionPool("127.0.0.1", raw.port) as pool,
            pytest.raises(StopIteration),
        ):
            pool.urlopen("POST", CANCEL, BODY, JSON)
        adopt.uninstall()


MODULES = """
import importlib.util, sys, types
from unittest import mock
from revenuebase_compat import Settings, adopt
adopt.install(Settings(v1_sunset="2000-01-01"), strict=True)
import http.client
for name in ("httpcore", "aiohttp.client", "urllib3.connectionpool", "revenuebase_sdk"):
    for made in (mock.Mock(), mock.MagicMock(), types.SimpleNamespace(), types.ModuleType(name)):
        sys.modules[name] = made
        sys.modules.pop("colorsys", None)
        import colorsys
        adopt.uninstall()
        adopt.install(Settings(v1_sunset="2000-01-01"), strict=True)
        del sys.modules[name]
spec = importlib.util.find_spec("httpcore")
spec.loader = importlib.util.LazyLoader(spec.loader)
sys.modules["httpcore"] = lazy = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lazy)
import fractions
assert "httpcore._sync" not in sys.modules
assert lazy.ConnectionPool
import calendar
assert hasattr(lazy.ConnectionPool.handle_request, "_revenuebase_compat")
"""


def test_what_stands_in_for_a_module_is_left_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MODULES], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


AT_THE_END = """
import http.client, os
class Last:
    def __init__(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["PORT"]))
        self.connection.request("GET", "/first")
        self.connection.getresponse().read()
    def __del__(self):
        self.connection.request("POST", "/v1/cancel-process", b'{"process_id": 42}',
                                {"Content-Type": "application/json", "x-key": "rb_test_key"})
        os.write(1, b"%d" % self.connection.getresponse().status)
last = Last()
"""

# urllib3 2 imports something while it fetches an answer, which fails by then, but sends before.
REQUESTS_AT_THE_END = """
import os, requests
session, url = requests.Session(), "http://127.0.0.1:" + os.environ["PORT"]
session.get(url + "/first")
class Last:
    def __del__(self):
        key = {"x-key": "rb_test_key"}
        try:
            session.post(url + "/v1/cancel-process", json={"process_id": 42}, headers=key)
        except ImportError:
            pass
        os.write(1, b"200")
last = Last()
"""


@pytest.mark.parametrize("sunset", ["2000-01-01", "2999-01-01"])
@pytest.mark.parametrize("program", [AT_THE_END, REQUESTS_AT_THE_END], ids=["http", "requests"])
def test_a_request_at_the_end_of_the_interpreter_is_sent(
    raw: RawServer, sunset: str, program: str
) -> None:
    command = [sys.executable, "-m", "revenuebase_compat", "run", "--", sys.executable, "-c"]
    done = subprocess.run(
        [*command, program],
        env={
            "PORT": str(raw.port),
            "REVENUEBASE_BASE_URL": raw.url,
            "REVENUEBASE_V1_SUNSET": sunset,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout, len(raw.lines)) == ("200", 2), done.stderr


# --- and odder ones ---------------------------------------------------------------------------


@quiet
def test_a_pool_that_urllib3_redirects_by_itself(raw: RawServer) -> None:
    def redirected(request: RawRequest, _: int) -> bytes:
        again = "?again" in request.line
        return reply() if again else reply(307, b"", f"Location: {CANCEL}?again=1")

    with RawServer(redirected) as server:
        install(server, ALIVE)
        with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
            assert pool.urlopen("POST", CANCEL, BODY, JSON).status == 200
        assert server.lines == [f"POST {CANCEL}", f"POST {CANCEL}?again=1"]


@quiet
@both_sides
def test_a_session_of_aiohttp_that_cannot_be_copied(raw: RawServer, sunset: dict[str, Any]) -> None:
    def refuse(_: object) -> None:
        raise TypeError("there is one of it")

    async def send() -> int:
        async with aiohttp.ClientSession(headers={"Content-Type": "application/json"}) as session:
            type(session).__copy__ = refuse  # type: ignore[attr-defined]
            try:
                async with session.post(raw.url + STATUS, data=BODY, headers=JSON) as response:
                    return response.status
            finally:
                del type(session).__copy__  # type: ignore[attr-defined]

    install(raw, sunset)
    assert asyncio.run(send()) == 200


@both_sides
def test_a_connection_that_makes_itself_in_another_way(
    raw: RawServer, sunset: dict[str, Any]
) -> None:
    class Own(http.client.HTTPConnection):
        sent: list[str]

        def __init__(self) -> None:
            self.sent = []

        def _send_request(self, method: str, url: str, *_: Any) -> None:
            self.sent.append(f"{method} {url}")

    install(raw, sunset)
    own = Own()
    own.request("POST", "/other")
    assert own.sent == ["POST /other"]


COPIES = """
import copy, importlib.util, pickle
from revenuebase_compat import Settings, adopt
adopt.install(Settings(v1_sunset="2000-01-01"))
spec = importlib.util.find_spec("httpcore")
copy.copy(spec.loader), copy.deepcopy(spec), pickle.loads(pickle.dumps(spec))
"""


def test_a_loader_can_be_copied_and_pickled() -> None:
    command = [sys.executable, "-c", COPIES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


BYTES = """
import asyncio, os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import aiohttp, httpx
from revenuebase_compat import Settings, adopt
url = os.environ["URL"]
adopt.install(Settings(base_url=url, v1_sunset="2000-01-01"), strict=True)
body, headers = b'{"process_id": 42}', {"Content-Type": "application/json", "x-key": "rb_test_key"}
with httpx.Client() as client:
    client.post(url + "/v1/cancel-process", content=body, headers=headers).raise_for_status()
async def send():
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(url + "/v1/cancel-process", data=body) as response:
            response.raise_for_status()
asyncio.run(send())
"""


def test_bytes_are_compared_with_no_text(raw: RawServer) -> None:
    done = subprocess.run(
        [sys.executable, "-bb", "-c", BYTES],
        env={"URL": raw.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert raw.lines == ["POST /v2/jobs/42/cancel"] * 2
