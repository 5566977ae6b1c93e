"""The patches: v1 requests of an application are moved inside its own connection pools.

===================  ===========================================================  ==============
module               what is patched                                              reaches
===================  ===========================================================  ==============
httpcore, httpcore2  ``ConnectionPool.handle_request``, and the asynchronous one  httpx, httpx2
urllib3              ``HTTPConnectionPool.urlopen``                               requests
http.client          ``HTTPConnection.request``                                   urllib.request
aiohttp              ``ClientSession._request``                                   aiohttp
revenuebase_sdk      names that a release has dropped (``sdk_names``)
===================  ===========================================================  ==============

So the application's TLS settings, proxies, timeouts and authentication hold. A module is patched
when the application imports it. What fails before a request is sent is logged, and the request
sent as it was; once one was sent to v2, v1 never sees it.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from revenuebase_compat.client import flags, notices
from revenuebase_compat.core.cancellation import CallContext, now_of
from revenuebase_compat.core.decoding import Response
from revenuebase_compat.core.errors import ApiVersionRetiredError, CancelError
from revenuebase_compat.core.notices import Notice
from revenuebase_compat.core.protocol import Request
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.settings import Settings
from revenuebase_compat.core.versions import V1

from . import rewrite, sdk_names
from .libraries.all import Aiohttp, AsyncHttpcore, HttpClient, Httpcore, Urllib3, busy
from .rewrite import Endpoint

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

#: Carried by our wrappers, and seen through those of other tools.
PATCH_MARK = "_revenuebase_compat"

#: Whose code stands between the user's line and ours.
SKIPPED_FRAMES = frozenset(
    {"revenuebase_compat", "revenuebase_sdk", "httpx", "httpx2", "httpcore", "httpcore2"}
    | {"requests", "urllib3", "http", "urllib", "aiohttp", "anyio", "asyncio", "concurrent"}
    | {"threading", "contextlib", "opentelemetry", "wrapt"}
)

_CANCEL = Endpoint.CANCEL.value
_RAW_CANCEL = _CANCEL.encode()

_interceptor: Interceptor | None = None
_applied: list[tuple[Any, str, Any, Any]] = []


def install(
    settings: Settings | None = None, *, strict: bool = False, rehearse: bool = False
) -> None:
    """MoveSteps this process's v1 requests from now on; called again, it only changes the settings.

    The flag of the settings is asked for each request. A key is not needed: requests have theirs.

    Args:
        settings: those of the environment, where none are given.
        strict: raise what would otherwise be logged, and the request sent as it was.
        rehearse: raise for every request that would be left to v1.

    Raises:
        ConfigurationError: a setting is wrong; nothing was changed.
    """
    global _interceptor
    _interceptor = Interceptor(settings or Settings.from_env(), strict, rehearse)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    for name in PATCH_POINTS:
        if name in sys.modules:
            _patch(sys.modules[name])


def uninstall() -> None:
    """Undo ``install``; a patch that another tool has wrapped since stays, and does nothing."""
    global _interceptor
    _interceptor = None
    # No lock, which a fork could leave held: two threads may have patched the same twice.
    for applied in reversed([*_applied]):
        owner, name, wrapper, original = applied
        if vars(owner).get(name) is wrapper:
            setattr(owner, name, original)
            _applied.remove(applied)
    sdk_names.remove()


class Interceptor:
    """The settings in force, and what is decided by them."""

    def __init__(self, settings: Settings, strict: bool, rehearse: bool) -> None:
        self.settings = settings
        self.strict = strict or rehearse
        self.rehearse = rehearse
        self.host = urlsplit(settings.base_url).hostname or ""
        self.raw_host = self.host.encode()

    @functools.cached_property
    def context(self) -> CallContext:
        from revenuebase_compat.client.runtime import call_context

        return call_context(self.settings, _tell)

    def endpoint(
        self, method: str, scheme: str, host: str, port: int | None, target: str
    ) -> Endpoint | None:
        """The endpoint to decide on; ``None`` for what passes as it is."""
        try:
            other = self.host not in host.lower() and target[:1] == "/"
            if (other and target != _CANCEL) or busy.get():
                return None
            base_url = self.settings.base_url
            found = rewrite.recognise(base_url, method, scheme, host, port, target)
            if found is Endpoint.OTHER:
                self.untouched(method, rewrite.v1_path(base_url, target) or "")
            elif found is not None:
                return found
            elif target == _CANCEL:
                where = f"{scheme}://{host}" + (f":{port}" if port else "")
                self.warn("elsewhere", rewrite.elsewhere(where, base_url))
        except Exception as error:
            self.fail_open(error)
        return None

    def fail_open(self, error: Exception, so: str = "a request to API v1 is sent as it is") -> None:
        """Fail open, as nothing was sent yet."""
        if self.strict or isinstance(error, Warning):  # -W error, which is the user's own wish
            raise error
        words = f": {error}" if isinstance(error, CancelError) else ""  # others may quote a header
        self.warn((so, type(error)), f"{so}, after {type(error).__name__}{words}")

    def warn(self, key: object, message: str) -> None:
        notices.log(("adopt", key), "warning", message, time.monotonic())

    def gone(self, what: str) -> None:
        """In a rehearsal, nothing may be left to v1."""
        if self.rehearse:
            raise ApiVersionRetiredError(
                f"rehearsal: {what} would be sent to RevenueBase API v1", api_version=V1
            )

    def untouched(self, method: str, path: str) -> None:
        self.gone(f"{method} {path}")
        said = rewrite.untouched(self.settings, now_of(self.context), method, path)
        notices.log_untouched(*said)


async def _adopt(interceptor: Interceptor, endpoint: Endpoint, call: Any) -> Any:
    """One recognised request, from its body to the answer that its caller sees."""
    steps, moved = await _decide(interceptor, endpoint, call, await call.peek())
    if moved is not None:
        words = rewrite.MOVED[endpoint]
        notices.log(("adopt", words), "info", words, time.monotonic())
    while True:
        try:
            response = await call.send(moved)
        except BaseException as error:
            if steps is not None:
                steps.throw(error)
            raise
        if steps is None:
            return response
        # Of v2's 200, which passes as it is, no header is read.
        plain = moved is not None and response.status == 200
        answer = Response(response.status, [] if plain else call.headers_of(response))
        try:
            after = steps.send(answer)
        except StopIteration:
            break
        await call.close(response)
        moved = after.request
    if moved is not None:
        location = answer.header(b"location")
        if location:
            url = interceptor.settings.base_url + moved.path
            call.redirect(response, rewrite.to_v1_location(url, location))
        if answer.status == 422:
            response = await call.translate(response)
    return response


async def _decide(
    interceptor: Interceptor, endpoint: Endpoint, call: Any, body: bytes
) -> tuple[Any, Request | None]:
    """``rewrite.move`` up to its first ``Forward``, and what that one sends; or nothing of ours."""
    try:
        process_id = rewrite.process_id_of(call.headers(), body)
        if process_id is None:
            interceptor.gone(f"a request to POST {endpoint.value} that names no job")
            interceptor.warn("no job", rewrite.no_job(endpoint))
            return None, None
        steps = rewrite.move(interceptor.context, endpoint, process_id, strict=interceptor.strict)
        command = next(steps)
        while isinstance(command, EvaluateFlag):
            ask: Any = flags.ask_async if call.asynchronous else flags.ask
            asked = ask(interceptor.settings.v2_flag, command.context)
            command = steps.send(await asked if call.asynchronous else asked)
        if command.request is None and endpoint is Endpoint.STATUS:
            interceptor.untouched("POST", endpoint.value)
    except Exception as error:
        interceptor.fail_open(error)
        return None, None
    return steps, command.request


def _now(steps: Any) -> Any:
    """What a synchronous call comes to; ``None`` where http.client's answer is to be fetched."""
    try:
        steps.send(None)
    except StopIteration as stop:
        return stop.value


