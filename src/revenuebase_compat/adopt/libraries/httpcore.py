"""httpcore and httpcore2, which httpx and httpx2 send with."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.rewrite import Headers, to_v1_body, to_v2_headers, to_v2_target
from revenuebase_compat.core.endpoints import OWN_REQUEST_EXTENSION

from .base import LibraryCall, clone, read_ahead

if TYPE_CHECKING:  # at run time, the annotations of what is wrapped are to find their own Request
    from revenuebase_compat.core.endpoints import Endpoint, Request


class HttpcoreCall(LibraryCall):
    """Given is the request."""

    def encoding(self) -> Headers:
        return self._given[0].headers  # type: ignore[no-any-return]

    async def peek(self) -> bytes:
        request = self._given[0]
        if self.replayable():
            return b"".join(request.stream)
        seen, stream = await read_ahead(request.stream, asynchronous=self.asynchronous)
        self._given = (_like(request, headers=[*request.headers], stream=stream),)
        return seen

    def replayable(self) -> bool:
        # httpx and httpcore each name so what holds bytes.
        kind = type(self._given[0].stream)
        return kind.__name__ == "ByteStream" and kind.__module__.startswith(("httpx", "httpcore"))

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        [request] = self._given
        if moved is not None:
            url = clone(request.url)
            target = to_v2_target(self._base_url, url.target.decode("latin-1"), moved)
            url.target = target.encode("latin-1")
            request = _like(
                request,
                method=moved.method.encode(),
                url=url,
                headers=to_v2_headers(request.headers, endpoint),
                stream=_empty(request.__class__) if endpoint.names_job else request.stream,
            )
        answer = self._original(self._owner, request)
        return await answer if self.asynchronous else answer

    def headers_of(self, response: Any) -> Headers:
        return response.headers  # type: ignore[no-any-return]

    async def close(self, response: Any) -> None:
        if self.asynchronous:
            await response.aclose()
        else:
            response.close()

    def redirect(self, response: Any, status: int, location: str) -> None:
        response.status = status
        response.headers[:] = [
            (name, location.encode("latin-1") if name.lower() == b"location" else value)
            for name, value in response.headers
        ]

    async def translate(self, response: Any) -> Any:
        body = await response.aread() if self.asynchronous else response.read()
        await self.close(response)
        body = to_v1_body(422, response.headers, body)
        framing = (b"content-length", b"transfer-encoding")
        headers = [pair for pair in response.headers if pair[0].lower() not in framing]
        headers.append((b"Content-Length", b"%d" % len(body)))
        return type(response)(422, headers=headers, content=body, extensions=response.extensions)


class AsyncHttpcoreCall(HttpcoreCall):
    asynchronous = True


def _like(request: Any, **changed: Any) -> Any:
    """A request like the caller's, which is left as it was."""
    like = clone(request)
    vars(like).update(changed)
    if "target" in like.extensions:  # it would overrule the URL, which holds it already
        like.extensions = {**like.extensions}
        del like.extensions["target"]
    return like


@lru_cache(maxsize=8)
def _empty(kind: Any) -> Any:
    """A body without a byte, of httpcore or httpcore2."""
    return kind("GET", "http://localhost/").stream


# Wrappers. Argument names are those of the originals, as other tools look for them.


def handle_request(original: Any) -> Any:
    def handle_request(self: Any, request: Any) -> Any:
        steps = _recognised(HttpcoreCall, original, self, request)
        return original(self, request) if steps is None else interceptor.run_now(steps.send)

    return handle_request


def handle_async_request(original: Any) -> Any:
    async def handle_async_request(self: Any, request: Any) -> Any:
        steps = _recognised(AsyncHttpcoreCall, original, self, request)
        return await (original(self, request) if steps is None else steps)

    return handle_async_request


def _recognised(kind: type[HttpcoreCall], original: Any, pool: Any, request: Any) -> Any:
    active, url = interceptor.active, request.url
    # What our own clients send was decided on by them.
    if active is None or OWN_REQUEST_EXTENSION in request.extensions:
        return None
    if (
        active.raw_host not in url.host.lower()
        and url.target.partition(b"?")[0] not in interceptor.RAW_V1_PATHS
    ):
        return None
    parts = (request.method, url.scheme, url.host, url.target)
    method, scheme, host, target = [part.decode("latin-1") for part in parts]
    endpoint = active.endpoint(method, scheme, host, url.port, target, request.headers)
    if endpoint is None:
        return None
    call = kind(active.settings.base_url, original, pool, request)
    return interceptor.intercept(active, endpoint, call)
