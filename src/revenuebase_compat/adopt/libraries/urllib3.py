"""urllib3, 1.26 and 2, which requests sends with."""

from __future__ import annotations

import copy
import io
import sys
from functools import lru_cache
from typing import Any, NamedTuple

from revenuebase_compat.adopt import interceptor
from revenuebase_compat.adopt.rewrite import to_v1_body, to_v2_target
from revenuebase_compat.client.process import from_handler
from revenuebase_compat.core.endpoints import Endpoint, Request
from revenuebase_compat.core.responses import GONE
from revenuebase_compat.core.routing import may_leave_v1

from .base import LibraryCall, clone, raw_headers, without_body_headers


class Urllib3Call(LibraryCall):
    """Given are the method and the URL."""

    #: urllib3's ``Retry``, which while the interpreter ends is in no module any more.
    retry: Any = None
    #: Whether a 410 of v1 may be followed.
    may_follow = True
    _failed: Any = ()

    async def send(self, endpoint: Endpoint, moved: Request | None) -> Any:
        (method, url), options = self._given, self._options
        target, self._failed = url, []
        # Followed to v2, where it can be; else the caller's policy is to have its way.
        followed = moved is None and self.may_follow
        followed = followed and (endpoint.names_job or self.replayable())
        if moved is not None:
            method, target = moved.method, to_v2_target(self._base_url, url, moved)
            if endpoint.names_job:
                headers = without_body_headers(options["headers"])
                about_body = {"body": None, "headers": headers, "chunked": False, "body_pos": None}
                options = {**options, **about_body}
        policy = _policy(self._owner, options, self.retry)
        moved_to = _Moved(self._given, (method, target), followed, self._failed)
        if isinstance(policy, _Policy):
            policy.revenuebase_moved = moved_to
        response = self._original(self._owner, method, target, **{**options, "retries": policy})
        sent: Any = getattr(response, "_request_url", None)
        if moved_to.covers(method, sent):
            response._request_url = moved_to.shown(sent)
        policy = getattr(response, "retries", None)
        if isinstance(policy, _Policy):
            vars(policy).pop("revenuebase_moved", None)
            policy.__class__ = type(policy).__mro__[2]  # the caller's own
        return response

    def unsent(self, error: Exception) -> bool:
        # Of what was repeated, every attempt. A MaxRetryError and a ProxyError have a cause.
        errors = [*self._failed, getattr(error, "reason", None) or error]
        causes = [getattr(one, "original_error", None) or one for one in errors]
        return all(map(super().unsent, causes))

    async def close(self, response: Any) -> None:
        response.drain_conn()

    def redirect(self, response: Any, status: int, location: str) -> None:
        response.status = status
        response.headers["Location"] = location

    async def translate(self, response: Any) -> Any:
        if response._body:  # read and decompressed already
            response._body = to_v1_body(422, [], response._body)
            return response
        headers = response.headers.copy()
        body = to_v1_body(422, raw_headers(headers), response.read(decode_content=False))
        headers.discard("Transfer-Encoding")
        headers["Content-Length"] = str(len(body))
        made = type(response)(
            io.BytesIO(body),
            headers=headers,
            status=422,
            version=response.version,
            reason=response.reason,
            preload_content=False,
            decode_content=self._options.get("decode_content", True),
            original_response=response._original_response,
            retries=response.retries,
            request_url=response._request_url,
        )
        vars(made).update(version_string=getattr(response, "version_string", ""))  # not of 1.26
        return made


class _Moved(NamedTuple):
    """Method and URL that the caller gave, those that are sent, and whether a 410 is ours."""

    given: tuple[str, str]
    sent: tuple[str, str]
    followed: bool
    #: The error of each attempt that the policy was asked about; ``None`` of one with an answer.
    failed: list[Any]

    def covers(self, method: Any, url: Any) -> bool:
        """Whether that is what is sent; urllib3 encodes the query in its own way."""
        sent = self.sent
        return isinstance(url, str) and (method, _path(url)) == (sent[0], _path(sent[1]))

    def shown(self, url: str) -> str:
        """That URL as the caller is to see it."""
        return _path(self.given[1]) + url.removeprefix(_path(url))


def _path(url: str) -> str:
    return url.partition("?")[0]


