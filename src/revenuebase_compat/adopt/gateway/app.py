"""The gateway: a loopback reverse proxy that moves v1 requests of clients that will not change.

The upstream is fixed at the start, and nothing a client sends leads anywhere else. Requests of v1
are decided on as ``adopt`` decides in a process; everything else passes as it is, streamed both
ways. The key travels in the client's own ``x-key``; the gateway has none.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from revenuebase_compat.adopt import rewrite
from revenuebase_compat.adopt.report import FATES, Report
from revenuebase_compat.client import flags, notices
from revenuebase_compat.client.runtime import call_context, utc_now
from revenuebase_compat.core import responses
from revenuebase_compat.core.calls import Notice, now_of
from revenuebase_compat.core.decoding import Response
from revenuebase_compat.core.endpoints import CANCEL, DOWNLOAD, ENDPOINTS, UPLOAD, Endpoint, Request
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

from . import messages
from .messages import Answer, Chunks, Incoming, Message, Receive, Send, chain, own_answer, peek
from .pool import UPSTREAM_ERRORS, Connection, Pool

if TYPE_CHECKING:
    from revenuebase_compat.adopt.report import Fate

#: Seconds for which ``/-/readyz`` does not look again.
READY_FOR = 10.0

#: No line of a user's is on the stack: warnings point here.
_SITE = notices.CallSite(sys._getframe())
_ACCESS = logging.getLogger("revenuebase_compat.access")


class Gateway:
    """The ASGI application.

    Args:
        settings: decide as they do for ``Client``; their key and base URL are not used.
        upstream: where every request goes; what is right for ``base_url`` is right here.
        allow_hosts: good in a ``Host`` header, as IP addresses, ``localhost`` and the upstream are.
        access_log: log every request, by the logger ``revenuebase_compat.access``.
        report: where each v1 request is written down.
        clock, monotonic: as ``Client`` takes them.

    Raises:
        ConfigurationError: the upstream, the flag, or a proxy or certificates of the environment.
    """

    def __init__(
        self,
        settings: Settings,
        upstream: str = DEFAULT_BASE_URL,
        *,
        allow_hosts: Iterable[str] = (),
        access_log: bool = False,
        report: Report | None = None,
        clock: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self.settings = replace(settings, api_key=None, base_url=upstream)
        except ConfigurationError as error:
            why = str(error).replace("base_url (REVENUEBASE_BASE_URL)", "upstream (--upstream)")
            raise ConfigurationError(why) from None
        flags.resolve("v2_flag", settings.v2_flag)
        self.context = call_context(self.settings, _tell, clock, monotonic)
        scheme, host, port, self.prefix = rewrite.origin(self.settings.base_url)
        self.origin = scheme, host, port
        self.netloc = urlsplit(self.settings.base_url).netloc
        self.hosts = frozenset({"localhost", host, *(name.lower() for name in allow_hosts)})
        self.pseudonym = b"revenuebase-compat-" + secrets.token_hex(4).encode()
        self.pool = Pool(self.settings)
        self.report, self._access_log = report, access_log
        #: Once a stop has begun, every answer asks for its connection to be closed.
        self.stopping = False
        self._checking, self._checked, self._why_not = asyncio.Lock(), float("-inf"), ""
        self._registry = CollectorRegistry()
        here: Any = {"namespace": "revenuebase_compat_gateway", "registry": self._registry}
        words = "Requests by v1 endpoint and fate."
        requests = Counter("requests", words, ["endpoint", "fate"], **here)
        pairs = [(one.name, fate) for one in ENDPOINTS for fate in FATES]
        pairs += [("unknown", "left"), ("other", "passed")]
        self._requests = {pair: requests.labels(*pair) for pair in pairs}
        self._answers = Counter("answers", "Answers by status.", ["status"], **here)
        words = "Of requests that were passed on: from their head to the end of their answer."
        self._seconds = Histogram("request_seconds", words, **here)
        self._in_flight = Gauge("in_flight", "Requests under way.", **here)

    async def aclose(self) -> None:
        """Close the connections to the upstream."""
        self.pool.close()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        call = _Call(self, scope, receive, send)
        own = messages.refusal(call, self.hosts, self.pseudonym) or await self._own(call.path)
        began = time.perf_counter()
        try:
            # Cancelled where the client left, or where a stop has waited long enough.
            with self._in_flight.track_inprogress(), suppress(asyncio.CancelledError):
                await call.run(own)
        finally:
            self._finished(call, time.perf_counter() - began)

    def _finished(self, call: _Call, seconds: float) -> None:
        fate, status = call.fate, call.status
        if fate is not None:
            self._requests[call.kind, fate].inc()
            self._seconds.observe(seconds)
            if self.report is not None and fate != "passed":
                self.report.record(call.name, fate, "gateway")
        if status:
            self._answers.labels(status).inc()
        if self._access_log:  # never query, headers or body
            own = call.path.startswith("/-/") and status != 403
            what = call.method, call.path, fate or ("answered" if own else "refused")
            _ACCESS.info("%s %s %s %d %.3f s", *what, status, seconds)

    async def _own(self, path: str) -> Answer | None:
        if not path.startswith("/-/"):
            return None
        if path == "/-/healthz":
            return own_answer(200, {"status": "ok", "upstream": self.settings.base_url})
        if path == "/-/readyz":
            why = "stopping" if self.stopping else await self._why_not_ready()
            return own_answer(503, {"status": why}) if why else own_answer(200, {"status": "ready"})
        if path == "/-/metrics":
            text = generate_latest(self._registry)
            headers = messages.own_headers(text, b"text/plain; version=0.0.4; charset=utf-8")
            return Answer(200, headers, chain(text))
        return own_answer(404, {"detail": "the gateway has healthz, readyz and metrics"})

    async def _why_not_ready(self) -> str:
        """Why the upstream cannot be reached; empty where TCP and TLS succeed. Sends no request."""
        async with self._checking:
            if monotonic() - self._checked >= READY_FOR:
                self._why_not = ""
                try:
                    self.pool.release(await self.pool.connect())
                except UPSTREAM_ERRORS as error:
                    self._why_not = f"{type(error).__name__}: {error}"
                self._checked = monotonic()
            return self._why_not


class _Call(Incoming):
    """One request of a client's, from its head to the end of its answer."""

    def __init__(self, gateway: Gateway, scope: Message, receive: Receive, send: Send) -> None:
        super().__init__(scope, receive, gateway.settings.timeout)
        #: The name of the v1 endpoint it asks for, and what to call it.
        self.kind, self.name = "other", ""
        #: What becomes of it; ``None`` until something is about to be sent.
        self.fate: Fate | Literal["passed"] | None = None
        #: The answer's; 0 until there is one.
        self.status = 0
        self._gateway, self._settings, self._send = gateway, gateway.settings, send
        #: What is sent upstream: by which method, and which body, if any.
        self._verb = self.method
        self._body: Chunks | None = None
        self._connection: Connection | None = None

    async def run(self, own: Answer | None) -> None:
        """Answer the request; ``own`` is an answer that needs no upstream."""
        self.watch()
        try:
            await self._put(own or await self._answer())
        except messages.ClientLeft:
            return
        except UPSTREAM_ERRORS as error:
            if self.status:
                # A connection that breaks is all that tells the client that this is not the end.
                message = f"an answer of the gateway's upstream breaks off: {type(error).__name__}"
                notices.log(("cut", type(error)), "warning", message)
                return
            sent, status = self._connection is not None, 502
            why = f"no answer from {self._settings.base_url}: {type(error).__name__}: {error}"
            if isinstance(error, TimeoutError):
                status, awaited = 504, "answer" if sent else "answer to connect"
                if self.is_awaited:
                    status, awaited = 408, "whole request body"
                within = f"within {self._settings.timeout:.3g} s"
                why = f"no {awaited} {within}, for {self._settings.base_url}"
            await self._put(own_answer(status, {"detail": responses.readable(why), "sent": sent}))
        finally:
            self._release()
            if self.watcher is not None:
                self.watcher.cancel()
        # Last of all: for uvicorn, the exchange ends here.
        await self._send({"type": "http.response.body"})

    async def _put(self, answer: Answer) -> None:
        self.status, headers, body = answer
        if self._gateway.stopping or self.status == 408:
            headers = [*headers, (b"Connection", b"close")]
        head = {"type": "http.response.start", "status": self.status, "headers": headers}
        await self._send(head)
        async with aclosing(body):
            async for chunk in body:
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def _answer(self) -> Answer:
        base_url, gateway = self._settings.base_url, self._gateway
        self.target = gateway.prefix + self.target
        endpoint = rewrite.recognise(base_url, self.method, *gateway.origin, self.target)
        self._body = self.body() if self.has_body else None
        if endpoint is None:
            self.fate = "passed"
            return await self._forward()
        self.kind = endpoint.name
        # Not the path of an unknown one, which may hold anything.
        self.name = endpoint.call if endpoint.method else f"{self.method} /v1/…"
        if endpoint not in (UPLOAD, DOWNLOAD):  # these may take as long as their files are large
            self.deadline = asyncio.get_running_loop().time() + self._settings.timeout
        if endpoint.successor is None:
            self._left(endpoint)
            return await self._forward()
        process_id = None
        if endpoint.names_job:
            start, rest = await peek(self.body())
            self._body = chain(start, rest) if self.has_body else None
            process_id = None if rest else rewrite.process_id_of(self.headers, start)
            if process_id is None:
                self.fate = "left"
                words = rewrite.no_job_words(endpoint)
                notices.log(("gateway", "no job"), "warning", words)
                return await self._forward()
        return await self._move(endpoint, process_id)

    async def _move(self, endpoint: Endpoint, process_id: int | None) -> Answer:
        # A streamed body can be sent once; one that names a job is dropped on the way to v2.
        context, replayable = self._gateway.context, self._body is None
        steps = rewrite.move(context, endpoint, process_id, replayable=replayable, leave=self._left)
        moved: Request | None = None
        reply: Response | bool | None = None
        with closing(steps), suppress(StopIteration):
            while True:
                command = steps.send(reply)
                if isinstance(command, EvaluateFlag):
                    reply = await flags.ask_async(self._settings.v2_flag, command.context)
                    continue
                moved = command.request
                if moved is not None:
                    self._to_v2(endpoint, moved)
                try:
                    answer = await self._forward()
                except UPSTREAM_ERRORS as error:
                    steps.throw(error)  # which the event shall name, and which comes out again
                reply = Response(answer.status, answer.headers)
        if moved is None:
            return answer
        status = rewrite.to_v1_status(endpoint, answer.status)
        if status != 422 or not endpoint.names_job:
            return answer._replace(status=status)
        start, rest = await peek(answer.body)
        headers = answer.headers
        if rest is None:
            start = rewrite.to_v1_body(status, headers, start)
            headers = [pair for pair in headers if pair[0].lower() != b"content-length"]
            headers.append((b"Content-Length", b"%d" % len(start)))
        return Answer(status, headers, chain(start, rest))

    def _to_v2(self, endpoint: Endpoint, moved: Request) -> None:
        """Have the request be the one of v2 from here on."""
        self.fate = "followed" if self.fate == "left" else "moved"
        words = f"{endpoint.call} is sent as {endpoint.successor}"
        notices.log(("gateway", endpoint.name), "info", words)
        self._verb = moved.method
        self.target = rewrite.to_v2_target(self._settings.base_url, self.target, moved)
        self.headers = [*rewrite.to_v2_headers(self.headers, endpoint)]
        if endpoint.names_job:
            self._body = None

    def _left(self, endpoint: Endpoint) -> None:
        self.fate = "left"
        if endpoint is not CANCEL:  # its notices are those of the facade
            now = now_of(self._gateway.context)
            notices.log_left(*rewrite.pass_through(self._settings, now, endpoint, self.name))

    async def _forward(self) -> Answer:
        """Send the request as it is by now, and read its answer's head."""
        gateway, target = self._gateway, self.target.encode("ascii")
        headers = [(b"Host", gateway.netloc.encode()), *self.headers]
        headers.append((b"Via", b"1.1 " + gateway.pseudonym))
        if self._body is not None and self.is_chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        self._release()
        self._connection = await gateway.pool.acquire(self.deadline)
        answer = await self._connection.exchange(self._verb, target, headers, self._body)
        # Where it redirects to the upstream, it redirects to us.
        drop = b"content-length" if answer.status == 204 else b""  # RFC 9110, 8.6
        headers = [
            (name, self._here(value) if name.lower() == b"location" else value)
            for name, value in messages.end_to_end(answer.headers)
            if name.lower() != drop
        ]
        return answer._replace(headers=headers)

    def _release(self) -> None:
        if self._connection is not None:
            self._connection.finish()
            self._connection = None

    def _here(self, location: bytes) -> bytes:
        gateway = self._gateway
        base = f"{gateway.origin[0]}://{gateway.netloc}{self.target}"
        url = rewrite.to_v1_location(base, location.decode("latin-1"))
        with suppress(ValueError, KeyError):  # no URL, or none of http
            parts = urlsplit(url)
            ours = rewrite.origin(f"{parts.scheme}://{parts.netloc}")[:3] == gateway.origin
            if ours and f"{parts.path}/".startswith(f"{gateway.prefix}/"):
                here = self.host  # without one (HTTP/1.0), the path alone tells as much
                parts = parts._replace(netloc=here, path=parts.path[len(gateway.prefix) :])
                url = parts._replace(scheme="http" if here else "").geturl() or "/"
        return url.encode("latin-1")


def _tell(notice: Notice) -> None:
    # Where warnings are errors (-W error), there is no caller that one could reach.
    with suppress(notices.ApiDeprecationWarning):
        notices.tell(notice, _SITE)
