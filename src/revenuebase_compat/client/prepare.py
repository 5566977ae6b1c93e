"""A request as httpx sends it; imported by the first call that sends, as it brings httpx along."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx

from revenuebase_compat._version import __version__
from revenuebase_compat.core.protocol import OWN_REQUEST_EXTENSION, Request
from revenuebase_compat.core.settings import Settings


class Preparer:
    """Makes requests to the server that the settings name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = server = httpx.URL(settings.base_url)
        self._parts = {
            "raw_scheme": server.raw_scheme,
            "raw_host": server.raw_host,
            "port": server.port,
        }
        self._prefix = server.raw_path.rstrip(b"/")
        #: By method and length of the body, which is all they depend on; the key is in them.
        self._headers: dict[tuple[str, int], httpx.Headers] = {}

    def own(self, request: Request) -> httpx.Request:
        """For a transport of ours."""
        method, path, body = request
        made = httpx.Request(
            method,
            self._server,
            headers=self._headers_of(method, body),
            stream=httpx.ByteStream(body) if body else _NO_BODY,
            extensions={OWN_REQUEST_EXTENSION: True},
        )
        made.url = _LazyURL(
            self._settings.base_url + path, raw_path=self._prefix + path.encode(), **self._parts
        )
        return made

    def theirs(self, client: Any, request: Request, timeout: Any) -> Any:
        """For a client of the caller's."""
        method, path, body = request
        return client.build_request(
            method,
            self._settings.base_url + path,
            content=body,
            headers=self._headers_of(method, body).raw,
            extensions={OWN_REQUEST_EXTENSION: True, "timeout": timeout},
        )

    def _headers_of(self, method: str, body: bytes) -> httpx.Headers:
        found = self._headers.get((method, len(body)))
        if found is None:
            assert self._settings.api_key is not None  # noqa: S101 (the flow has asked)
            found = self._headers[method, len(body)] = httpx.Headers(
                {
                    "Host": self._settings.base_url.split("/")[2],
                    "x-key": self._settings.api_key.reveal(),
                    "Accept": "application/json",
                    "Accept-Encoding": "identity",
                    "User-Agent": f"revenuebase-compat/{__version__}",
                    **({"Content-Type": "application/json"} if body else {}),
                    **({"Content-Length": str(len(body))} if method == "POST" else {}),
                }
            )
        return found


class _LazyURL(httpx.URL):
    """A URL that is parsed if somebody asks for more than the parts that a transport reads.

    httpx parses character by character, which would cost as much as the flow of the call.
    """

    raw_scheme = raw_host = raw_path = b""
    port = None

    def __init__(self, text: str, **parts: Any) -> None:
        vars(self).update(parts, _text=text)

    def __getattr__(self, name: str) -> Any:
        parsed = vars(httpx.URL(self._text)) if "_text" in vars(self) else {}
        if name not in parsed:
            raise AttributeError(name)
        vars(self).update(parsed)
        return parsed[name]


class _NoBody(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Nothing at all, where httpx's own would have an empty piece go through all layers."""

    def __iter__(self) -> Iterator[bytes]:
        return iter(())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


_NO_BODY = _NoBody()
