"""The sandbox: the RevenueBase cancel API as a local FastAPI service, for trying out and for tests.

It answers both versions as the vendor publishes them, on loopback only, by a clock that can be set,
and plays outages on request. The core never imports it.
"""

import asyncio
import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import responses as reason_phrases
from itertools import chain, repeat
from typing import Annotated, Any

from revenuebase_compat.client.extras import missing_extra

try:
    import uvicorn
    from fastapi import Depends, FastAPI, HTTPException, Request, Security
    from fastapi.responses import JSONResponse
    from fastapi.security import APIKeyHeader
    from pydantic import BaseModel
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ImportError as error:
    raise missing_extra("the sandbox", "sandbox", error) from error

__all__ = ["Job", "RecordedRequest", "Sandbox"]

VERSIONS = ("v1", "v2")
ENDED = ("COMPLETED", "ERROR")
CANCELLED = ("CANCELLING", "CANCELLED")
STATES = ("QUEUED", "PROCESSING", *ENDED, *CANCELLED)
PUBLISHED_RATE = 60


@dataclass
class Job:
    process_id: int
    filename: str
    status: str
    cancelled_at: float = field(default=math.inf, compare=False, repr=False)  # monotonic


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it was answered; `status` is None where the answer was dropped."""

    method: str
    path: str
    status: int | None
    version: str


# The status to answer, None for hanging up; and whether the request takes effect all the same.
_Fault = tuple[int | None, bool]


class BatchEmailStatusRequest(BaseModel):
    process_id: int


class BatchEmailStatusResponse(BaseModel):
    process_id: int
    filename: str
    current_status: str
    message: str


def default_envelope(code: str, message: str) -> Any:
    return {"detail": {"error": code, "message": message}}


class Sandbox:
    """The service, its jobs and its clock. Inside a `with` block it serves on `base_url`.

    A job stays CANCELLING for `cancelling_for` real seconds, and is CANCELLED then.
    """

    base_url: str

    def __init__(
        self,
        *,
        api_key: str = "rb_test_sandbox",
        jobs: Mapping[int, str] | Iterable[int] | None = None,
        now: datetime | None = None,
        sunset: datetime = datetime(2026, 7, 7, tzinfo=timezone.utc),
        port: int = 0,
        rate_limit: int | None = None,
        announce: bool = False,
        cancelling_for: float = math.inf,
        envelope: Callable[[str, str], Any] = default_envelope,
    ) -> None:
        self.api_key = api_key
        self.now = now
        self.sunset = _aware("sunset", sunset)
        self.port = port
        self.rate_limit = rate_limit
        self.announce = announce
        self.cancelling_for = cancelling_for
        self.envelope = envelope
        self.jobs: dict[int, Job] = {}
        self.requests: list[RecordedRequest] = []
        self._hits: dict[bytes, list[float]] = {}
        self._faults: dict[str, Iterator[_Fault]] = {}
        seeds = jobs if isinstance(jobs, Mapping) else dict.fromkeys(jobs or (), "QUEUED")
        for process_id, status in seeds.items():
            self.add_job(process_id, status)
        self.app = _build_app(self)

    @property
    def now(self) -> datetime:
        return self._now or datetime.now(timezone.utc)

    @now.setter
    def now(self, value: datetime | None) -> None:
        # A clock that was set stands still until it is set again; None is the real one.
        self._now = None if value is None else _aware("now", value)

    def add_job(self, process_id: int, status: str = "QUEUED", filename: str | None = None) -> Job:
        if status not in STATES:
            raise ValueError(f"a job's status is one of {', '.join(STATES)}, not {status!r}")
        job = Job(process_id, filename or f"job-{process_id}.csv", status)
        self.jobs[process_id] = job
        return job

    def fail(
        self, version: str, status: int, *, times: int | None = None, after_applying: bool = False
    ) -> None:
        """Answer `status` to the next `times` requests of a version, or to all until `heal()`.

        The faults of a version are played in the order they were given.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"the status of a fault is 400 to 599, not {status!r}")
        self._add_fault(version, (status, after_applying), times)

    def drop(self, version: str, times: int = 1) -> None:
        """Do what the next `times` requests ask for, then hang up without a word."""
        self._add_fault(version, (None, True), times)

    def heal(self, version: str | None = None) -> None:
        for healed in VERSIONS if version is None else (version,):
            self._faults.pop(healed, None)

    def _add_fault(self, version: str, fault: _Fault, times: int | None) -> None:
        if version not in VERSIONS:
            raise ValueError(f"a version is one of {', '.join(VERSIONS)}, not {version!r}")
        played = repeat(fault) if times is None else repeat(fault, times)
        self._faults[version] = chain(self._faults.get(version, ()), played)

    def __enter__(self) -> "Sandbox":
        self._socket = socket.create_server(("127.0.0.1", self.port))
        # asyncio overlooks a socket made this way, and Nagle then delays every answer by 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._serve,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            proxy_headers=False,  # X-Forwarded-For would hide which connection drop() means
            date_header=False,
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        serving = self._server.serve(sockets=[self._socket])
        self._thread = threading.Thread(target=asyncio.run, args=(serving,), daemon=True)
        self._thread.start()
        # A server told to stop before it has started would not close what it opened.
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.001)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    def wait(self) -> None:
        """Block until Ctrl-C or SIGTERM; for the main thread, where signals arrive."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            while self._thread.is_alive():
                self._thread.join(1)
        signal.signal(signal.SIGTERM, before)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What concerns every request, whatever its route, between uvicorn and the app."""
        now, path = self.now, scope["path"]
        version = next((v for v in VERSIONS if path.startswith(f"/{v}/")), "")
        over_limit, headers = self._count(dict(scope["headers"]).get(b"x-key", b""), now)
        headers["date"] = _http_date(now)
        if self.announce and version == "v1":
            # Nobody published since when v1 is deprecated: half a year's notice is made up.
            since = int((self.sunset - timedelta(days=180)).timestamp())
            headers |= {"deprecation": f"@{since}", "sunset": _http_date(self.sunset)}
            headers["link"] = '</v2/jobs>; rel="successor-version"'

        def record(status: int | None) -> None:
            self.requests.append(RecordedRequest(scope["method"], path, status, version))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record(message["status"])  # before the client knows, or tests would race
                own = [(name.encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        async def discard(_message: Message) -> None:
            pass

        async def hang_up(scope: Scope, receive: Receive, _send: Send) -> None:
            record(None)
            for connection in self._server.server_state.connections:
                if isinstance(connection, H11Protocol) and connection.client == scope["client"]:
                    connection.transport.close()
            # uvicorn complains of an app that returns unanswered while the connection stands.
            while (await receive())["type"] != "http.disconnect":
                pass

        app: ASGIApp = self.app
        if version == "v1" and now >= self.sunset:
            app = JSONResponse({"detail": "API v1 is retired. Use /v2/ instead."}, 410)
        elif over_limit:
            app = JSONResponse({"detail": "Rate limit exceeded"}, 429)
        fault = next(self._faults.get(version, iter(())), None)
        if fault:
            status, applied = fault
            if applied:
                await app(scope, receive, discard)
            phrase = reason_phrases.get(status or 0, f"Error {status}")
            app = JSONResponse({"detail": phrase}, status) if status else hang_up
        await app(scope, receive, answer)

    def _count(self, key: bytes, now: datetime) -> tuple[bool, dict[str, str]]:
        """Count a request of this key, unless it is one too many; and what the headers say."""
        limit = PUBLISHED_RATE if self.rate_limit is None else self.rate_limit
        second = now.timestamp()
        hits = [hit for hit in self._hits.get(key, ()) if second - 60 < hit <= second]
        over_limit = self.rate_limit is not None and len(hits) >= limit
        if not over_limit:
            hits.append(second)
        self._hits[key] = hits
        return over_limit, {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - len(hits))),
            "x-ratelimit-reset": str(math.ceil(min(hits, default=second) + 60)),
        }


