"""The sandbox: the RevenueBase API on loopback, for trying out and for tests.

Both versions answer as the vendor publishes them, or else as the vendor's SDK expects it.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from http.client import responses as reason_phrases
from itertools import chain, repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO
from uuid import uuid4

import uvicorn
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from revenuebase_compat.client.serving import listen, make_config

from .app import ENVELOPE_NAMES, build_app
from .jobs import SAMPLES, STATES, Job, Verdict, cost_of, extension

VERSIONS = ("v1", "v2")


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it was answered; `status` is None where the answer was dropped."""

    method: str
    path: str
    status: int | None
    version: str


class Sandbox:
    """The service, its account and its clock. Inside a ``with`` block it serves on ``base_url``.

    Every option is an attribute, too, and may be changed while it serves. A wrong one is named by
    a ``ValueError``.

    Args:
        api_key: the account's key; rotating it changes it.
        jobs: ids (all ``QUEUED``) or ids with states; they stay so until they are cancelled.
        now: its clock is set to this (aware) time, and runs on from there; ``None``: the real time.
        sunset: from that (aware) instant on every request to v1 is answered 410.
        port: 0 takes a free one.
        rate_limit: requests a key may make in a minute, the next one is a 429; told in
            ``X-RateLimit-*`` headers. ``None``: no limit and no such headers.
        cancelling_for: seconds for which a job stays ``CANCELLING`` before it is ``CANCELLED``.
        envelope: how a 400 holds its code: one of ``ENVELOPE_NAMES``.
        credits: what the account has. A verified address that is ``Valid`` or ``Invalid`` costs
            one, a completed job one for each such row; at none, verifying is a 402.
        mx_record_checked: that field of the metadata, of any kind, as sources disagree about it.
        queued_for, processing_for: seconds an uploaded job is ``QUEUED``, and then ``PROCESSING``.
        monotonic: by what its clock runs on, in seconds; a constant makes it stand still.
        on_request: called with each ``RecordedRequest``, in the server's thread.
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
        cancelling_for: float = math.inf,
        envelope: str = "detail-error",
        credits: int = 1000,
        mx_record_checked: str | bool | None = "",
        queued_for: float = 30.0,
        processing_for: float = 30.0,
        monotonic: Callable[[], float] = time.monotonic,
        on_request: Callable[[RecordedRequest], object] = lambda request: None,
    ) -> None:
        if envelope not in ENVELOPE_NAMES:
            raise ValueError(f"envelope is one of {', '.join(ENVELOPE_NAMES)}, not {envelope!r}")
        self._lock = threading.RLock()
        self._jobs: dict[int, Job] = {}
        self._changing: list[Job] = []  # those that go on by themselves
        self._set: tuple[datetime, float] | None = None  # the clock, and when it was set
        # By version: the status to answer, None for hanging up; and whether it takes effect before.
        self._faults: dict[str, Iterator[tuple[int | None, bool]]] = {}
        self._hits: dict[bytes, list[float]] = {}  # by key: its requests of the last minute
        self.requests: list[RecordedRequest] = []
        self.monotonic, self.now, self.sunset = monotonic, now, _aware("sunset", sunset)
        self.api_key, self.port, self.credits, self.rate_limit = api_key, port, credits, rate_limit
        self.cancelling_for = cancelling_for
        self.queued_for, self.processing_for = queued_for, processing_for
        self.envelope, self.on_request = envelope, on_request
        self.mx_record_checked = mx_record_checked
        for name in ("rate_limit", "cancelling_for", "credits", "queued_for", "processing_for"):
            number = getattr(self, name)
            if number is not None and not number >= 0:
                raise ValueError(f"{name} is 0 or more, not {number!r}")
        seeds = jobs if isinstance(jobs, Mapping) else dict.fromkeys(jobs or (), "QUEUED")
        for process_id, status in seeds.items():
            self.add_job(process_id, status)
        self.app = build_app(self)

    @property
    def now(self) -> datetime:
        """Its time (aware); runs on from where it is set, and ``None`` is the real time."""
        if self._set is None:
            return datetime.now(timezone.utc)
        return self._set[0] + timedelta(seconds=self.monotonic() - self._set[1])

    @now.setter
    def now(self, value: datetime | None) -> None:
        before = self.now
        self._set = None if value is None else (_aware("now", value), self.monotonic())
        back = min(timedelta(), self.now - before)
        for job in self._changing:
            job.since += back  # a job does not become younger

    @property
    def jobs(self) -> dict[int, Job]:
        """Its jobs by process id, as they are by its clock."""
        following = {
            "QUEUED": (self.queued_for, "PROCESSING"),
            "PROCESSING": (self.processing_for, "COMPLETED"),
            "CANCELLING": (self.cancelling_for, "CANCELLED"),
        }
        with self._lock:
            for job in self._changing:
                while job.status in following:
                    seconds, status = following[job.status]
                    if (self.now - job.since).total_seconds() < seconds:
                        break
                    job.since += timedelta(seconds=seconds)
                    job.status = status
                    if status == "COMPLETED":
                        job.status = "ERROR" if job.cost is None else status
                        self.credits = max(0, self.credits - (job.cost or 0))
            self._changing = [job for job in self._changing if job.status in following]
            return self._jobs

    def add_job(self, process_id: int, status: str = "QUEUED", filename: str | None = None) -> Job:
        """Put in a job that stays so until it is cancelled; ``ValueError``: no such status."""
        if status not in STATES:
            raise ValueError(f"a job's status is one of {', '.join(STATES)}, not {status!r}")
        name = filename or f"job-{process_id}.csv"
        sample = SAMPLES[extension(name) or ".csv"]
        job = self._jobs[process_id] = Job(process_id, name, status, sample, since=self.now)
        return job

    def upload(self, filename: str, file: IO[bytes], metadata: bool = False) -> Job:
        """Keep a file until the sandbox stops, and start a job with it."""
        path = Path(self._folder.name, uuid4().hex)
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy)
        return self.start(filename, path, metadata)

    def start(self, filename: str, content: bytes | Path, metadata: bool = False) -> Job:
        """Start a job that goes on by itself: QUEUED, PROCESSING, then COMPLETED or ERROR."""
        job = Job(0, filename, "QUEUED", content, metadata)
        job.cost = cost_of(job, self.judge)
        with self._lock:
            job.process_id, job.since = max(self._jobs, default=0) + 1, self.now
            self._jobs[job.process_id] = job
            self._changing.append(job)
        return job

    def cancel(self, job: Job) -> Job:
        """Make a job CANCELLING, whatever it was."""
        with self._lock:
            job.status = "CANCELLING"
            self._changing = [one for one in self._changing if one is not job]
            if self.cancelling_for < math.inf:
                job.since = self.now
                self._changing.append(job)
        return job

    def rotate_key(self) -> str:
        """Replace ``api_key``; the old one is refused at once."""
        self.api_key = f"rb_test_{uuid4().hex}"
        return self.api_key

    def judge(self, address: str, metadata: bool = False) -> Verdict:
        """``invalid…@`` and ``@….invalid`` are Invalid, ``unknown…@`` is Unknown, others are Valid.

        Metadata without a value is ``""`` where it is no bool: the vendor's SDK 0.2.1 expects that.
        """
        local, _, domain = address.lower().partition("@")
        invalid = not domain or local.startswith("invalid") or domain.endswith(".invalid")
        unknown = not invalid and local.startswith("unknown")
        verdict = {"status": "Invalid" if invalid else "Unknown" if unknown else "Valid"}
        if not metadata:
            return verdict
        return verdict | {
            "domain": domain,
            "timestamp": self.now.astimezone(timezone.utc).isoformat(timespec="seconds"),
            "mx_record_present": None if unknown else not invalid,
            "mx_record_checked": self.mx_record_checked,
            "email_provider": "",
            "security_gateway": "",
            "reason": "no such mailbox" if invalid else "no answer" if unknown else "",
        }

    def fail(
        self, version: str, status: int, *, times: int | None = None, after_applying: bool = False
    ) -> None:
        """Answer ``status`` (400 to 599) to the next ``times`` requests of a version, or to all
        until ``heal()``; ``after_applying``: do what is asked for before, as who fails late does.

        Faults are played in the order given. ``ValueError``: there is no such version, or status.
        """
        if not 400 <= status <= 599:
            raise ValueError(f"the status of a fault is 400 to 599, not {status!r}")
        self._add_fault(version, times, (status, after_applying))

    def drop(self, version: str, times: int = 1) -> None:
        """Do what the next ``times`` requests ask for, then hang up without a word."""
        self._add_fault(version, times, (None, True))

    def heal(self, version: str | None = None) -> None:
        """End the faults of a version, or all."""
        for healed in VERSIONS if version is None else (version,):
            self._faults.pop(healed, None)

    def _add_fault(self, version: str, times: int | None, fault: tuple[int | None, bool]) -> None:
        if version not in VERSIONS:
            raise ValueError(f"a version is one of {', '.join(VERSIONS)}, not {version!r}")
        played = repeat(fault) if times is None else repeat(fault, times)
        self._faults[version] = chain(self._faults.get(version, ()), played)

    def __enter__(self) -> Sandbox:
        self._socket = listen("127.0.0.1", self.port)
        self._folder = TemporaryDirectory(prefix="revenuebase-sandbox-")
        self.base_url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(make_config(self._serve, timeout_graceful_shutdown=1))
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
        self._folder.cleanup()

    def wait(self) -> None:
        """Block until Ctrl-C, SIGTERM or SIGHUP; for the main thread, where signals arrive."""
        with ExitStack() as stack, suppress(KeyboardInterrupt):
            for end in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
                before = signal.getsignal(end)
                if before != signal.SIG_IGN:  # as nohup has it
                    stack.callback(signal.signal, end, before)
                    signal.signal(end, signal.default_int_handler)
            while self._thread.is_alive():
                time.sleep(0.5)  # a join that Ctrl-C ends takes the thread for ended, before 3.13

    def _count(self, key: bytes, now: datetime) -> tuple[bool, dict[str, str]]:
        """Whether a request is one too many in a rolling minute, and what the headers say."""
        limit = self.rate_limit
        if limit is None:
            return False, {}
        second = now.timestamp()
        hits = [hit for hit in self._hits.get(key, ()) if second - 60 < hit <= second]
        over_limit = len(hits) >= limit
        if not over_limit:
            hits.append(second)
        self._hits[key] = hits
        return over_limit, {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(max(0, limit - len(hits))),
            "x-ratelimit-reset": str(math.ceil(min(hits, default=second) + 60)),
        }

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What concerns every request, whatever its route, between uvicorn and the app."""
        now, path = self.now, scope["path"]
        version = next((v for v in VERSIONS if path.startswith(f"/{v}/")), "")
        key = dict(scope["headers"]).get(b"x-key", b"")
        over_limit, headers = self._count(key, now)
        headers["date"] = formatdate(now.timestamp(), usegmt=True)

        def record(status: int | None) -> None:
            self.requests.append(RecordedRequest(scope["method"], path, status, version))
            self.on_request(self.requests[-1])

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record(message["status"])  # before the client knows, or tests would race
                own = [(name.encode(), value.encode()) for name, value in headers.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

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
                await app(scope, receive, lambda _message: asyncio.sleep(0))
            phrase = reason_phrases.get(status or 0, f"Error {status}")
            app = JSONResponse({"detail": phrase}, status) if status else hang_up
        if app is not self.app and not (fault and fault[1]):
            # Else uvicorn closes the connection under a client that still sends.
            while (await receive()).get("more_body"):
                pass
        await app(scope, receive, answer)


def _aware(name: str, value: datetime) -> datetime:
    if value.utcoffset() is None:
        raise ValueError(f"{name} needs a time zone, and {value!r} has none")
    return value