# The wrappers. Argument names are those of the originals, as other tools look for them.


def _httpcore(original: Any) -> Any:
    def handle_request(self: Any, request: Any) -> Any:
        steps = _recognised(Httpcore, original, self, request)
        return original(self, request) if steps is None else _now(steps)

    return handle_request


def _httpcore_async(original: Any) -> Any:
    async def handle_async_request(self: Any, request: Any) -> Any:
        steps = _recognised(AsyncHttpcore, original, self, request)
        return await (original(self, request) if steps is None else steps)

    return handle_async_request


def _recognised(kind: type[Httpcore], original: Any, pool: Any, request: Any) -> Any:
    interceptor, url = _interceptor, request.url
    # What our own clients send was decided on by them.
    if interceptor is None or "revenuebase_compat" in request.extensions:
        return None
    if interceptor.raw_host not in url.host.lower() and url.target != _RAW_CANCEL:
        return None
    parts = (request.method, url.scheme, url.host, url.target)
    method, scheme, host, target = [part.decode("latin-1") for part in parts]
    endpoint = interceptor.endpoint(method, scheme, host, url.port, target)
    if endpoint is None:
        return None
    return _adopt(
        interceptor, endpoint, kind(interceptor.settings.base_url, original, pool, [request], {})
    )


#: What urlopen() of urllib3, 1.26 and 2, takes after the headers.
_MORE = (
    *("retries", "redirect", "assert_same_host", "timeout", "pool_timeout"),
    *("release_conn", "chunked", "body_pos", "preload_content", "decode_content"),
)


def _urllib3(original: Any) -> Any:
    def urlopen(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *args: Any,
        **kw: Any,
    ) -> Any:
        interceptor = _interceptor
        # By name, as some of the tools beneath us overlook what comes by position.
        if args:
            kw.update(zip(_MORE, args, strict=False))
        if interceptor is not None:
            endpoint = interceptor.endpoint(method, self.scheme, self.host, self.port, url)
            if endpoint is not None:
                options = {"body": body, "headers": headers, **kw}
                call = Urllib3(
                    interceptor.settings.base_url, original, self, [method, url], options
                )
                return _now(_adopt(interceptor, endpoint, call))
        return original(self, method, url, body=body, headers=headers, **kw)

    return urlopen


