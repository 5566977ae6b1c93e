"""http.client, which urllib.request sends with; an answer is fetched by a call of its own."""

from __future__ import annotations

import io
from collections.abc import Generator
from functools import lru_cache
from types import coroutine
from typing import Any
from weakref import ref

from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.rewrite import to_v1_body, to_v2_target
from revenuebase_compat.core.endpoints import Endpoint, Request

from .base import LibraryCall, raw_headers, without_body_headers

#: Where a connection holds the steps of its recognised request until the answer is fetched.
_STEPS = "_revenuebase_compat_steps"


class HttpClientCall(LibraryCall):
    """Given are the method and the URL; the owner is a weak reference, as it holds the steps.

    A connection that its program drops has to be closed at once, not by the garbage collector.
    """

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        method, target, options = *self._given, self._options
        if moved is not None:
            method, target = moved.method, to_v2_target(self._base_url, target, moved)
            if endpoint.names_job:
                options = {"headers": without_body_headers(options["headers"])}
        self._original(self._owner(), method, target, **options)
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
        response.fp, response.chunked, response.length = io.BytesIO(body), False, len(body)
        return response


@coroutine
def _fetched() -> Generator[None, Any, Any]:
    """Suspends until the application asks for its answer."""
    return (yield)


@lru_cache(maxsize=64)
def _of_urllib3(kind: Any) -> bool:
    """Whether a connection is one of urllib3's, whose pool was patched: it was decided on there."""
    return any(base.__module__.partition(".")[0] == "urllib3" for base in kind.__mro__)


def request(original: Any) -> Any:
    """The wrapper; argument names are those of the original, as other tools look for them."""

    def request(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = {},  # noqa: B006 (as it is there)
        *,
        encode_chunked: bool = False,
    ) -> None:
        active = interceptor.active
        options = {"body": body, "headers": headers, "encode_chunked": encode_chunked}
        vars(self).pop(_STEPS, None)  # of a request whose answer nobody fetched
        kind: Any = type(self)
        host, port = self.host, self.port
        if self._tunnel_host is not None:
            host, port = self._tunnel_host, self._tunnel_port
        if active is not None and active.concerns(host, url) and not _of_urllib3(kind):
            scheme = "https" if self.default_port == 443 else "http"
            endpoint = active.endpoint(method, scheme, host, port, url, headers)
            if endpoint is not None:
                base_url = active.settings.base_url
                call = HttpClientCall(base_url, original, ref(self), method, url, **options)
                steps = interceptor.intercept(active, endpoint, call)
                interceptor.run_now(steps)
                vars(self)[_STEPS] = steps
                return
        original(self, method, url, **options)

    return request


def getresponse(original: Any) -> Any:
    """The wrapper, which goes on with a recognised request."""

    def getresponse(self: Any) -> Any:
        steps = vars(self).pop(_STEPS, None)
        if steps is None:
            return original(self)
        while True:
            try:
                response = original(self)
            except BaseException as error:
                return steps.throw(error)
            try:
                steps.send(response)
            except StopIteration as stop:
                return stop.value

    return getresponse