class _Policy:
    """Mixed into the caller's own ``Retry``: it decides on a request that has two methods.

    It repeats one only where it would have repeated both. What urllib3 sends again by a call of
    itself carries the policy, by which it is known to have been decided on.
    """

    #: By no name of the caller's; ``None`` of one that it makes by itself, until urllib3 has it.
    revenuebase_moved: _Moved | None = None

    def new(self, **kw: Any) -> Any:
        made = super().new(**kw)  # type: ignore[misc]
        made.revenuebase_moved = self.revenuebase_moved
        return made

    def is_retry(self, method: str, status_code: int, has_retry_after: bool = False) -> bool:
        moved, ask = self.revenuebase_moved, super().is_retry  # type: ignore[misc]
        if moved is not None and moved.followed and status_code == GONE:
            return False
        methods = [method]
        if moved is not None and method == moved.sent[0] != moved.given[0]:
            methods.insert(0, moved.given[0])
        return all(ask(one, status_code, has_retry_after) for one in methods)

    def increment(self, method: Any = None, url: Any = None, *args: Any, **kw: Any) -> Any:
        moved = self.revenuebase_moved
        if moved is not None:
            moved.failed.append(kw.get("error"))
            if moved.covers(method, url):
                url = moved.shown(url)
                if self._is_method_retryable(method):  # type: ignore[attr-defined]
                    method = moved.given[0]
        made = super().increment(method, url, *args, **kw)  # type: ignore[misc]
        if isinstance(made, _Policy):
            made.revenuebase_moved = moved
        return made


@lru_cache(maxsize=16)
def _copier(kind: type) -> Any:
    slots = any(vars(one).get("__slots__") for one in kind.__mro__)
    return copy.copy if slots else clone  # which knows of none, and is faster


@lru_cache(maxsize=16)
def _policy_class(theirs: Any) -> Any:
    return type(theirs.__name__, (_Policy, theirs), {"__module__": theirs.__module__})


def _policy(pool: Any, options: dict[str, Any], kind: Any) -> Any:
    """The caller's policy, as ``urlopen`` makes it of its arguments, with ours mixed in."""
    retries = options.get("retries")
    if not isinstance(retries, kind):
        redirect = options.get("redirect", True)
        retries = kind.from_int(retries, redirect=redirect, default=pool.retries)
    policy = _copier(retries.__class__)(retries)
    if not isinstance(retries, _Policy):  # else urllib3 sends it again, to somewhere else
        try:
            policy.__class__ = _policy_class(retries.__class__)
        except Exception as error:  # it does not take another class: it decides on what is sent
            if from_handler(error):
                raise
    return policy


#: What urlopen() of urllib3, 1.26 and 2, takes after the headers.
_MORE = (
    *("retries", "redirect", "assert_same_host", "timeout", "pool_timeout"),
    *("release_conn", "chunked", "body_pos", "preload_content", "decode_content"),
)


def urlopen(original: Any) -> Any:
    """The wrapper; argument names are those of the original, as other tools look for them."""
    retry = sys.modules["urllib3.util.retry"].Retry

    def urlopen(
        self: Any,
        method: str,
        url: str,
        body: Any = None,
        headers: Any = None,
        *args: Any,
        **kw: Any,
    ) -> Any:
        active = interceptor.active
        # By name, as some of the tools beneath us overlook what comes by position.
        if args:
            kw.update(zip(_MORE, args, strict=False))
        if active is not None and active.concerns(self.host, url):
            sent = self.headers if headers is None else headers
            endpoint = active.endpoint(method, self.scheme, self.host, self.port, url, sent)
            moved = getattr(kw.get("retries"), "revenuebase_moved", None)
            again = moved is not None and moved.covers(method, url)
            if endpoint is not None and kw.get("multiplexed"):
                active.out_of_reach(endpoint, "a multiplexed answer of urllib3-future")
            elif endpoint is not None and not again:
                kw.update(body=body, headers=sent)
                call = Urllib3Call(active.settings.base_url, original, self, method, url, **kw)
                call.retry, call.may_follow = retry, may_leave_v1(active.settings)
                return interceptor.run_now(interceptor.intercept(active, endpoint, call).send)
        return original(self, method, url, body=body, headers=headers, **kw)

    return urlopen