def _http_client(original: Any) -> Any:
    def request(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = {},  # noqa: B006 (as it is there)
        *,
        encode_chunked: bool = False,
    ) -> None:
        interceptor = _interceptor
        options = {"body": body, "headers": headers, "encode_chunked": encode_chunked}
        if hasattr(vars(self).get("getresponse"), PATCH_MARK):
            del self.getresponse  # of a request whose answer nobody fetched
        if interceptor is not None:
            scheme = "https" if self.default_port == 443 else "http"
            host, port = self.host, self.port
            if self._tunnel_host is not None:
                host, port = self._tunnel_host, self._tunnel_port
            endpoint = interceptor.endpoint(method, scheme, host, port, url)
            if endpoint is not None:
                call = HttpClient(
                    interceptor.settings.base_url, original, self, [method, url], options
                )
                steps = _adopt(interceptor, endpoint, call)
                _now(steps)
                self.getresponse = functools.partial(_fetch, self, steps)
                setattr(self.getresponse, PATCH_MARK, True)
                return
        original(self, method, url, **options)

    return request


def _fetch(connection: Any, steps: Any) -> Any:
    """``getresponse`` of one recognised request."""
    del connection.getresponse
    while True:
        try:
            response = connection.getresponse()
        except BaseException as error:
            return steps.throw(error)
        try:
            steps.send(response)
        except StopIteration as stop:
            return stop.value


def _aiohttp(original: Any) -> Any:
    async def _request(self: Any, method: str, str_or_url: Any, **kw: Any) -> Any:
        interceptor, url, endpoint = _interceptor, None, None
        text = str(str_or_url).lower()
        if interceptor and (self._base_url or interceptor.host in text or _CANCEL in text):
            with suppress(ValueError, TypeError):  # aiohttp says better that it is no URL
                url = self._build_url(str_or_url)
        if interceptor and url is not None and url.host:
            line = (method.upper(), url.scheme, url.host, url.port, url.raw_path_qs)
            endpoint = interceptor.endpoint(*line)
        if interceptor is None or endpoint is None:
            return await original(self, method, str_or_url, **kw)
        # Raised from within, it would show the URL of v2, and end a rehearsal at the 410.
        check = kw.pop("raise_for_status", None)
        check = self._raise_for_status if check is None else check
        options = {**kw, "raise_for_status": False}
        base_url = interceptor.settings.base_url
        call = Aiohttp(base_url, original, self, [method, str_or_url], options)
        response = await _adopt(interceptor, endpoint, call)
        if callable(check):
            await check(response)
        elif check:
            response.raise_for_status()
        return response

    return _request


PATCH_POINTS: dict[str, list[tuple[str, str, Callable[[Any], Any]]]] = {
    "httpcore": [
        ("ConnectionPool", "handle_request", _httpcore),
        ("AsyncConnectionPool", "handle_async_request", _httpcore_async),
    ],
    "urllib3.connectionpool": [("HTTPConnectionPool", "urlopen", _urllib3)],
    "http.client": [("HTTPConnection", "request", _http_client)],
    "aiohttp.client": [("ClientSession", "_request", _aiohttp)],
    "revenuebase_sdk": [],
}
PATCH_POINTS["httpcore2"] = PATCH_POINTS["httpcore"]


def _patch(module: ModuleType) -> None:
    interceptor = _interceptor
    if interceptor is None:
        return
    try:
        if module.__name__ == "revenuebase_sdk":
            sdk_names.restore(module)
        for owner, name, make in PATCH_POINTS[module.__name__]:
            _wrap(getattr(module, owner), name, make)
    except Exception as error:
        interceptor.fail_open(error, f"{module.__name__} is left as it is")


def _wrap(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    # By getattr: another tool's wrapper must be bound to the class before it is called.
    original = getattr(owner, name)
    if hasattr(original, PATCH_MARK):
        return
    wrapper = functools.update_wrapper(make(original), original)
    del wrapper.__wrapped__  # by which other tools undo what they take for their own
    setattr(wrapper, PATCH_MARK, True)
    setattr(owner, name, wrapper)
    _applied.append((owner, name, wrapper, original))


class _Finder:
    """On ``sys.meta_path``: finds what the others find, and has it patched once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _interceptor is None or name not in PATCH_POINTS:
            return None
        for finder in [*sys.meta_path]:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None
            if finder is not self and find is not None:
                spec = find(name, path, target)
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Another's loader, and the patching after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        found: ModuleType | None = self._loader.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _patch(module)


_FINDER: Any = _Finder()


def _tell(notice: Notice) -> None:
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if (frame.f_globals.get("__name__") or "").partition(".")[0] not in SKIPPED_FRAMES:
            break
        frame = frame.f_back
    notices.tell(notice, notices.CallSite(frame))
