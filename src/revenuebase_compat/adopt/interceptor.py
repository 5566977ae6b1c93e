"""What becomes of one v1 request of the application, whatever library it is sent with.

``active`` is what ``install`` put in force. What fails before a request is sent is logged, and the
request sent as it was; once one was sent to v2, v1 never sees it. Nothing here is marked on a
thread or a task: a request that is made while another is under way is a request like any other.

Patching runs inside the import of a patched library, so nothing imported here may lead to one. What
a request needs is imported and built at the latest when an ``Interceptor`` is made: a fork in the
middle of a request finds nothing half done.
"""

from __future__ import annotations

import ipaddress  # noqa: F401 (the first look at another host would import it)
import logging
import os
import sys
import zlib  # noqa: F401 (as would the first compressed body)
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from revenuebase_compat.client import flags, notices
from revenuebase_compat.client.process import from_handler, write_stderr
from revenuebase_compat.client.runtime import call_context
from revenuebase_compat.core.calls import now_of
from revenuebase_compat.core.decoding import Response
from revenuebase_compat.core.endpoints import BY_V1_CALL, CANCEL, CREDITS, START, Endpoint, Request
from revenuebase_compat.core.errors import ApiVersionRetiredError, CancelError, ConfigurationError
from revenuebase_compat.core.routes import V1
from revenuebase_compat.core.routing import EvaluateFlag
from revenuebase_compat.core.settings import Settings, is_local

from . import rewrite
from .libraries.base import LibraryCall, as_bytes
from .report import Fate, Report

#: Whose code stands between the user's line and ours.
SKIPPED_FRAMES = frozenset(
    {"revenuebase_compat", "revenuebase_sdk", "httpx", "httpx2", "httpcore", "httpcore2"}
    | {"requests", "urllib3", "http", "urllib", "aiohttp", "anyio", "asyncio", "concurrent"}
    | {"threading", "contextlib", "opentelemetry", "wrapt"}
)

#: v1's paths, for a first look at requests to other hosts.
V1_PATHS = frozenset(path for _, path in BY_V1_CALL)
V1_ENDINGS = tuple(V1_PATHS)
RAW_V1_PATHS = frozenset(path.encode() for path in V1_PATHS)

_LOGGER = logging.getLogger("revenuebase_compat")

#: Decides from now on; ``None``: everything passes.
active: Interceptor | None = None


