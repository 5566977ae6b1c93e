"""http.client, which urllib.request sends with; an answer is fetched by a call of its own."""

from __future__ import annotations

import io
from collections.abc import Generator
from types import coroutine
from typing import Any, NamedTuple
from weakref import ref

from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.rewrite import to_v1_body, to_v2_target
from revenuebase_compat.core.endpoints import Endpoint, Request

from .base import LibraryCall, raw_headers, without_body_headers

#: Where a connection holds its recognised request until the answer is fetched.
_PENDING = "_revenuebase_compat_pending"

#: Whether any ever did. To look for one makes a connection's ``__dict__``, and its attributes slow.
_held = False

_NO_HEADERS: dict[str, str] = {}


class HttpClientCall(LibraryCall):
    """Given are the method and the URL; the owner is a weak reference, as it holds the steps.

    A connection that its program drops has to be closed at once, not by the garbage collector.
    """

    sent: Any = None

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        method, target, options = *self._given, self._options
        if moved is not None:
            method, target = moved.method, to_v2_target(self._base_url, target, moved)
            if endpoint.names_job:
                options = {"headers": without_body_headers(options.get("headers"))}
        self._original(self._owner(), method[:1] + method[1:], target, **options)
        # That very text: whatever the connection sends next, by whatever call, has another.
        self.sent = getattr(self._owner(), "_method", None)
        return await _fetched()

    async def close(self, response: Any) -> None:
        self._owner().close()  # what is left of an answer would be in the way

    def redirect(self, response: Any, status: int, location: str) -> None:
        response.status = response.code = status
        response.headers.replace_header("Location", location)

    async def translate(self, response: Any) -> Any:
        body = to_v1_body(422, raw_headers(response.headers), response.read())
        del response.headers["Transfer-Encoding"], response.headers["Content-Length"]
        response.headers["Content-Length"] = str(len(body))
        response.fp = io.BufferedReader(io.BytesIO(body))
        response.chunked, response.length = False, len(body)
        return response


@coroutine
def _fetched() -> Generator[None, Any, Any]:
    """Suspends until the application asks for its answer."""
    return (yield)


class _Pending(NamedTuple):
    """A recognised request whose answer was not asked for yet."""

    call: HttpClientCall
    steps: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return str, ()  # a copied or pickled connection is one without it


def _hold(connection: Any, pending: _Pending) -> None:
    global _held
    _held = True
    vars(connection)[_PENDING] = pending


def _take(connection: Any) -> _Pending | None:
    return vars(connection).pop(_PENDING, None) if _held else None


def request(original: Any) -> Any:
    """The wrapper; argument names are those of the original, as other tools look for them."""

    def request(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = _NO_HEADERS,
        *,
        encode_chunked: bool = False,
    ) -> None:
        active = interceptor.active
        # What was not given is not handed on: what another tool does to a default is not to last.
        options = {"body": body} if body is not None else {}
        if headers is not _NO_HEADERS:
            options["headers"] = headers
        if encode_chunked:
            options["encode_chunked"] = encode_chunked
        _take(self)  # whose answer nobody fetched
        # Of a subclass that makes itself in another way, not all of them are there.
        host: Any = getattr(self, "_tunnel_host", None)
        port = getattr(self, "_tunnel_port", None)
        if host is None:
            host, port = getattr(self, "host", None), getattr(self, "port", None)
        named = isinstance(url, str) and isinstance(host, str)
        if active is not None and named and active.concerns(host, url) and not _of_urllib3(self):
            scheme = "https" if self.default_port == 443 else "http"
            if isinstance(port, str) and port.isdecimal():
                port = int(port)
            endpoint = active.endpoint(method, scheme, host, port, url, headers)
            if endpoint is not None:
                base_url = active.settings.base_url
                call = HttpClientCall(base_url, original, ref(self), method, url, **options)
                steps = interceptor.intercept(active, endpoint, call)
                interceptor.run_now(steps.send)
                _hold(self, _Pending(call, steps))
                return
        original(self, method, url, **options)

    return request


def _of_urllib3(connection: Any) -> bool:
    """Whether it is one of urllib3's, whose pool was patched: it was decided on there."""
    kinds = type(connection).__mro__
    return any(kind.__module__.partition(".")[0] == "urllib3" for kind in kinds)


def getresponse(original: Any) -> Any:
    """The wrapper, which goes on with a recognised request."""

    def getresponse(self: Any) -> Any:
        pending = _take(self)
        if not pending or pending.call.sent is not self._method:
            return original(self)
        while True:
            try:
                response = original(self)
            except BaseException as error:
                return interceptor.run_now(pending.steps.throw, error)
            found = interceptor.run_now(pending.steps.send, response)
            if found is not None:
                return found

    return getresponse
