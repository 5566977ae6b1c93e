"""What the interceptor asks of a library's call, and what the calls share."""

from __future__ import annotations

from typing import Any, Protocol

from revenuebase_compat.adopt.rewrite import Headers
from revenuebase_compat.core.endpoints import Endpoint, Request


class LibraryCall(Protocol):
    """A request that was recognised: what the library's function was called on, and with.

    The steps are coroutines; those of a synchronous library never suspend (but ``http_client``'s,
    whose answer is fetched by a call of its own). Every request goes through the library's own
    function, in the caller's own pool.
    """

    asynchronous: bool

    def encoding(self) -> Headers:
        """The Content-Encoding of the request's body, if it has one."""

    async def peek(self) -> bytes:
        """The body, read ahead; what is sent stays the same, byte for byte."""

    def replayable(self) -> bool:
        """Whether the body can be sent a second time: there is none, or it is bytes or text."""

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        """The moved request, or the caller's own where it is ``None``."""

    def headers_of(self, response: Any) -> Headers:
        """Of an answer."""

    async def close(self, response: Any) -> None:
        """Be done with an answer that nobody will see."""

    def redirect(self, response: Any, status: int, location: str) -> None:
        """Let an answer lead there, with that status."""

    async def translate(self, response: Any) -> Any:
        """A 422 in the words of v1."""


class Call:
    """What all calls hold."""

    asynchronous = False

    def __init__(
        self, base_url: str, original: Any, owner: Any, given: list[Any], options: dict[str, Any]
    ) -> None:
        self._base_url = base_url
        self._original = original
        self._owner = owner
        self._given = given
        self._options = options

    async def _send(self, *given: Any, **options: Any) -> Any:
        answer = self._original(self._owner, *given, **options)
        return await answer if self.asynchronous else answer
