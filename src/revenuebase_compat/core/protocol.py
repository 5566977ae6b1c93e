"""The request of an endpoint, by version (pure).

v1 named the job in a JSON body, v2 names it in the path; the paths stand in ``endpoints``.
"""

from __future__ import annotations

from typing import NamedTuple

from .endpoints import Endpoint
from .versions import V1, V2

#: Marks our own requests in httpx's ``extensions``, so that ``adopt`` lets them pass.
OWN_REQUEST_EXTENSION = "revenuebase_compat"


class Request(NamedTuple):
    """A request without its host and its key."""

    method: str
    path: str
    body: bytes = b""


def to_v1(endpoint: Endpoint, process_id: int) -> Request:
    """The request of v1 for a job."""
    return Request(endpoint.method, endpoint.path, b'{"process_id":%d}' % process_id)


def to_v2(endpoint: Endpoint, process_id: int | None = None) -> Request:
    """The request of v2 that took the endpoint's place."""
    method, path = endpoint.v2_method, endpoint.v2_path
    assert method is not None  # noqa: S101 (only what has a successor is moved)
    assert path is not None  # noqa: S101
    return Request(method, path.replace("{process_id}", str(process_id)))


REQUESTS = {V1: to_v1, V2: to_v2}