class Interceptor:
    """The settings in force, as ``patching.install`` takes them, and what is decided by them."""

    def __init__(self, settings: Settings, *, strict: bool, rehearse: bool) -> None:
        self.settings = settings
        self.strict = strict or rehearse
        self.rehearse = rehearse
        self.report = Report.from_env(os.environ)
        self.host = urlsplit(settings.base_url).hostname or ""
        self.raw_host = self.host.encode()
        self.context = call_context(
            settings, lambda notice: notices.tell(notice, notices.call_site(SKIPPED_FRAMES))
        )

    def concerns(self, host: str, target: str) -> bool:
        """A first look, as most requests are none of v1."""
        path = target.partition("?")[0]
        return self.host in host.lower() or path[:1] != "/" or path in V1_PATHS

    def endpoint(
        self, method: str, scheme: str, host: str, port: int | None, target: str, headers: Any
    ) -> Endpoint | None:
        """The endpoint to decide on; ``None`` for what passes. ``headers``: names, or pairs."""
        try:
            found = rewrite.recognise(self.settings.base_url, method, scheme, host, port, target)
            if found is None:
                endpoint = BY_V1_CALL.get((method, target.partition("?")[0]))
                if endpoint is not None:
                    where = f"{scheme}://{host}{f':{port}' if port else ''}"
                    self._other_host(endpoint, where, host.lower(), port, headers)
            elif found.v2_path is None:
                # Not the path of an unknown one, which may hold anything.
                call = found.call if found.path in V1_PATHS else f"{method} /v1/…"
                self.record(call, "left")
                self.leave(found, call)
            else:
                return found
        except Exception as error:
            self.fail_open(error)
        return None

    def resolve_names(self) -> None:
        """Import what settings name by a string: where it is asked for, outside any import."""
        given = self.settings.v2_flag
        if self.strict:
            flags.resolve("on_event", self.settings.on_event)  # not after the request
        if not isinstance(given, str) or now_of(self.context) >= self.settings.v1_sunset:
            return
        try:
            flags.resolve("v2_flag", given)  # which is kept
        except ConfigurationError as error:
            if self.strict or isinstance(error, flags.Unfinished):
                raise
            write_stderr(f"{error}; no job is moved before the sunset")
            no_share: Any = 0
            self.settings = replace(self.settings, v2_flag=None, v2_rollout=no_share)
            self.context = self.context._replace(settings=self.settings)

    def fail_open(self, error: Exception, so: str = "a request to API v1 is sent as it is") -> None:
        """Let it pass, as nothing was sent yet."""
        # -W error is the user's own wish, and a time limit is not ours to swallow.
        if self.strict or isinstance(error, Warning) or from_handler(error):
            raise error
        words = f": {error}" if isinstance(error, CancelError) else ""  # others may quote a header
        self.warn((so, type(error)), f"{so}, after {type(error).__name__}{words}")

    def warn(self, key: object, message: str) -> None:
        """Log it once an hour."""
        notices.log(("adopt", key), "warning", message)

    def record(self, call: str, fate: Fate) -> None:
        """Write down what became of a request."""
        if self.report is not None:
            site = notices.call_site(SKIPPED_FRAMES)
            self.report.record(call, fate, self.report.site(site.filename, site.lineno))

    def moved(self, endpoint: Endpoint, fate: Fate) -> None:
        """A request goes to v2."""
        if _LOGGER.isEnabledFor(logging.INFO):  # most programs never see it
            words = f"this program's {endpoint.call} is sent as {endpoint.successor}"
            notices.log(("moved", endpoint.name), "info", words)
        self.record(endpoint.call, fate)

    def refuse(self, what: str, *, decided: bool = False, advice: str = "") -> None:
        """Raise where nothing may be left to v1: in a rehearsal, and under strict once v1 is gone,
        but for what the settings have ``decided``."""
        retired = self.strict and not decided and now_of(self.context) >= self.settings.v1_sunset
        if self.rehearse or retired:
            raise ApiVersionRetiredError(
                f"{'rehearsal' if self.rehearse else 'strict'}: {what} would be sent to "
                f"RevenueBase API v1{advice}",
                api_version=V1,
            )

    def leave(self, endpoint: Endpoint, call: str = "") -> None:
        """A request goes to v1: by the settings, or as there is no successor of that ``call``."""
        advice = rewrite.NO_FILE if endpoint is START else ""
        self.refuse(call or endpoint.call, decided=not call, advice=advice)
        if endpoint is CANCEL:
            return  # its notices are those of the facade
        now = now_of(self.context)
        said = rewrite.pass_through(self.settings, now, endpoint, call or endpoint.call)
        notices.log_left(*said)
        if endpoint is START:
            notices.warn_at(notices.call_site(SKIPPED_FRAMES), said[-1])

    def out_of_reach(self, endpoint: Endpoint, why: str) -> None:
        """A request cannot be moved, for a reason that lies in how it is sent."""
        self.record(endpoint.call, "left")
        self.fail_open(ConfigurationError(f"{endpoint.call} cannot be moved: {why}"))

    def _other_host(
        self, endpoint: Endpoint, where: str, host: str, port: int | None, headers: Any
    ) -> None:
        base_url = self.settings.base_url
        # localhost and 127.0.0.1 are one server, by two names.
        alias = is_local(self.host) and is_local(_written_out(host.strip("[]")))
        alias = alias and port == rewrite.origin(base_url)[2]
        # Other APIs have a /v1/credits, too, and a key in that header with it.
        ours = endpoint is not CREDITS or "revenuebase" in host
        known = alias or (ours and any(map(_is_key, headers)))
        words = (
            f"{endpoint.call} to {where} passes as it is, as base_url is {base_url}: to move it, "
            "set REVENUEBASE_BASE_URL to the one that the program uses"
        )
        if known:
            self.record(endpoint.call, "left")
        if alias and self.strict:
            raise ConfigurationError(words)
        if known or endpoint is CANCEL:
            self.warn("elsewhere", words)


