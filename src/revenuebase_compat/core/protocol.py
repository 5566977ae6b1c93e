"""The requests of a cancel and of a status read, by version (pure).

v1 named the job in a JSON body, v2 names it in the path; the paths stand in ``endpoints``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .versions import V1, V2


class Request(NamedTuple):
    """A request without its host and its key."""

    method: str
    path: str
    body: bytes = b""


class Wire(NamedTuple):
    """How one version says it."""

    cancel: Callable[[int], Request]
    status: Callable[[int], Request]


def _v1_body(process_id: int) -> bytes:
    return b'{"process_id":%d}' % process_id


WIRES = {
    V1: Wire(
        lambda process_id: Request("POST", "/v1/cancel-process", _v1_body(process_id)),
        lambda process_id: Request("POST", "/v1/batch-process-email-status", _v1_body(process_id)),
    ),
    V2: Wire(
        lambda process_id: Request("POST", f"/v2/jobs/{process_id}/cancel"),
        lambda process_id: Request("GET", f"/v2/jobs/{process_id}"),
    ),
}
