"""The requests of a cancel and of a status read, by version (pure).

v1 named the job in a JSON body, v2 names it in the path; the paths stand in ``endpoints``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from .endpoints import CANCEL, STATUS, Endpoint
from .versions import V1, V2

#: Marks our own requests in httpx's ``extensions``, so that ``adopt`` lets them pass.
OWN_REQUEST_EXTENSION = "revenuebase_compat"


class Request(NamedTuple):
    """A request without its host and its key."""

    method: str
    path: str
    body: bytes = b""


class Wire(NamedTuple):
    """How one version says it."""

    cancel: Callable[[int], Request]
    status: Callable[[int], Request]


def _v1(endpoint: Endpoint) -> Callable[[int], Request]:
    return lambda process_id: Request(
        endpoint.method, endpoint.path, b'{"process_id":%d}' % process_id
    )


def to_v2(endpoint: Endpoint, process_id: int | None = None) -> Request:
    """The request of v2 that took the endpoint's place."""
    method, path = endpoint.v2_method, endpoint.v2_path
    assert method is not None  # noqa: S101 (only what has a successor is moved)
    assert path is not None  # noqa: S101
    if endpoint.names_job:
        path = path.replace("{process_id}", str(process_id))
    return Request(method, path)


WIRES = {
    V1: Wire(_v1(CANCEL), _v1(STATUS)),
    V2: Wire(partial(to_v2, CANCEL), partial(to_v2, STATUS)),
}