def _written_out(host: str) -> str:
    """An IPv4 address in full: 127.1 is 127.0.0.1 for all who connect."""
    socket: Any = sys.modules["socket"]  # which the sender has loaded
    try:
        return str(socket.inet_ntoa(socket.inet_aton(host)))
    except (OSError, ValueError):  # a name, or IPv6
        return host


def _is_key(header: Any) -> bool:
    return as_bytes(header[0] if isinstance(header, tuple) else header).lower() == b"x-key"


async def intercept(active: Interceptor, endpoint: Endpoint, call: LibraryCall) -> Any:
    """One recognised request, from its body to the answer that its caller sees."""
    fate: Fate = "left"
    try:
        steps, moved = await _decide(active, endpoint, call)
        if steps is None:
            return await call.send(endpoint, None)
        following: Fate = "moved"
        try:
            while True:
                if moved is not None:
                    fate = following
                    active.moved(endpoint, fate)
                response = await call.send(endpoint, moved)
                if not isinstance(response.status, int):
                    return response  # a test's stand-in
                # Of v2's 200, which passes as it is, no header is read.
                plain = moved is not None and response.status == 200
                answer = Response(response.status, () if plain else call.headers_of(response))
                command = steps.send(answer)
                await call.close(response)
                moved, following = command.request, "followed"
        except StopIteration:  # it was the last answer
            pass
        except BaseException as error:
            steps.throw(error)
            raise
    finally:
        if fate == "left":
            active.record(endpoint.call, fate)
    if moved is None or plain:
        return response
    location = answer.header(b"location")
    if location:
        where = rewrite.to_v1_location(active.settings.base_url + moved.path, location)
        call.redirect(response, rewrite.to_v1_status(endpoint, answer.status), where)
    if answer.status == 422 and endpoint.names_job:
        response = await call.translate(response)
    return response


async def _decide(
    active: Interceptor, endpoint: Endpoint, call: LibraryCall
) -> tuple[Any, Request | None]:
    """``rewrite.move`` up to its first ``Forward``, and what that one sends; or nothing of ours."""
    try:
        active.resolve_names()
        process_id = None
        if endpoint.names_job:
            process_id = rewrite.process_id_of(call.encoding(), await call.peek())
            if process_id is None:
                active.refuse(f"a request to {endpoint.call} that names no job")
                active.warn((endpoint, "no job"), rewrite.no_job_words(endpoint))
                return None, None
        steps: Any = rewrite.move(
            active.context,
            endpoint,
            process_id,
            replayable=call.replayable(),
            strict=active.strict,
            leave=active.leave,
            unsent=call.unsent,
        )
        command = next(steps)
        while isinstance(command, EvaluateFlag):
            ask: Any = flags.ask_async if call.asynchronous else flags.ask
            asked = ask(active.settings.v2_flag, command.context)
            command = steps.send(await asked if call.asynchronous else asked)
    except Exception as error:
        active.fail_open(error)
        return None, None
    return steps, command.request


def run_now(step: Callable[[Any], Any], value: Any = None) -> Any:
    """What a synchronous call comes to by its ``send`` or ``throw``; ``None``: it goes on."""
    try:
        step(value)
    except StopIteration as stop:
        return stop.value
    except RuntimeError as error:
        if isinstance(error.__cause__, StopIteration):  # of a stand-in that has no more answers
            raise error.__cause__ from None
        raise
    return None