def _aware(name: str, value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise ValueError(f"{name} needs a time zone, and {value!r} has none")
    return value


def _http_date(instant: datetime) -> str:
    return format_datetime(instant.astimezone(timezone.utc), usegmt=True)


class _Refused(Exception):
    """A 400 whose body is the envelope's."""


def _build_app(sandbox: Sandbox) -> FastAPI:
    # The vendor's names throughout: FastAPI makes the vendor's OpenAPI document out of them.
    key_header = APIKeyHeader(name="x-key", auto_error=False)

    async def authenticate(key: Annotated[str | None, Security(key_header)]) -> None:
        if key != sandbox.api_key:
            raise HTTPException(401, "Not authenticated")

    def find(process_id: int) -> Job:
        if process_id not in sandbox.jobs:
            raise HTTPException(400, "Invalid process_id or job does not belong to your account.")
        job = sandbox.jobs[process_id]
        stopped = time.monotonic() - job.cancelled_at >= sandbox.cancelling_for
        if stopped and job.status == "CANCELLING":
            job.status = "CANCELLED"
        return job

    def read(process_id: int, message: str = "Job found.") -> BatchEmailStatusResponse:
        job = find(process_id)
        return BatchEmailStatusResponse(
            process_id=process_id, filename=job.filename, current_status=job.status, message=message
        )

    def cancel(process_id: int) -> BatchEmailStatusResponse:
        job = find(process_id)
        if job.status in CANCELLED:
            raise _Refused(sandbox.envelope("already_cancelled", "Job is already cancelled."))
        if job.status in ENDED:
            message = f"Job has status {job.status} and cannot be cancelled."
            raise _Refused(sandbox.envelope("not_cancellable", message))
        job.status, job.cancelled_at = "CANCELLING", time.monotonic()
        return read(process_id, "Job is being cancelled.")

    app = FastAPI(title="RevenueBase sandbox", dependencies=[Depends(authenticate)])

    @app.exception_handler(_Refused)
    async def refuse(_request: Request, refused: Exception) -> JSONResponse:
        return JSONResponse(refused.args[0], 400)

    @app.post("/v1/cancel-process", deprecated=True)
    async def cancel_process(body: BatchEmailStatusRequest) -> BatchEmailStatusResponse:
        return cancel(body.process_id)

    @app.post("/v1/batch-process-email-status", deprecated=True)
    async def batch_process_email_status(body: BatchEmailStatusRequest) -> BatchEmailStatusResponse:
        return read(body.process_id)

    @app.get("/v2/jobs/{process_id}")
    async def get_job(process_id: int) -> BatchEmailStatusResponse:
        return read(process_id)

    @app.post("/v2/jobs/{process_id}/cancel")
    async def cancel_job(process_id: int) -> BatchEmailStatusResponse:
        return cancel(process_id)

    return app
