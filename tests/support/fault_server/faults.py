"""What a fault is, and the frame that all of them are made of.

A fault is plain data: whether the cancel is applied first, which bytes go out, how fast, and what
becomes of the connection then. One that sends a complete and right answer also applies the cancel;
one that sends a wrong answer, or none, does not unless it is told to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from enum import Enum

from .wire import Headers, as_body, http_message, pairs, phrase

Job = dict[str, object]

OTHER_JOB = 999_983


@dataclass(frozen=True)
class RecordedRequest:
    """One request as it arrived, and the title of the fault that answered it."""

    method: str = ""
    path: str = ""
    version: str = ""  # of the API: "v1", "v2" or ""
    route: str = ""  # "cancel", "status" or ""
    process_id: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)  # names in lower case
    body: bytes = b""
    key: str | None = None
    connection: int = 0  # counted from 1
    fault: str = ""


@dataclass(frozen=True)
class Exchange:
    """What a fault may draw upon: the request, and the answer a healthy server would give."""

    seen: RecordedRequest
    status: int
    content: object
    job: Job  # the four fields, also where `content` is an error
    port: int


class End(Enum):
    """What becomes of the connection once a fault's bytes are out."""

    KEEP = "kept alive"
    CLOSE = "closed"
    RESET = "reset"
    HANG = "left open, nothing more is sent"


@dataclass(frozen=True)
class Fault:
    title: str
    write: Callable[[Exchange], Iterable[bytes]] = field(default=lambda _: (), repr=False)
    end: End = End.KEEP
    applied: bool = False
    interval: float = 0.0  # seconds between two pieces
    delay: float = 0.0  # seconds before the first
    early: bool = False  # sent before a byte of the request is read


def job_body(process_id: int, status: str = "CANCELLING") -> Job:
    return {
        "process_id": process_id,
        "filename": f"{process_id}.csv",
        "current_status": status,
        "message": f"Job {process_id} is {status.lower()}.",
    }


# Where the code of a 400 stands is not published, so the server can put it anywhere plausible.
ENVELOPES: Mapping[str, Callable[[str, str], dict[str, object]]] = {
    "detail": lambda code, prose: {"detail": code},
    "detail.error": lambda code, prose: {"detail": {"error": code, "message": prose}},
    "detail.code": lambda code, prose: {"detail": {"code": code, "message": prose}},
    "error": lambda code, prose: {"error": code, "message": prose},
    "code": lambda code, prose: {"detail": prose, "code": code},
    "prose": lambda code, prose: {"detail": prose},
    "problem": lambda code, prose: {
        "type": f"https://api.revenuebase.ai/problems/{code}",
        "title": "The job was left as it is",
        "status": 400,
        "detail": prose,
    },
}


def applied_then(fault: Fault) -> Fault:
    return replace(fault, applied=True, title=f"cancel applied, then {fault.title}")


def late(seconds: float, fault: Fault | None = None) -> Fault:
    """The cancel itself is not late, only its answer."""
    fault = fault or HEALTHY
    return replace(fault, delay=seconds, title=f"{fault.title}, {seconds:g} s late")


def early(fault: Fault) -> Fault:
    """Only where `server.script` without filters holds it: nothing is known of the request yet."""
    return replace(fault, early=True, title=f"{fault.title}, before the request was read")


def applied_if(applied: bool, fault: Fault) -> Fault:
    return applied_then(fault) if applied else fault


def truth(exchange: Exchange) -> Iterator[bytes]:
    headers = {
        "Date": formatdate(usegmt=True),
        "X-RateLimit-Limit": "60",
        "X-RateLimit-Remaining": "59",
        "X-RateLimit-Reset": str(int(time.time()) + 60),
    }
    content = exchange.content
    if isinstance(content, dict) and "title" in content:
        headers["Content-Type"] = "application/problem+json"
    yield http_message(exchange.status, content, headers)


HEALTHY = Fault("a healthy answer", truth, applied=True)


def respond(
    status: int,
    body: object = None,
    *,
    headers: Headers = (),
    applied: bool = False,
    title: str = "",
) -> Fault:
    """Any answer. Body: bytes as they are, `None` for `{"detail": <phrase>}`, else as JSON."""
    content = {"detail": phrase(status)} if body is None else body
    if not title:
        notes = ", ".join(f"{name}: {value[:40]}" for name, value in pairs(headers))
        title = f"{status} {phrase(status)}" + (f" with {notes}" if notes else "")
    return applied_if(applied, Fault(title, lambda _: [http_message(status, content, headers)]))


def altered(
    title: str,
    change: Callable[[Job], object],
    *,
    status: int = 200,
    headers: Headers = (),
    applied: bool = False,
) -> Fault:
    """An answer whose body is made from the right one; bytes from `change` go out as they are."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_message(status, change(dict(exchange.job)), headers)

    return Fault(title, write, applied=applied)


def packed(
    title: str,
    pack: Callable[[bytes], bytes] = bytes,
    *,
    headers: Headers = (),
    applied: bool = True,
) -> Fault:
    """The right answer, whatever its status, with its body in another form."""

    def write(exchange: Exchange) -> Iterator[bytes]:
        yield http_message(exchange.status, pack(as_body(exchange.content)), headers)

    return Fault(title, write, applied=applied)
