"""The nine endpoints of API v1, their successors on v2, and a job's request on either (pure).

What is recognised, moved, noticed and reported, the sandbox and the README derive from this table.
Source: the vendor's OpenAPI documents; no field is renamed between the two versions.
"""

from __future__ import annotations

from typing import NamedTuple

from .routes import V1, V2

#: Marks our own requests in httpx's ``extensions``, so that ``adopt`` lets them pass.
OWN_REQUEST_EXTENSION = "revenuebase_compat"


class Endpoint(NamedTuple):
    """One call of v1, and what took its place, if anything; ``{process_id}`` stands for the job."""

    name: str
    method: str
    path: str
    v2_method: str | None
    v2_path: str | None
    #: Whether the job moves from the JSON body into the path, and the body is dropped; else the
    #: body (if any) is sent as it is, and never read.
    names_job: bool = False

    @property
    def call(self) -> str:
        """The call of v1, such as ``POST /v1/cancel-process``."""
        return f"{self.method} {self.path}"

    @property
    def successor(self) -> str | None:
        """The call of v2, such as ``POST /v2/jobs/{process_id}/cancel``."""
        return f"{self.v2_method} {self.v2_path}" if self.v2_path else None


_JOB = "/v2/jobs/{process_id}"

CANCEL = Endpoint("cancel", "POST", "/v1/cancel-process", "POST", f"{_JOB}/cancel", True)
STATUS = Endpoint("status", "POST", "/v1/batch-process-email-status", "GET", _JOB, True)
DOWNLOAD = Endpoint("download", "POST", "/v1/batch-download", "GET", f"{_JOB}/download", True)
LIST = Endpoint("list", "GET", "/v1/queued-process", "GET", "/v2/jobs")
CREDITS = Endpoint("credits", "GET", "/v1/credits", "GET", "/v2/account/balance")
ROTATE_KEY = Endpoint("rotate_key", "GET", "/v1/new-api-key", "POST", "/v2/account/api-keys/rotate")
VERIFY = Endpoint("verify", "POST", "/v1/process-email", "POST", "/v2/email/verify")
UPLOAD = Endpoint("upload", "POST", "/v1/batch-upload", "POST", "/v2/email/verify/batch")
#: It queues a file that lies in the account already; v2 takes only files.
START = Endpoint("start", "POST", "/v1/batch-process-email", None, None)

ENDPOINTS = (CANCEL, STATUS, DOWNLOAD, LIST, CREDITS, ROTATE_KEY, VERIFY, UPLOAD, START)

#: (method, path) of v1 → endpoint.
BY_V1_CALL = {(one.method, one.path): one for one in ENDPOINTS}


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
    assert method and path  # noqa: S101, PT018 (only what has a successor is moved)
    return Request(method, path.replace("{process_id}", str(process_id)))


REQUESTS = {V1: to_v1, V2: to_v2}
