"""What is left to v1, and what moves with its body, leaves as bare: each library, each body.

Each program is run twice over one server, bare and under us: before the sunset (where its job stays
with v1) and after it (with a body that names no job). Only the boundary of a form is drawn by lot.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from revenuebase_compat import Settings, adopt
from tests.support.bodies import PROGRAMS
from tests.support.raw_server import RawRequest, RawServer, reply

# Thousands of short ones, whose siblings ``test_no_harm`` has among the quick tests.
pytestmark = pytest.mark.slow

CANCEL, STATUS = "/v1/cancel-process", "/v1/batch-process-email-status"
GONE: dict[str, Any] = {"v1_sunset": "2000-01-01"}
ALIVE: dict[str, Any] = {"v1_sunset": "2999-01-01"}
JOB: Any = {"process_id": 42}
NO_JOB: Any = {"process_id": "none"}


@pytest.fixture(autouse=True)
def uninstalled() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # aiohttp warns of large bodies, and of compress beside data
        yield
    adopt.uninstall()


every_program = pytest.mark.parametrize(
    ("library", "kind"),
    [(library, kind) for library, (_, kinds) in PROGRAMS.items() for kind in kinds],
)

BOUNDARY = re.compile(rb"(?i)boundary=\"?([^\s\";]+)")


class Sent:
    """What one run of a program came to."""

    def __init__(self, server: RawServer, path: str, library: str, kind: str, data: Any) -> None:
        send, kinds = PROGRAMS[library]
        server.requests.clear()
        options = kinds[kind](data)
        body: Any = next((options[one] for one in ("data", "body", "content") if one in options), 0)
        try:
            self.outcome: object = send(server.url + path, options)
        except Exception as error:
            self.outcome = type(error)
        # Where a caller's file stands afterwards is the caller's to see.
        seekable = isinstance(body, io.IOBase) and not body.closed and body.seekable()
        self.place = body.tell() if seekable else None
        self.requests = [without_boundary(request) for request in server.requests]
        if isinstance(body, io.IOBase):
            body.close()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sent) and vars(self) == vars(other)

    def __repr__(self) -> str:
        shown = [(one.head, one.body[:200]) for one in self.requests]
        return f"<{self.outcome} {self.place} {shown}>"

    __hash__ = None  # type: ignore[assignment]


def without_boundary(request: RawRequest) -> RawRequest:
    found = BOUNDARY.search(request.head) or re.match(rb"--([^\s-][^\s]+)\r\n", request.body)
    if found is None:
        return request
    drawn, fixed = found[1], b"drawn-by-lot"
    head, body = (text.replace(drawn, fixed) for text in (request.head, request.body))
    return RawRequest(request.line, head, body)


def answers(status: int) -> RawServer:
    return RawServer(lambda request, number: reply(status, {}))


@every_program
@pytest.mark.parametrize("path", [CANCEL, STATUS])
def test_before_the_sunset_every_body_stays_as_it_is(library: str, kind: str, path: str) -> None:
    with answers(200) as server:
        bare = Sent(server, path, library, kind, JOB)
        adopt.install(Settings(base_url=server.url, **ALIVE))
        assert Sent(server, path, library, kind, JOB) == bare


@every_program
def test_after_the_sunset_a_body_without_a_job_stays_as_it_is(library: str, kind: str) -> None:
    with answers(200) as server:
        bare = Sent(server, CANCEL, library, kind, NO_JOB)
        adopt.install(Settings(base_url=server.url, **GONE))
        left = Sent(server, CANCEL, library, kind, NO_JOB)
        assert left == bare


def moved(request: RawRequest, old: bytes, new: bytes) -> RawRequest:
    """The request with the one path in the place of the other."""
    head = request.head.replace(old, new, 1)
    return RawRequest(head.split(b" HTTP/")[0].decode(), head, request.body)


@every_program
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"/v1/process-email", b"/v2/email/verify"),
        (b"/v1/batch-upload", b"/v2/email/verify/batch"),
    ],
)
def test_a_row_that_names_no_job_moves_by_its_path_alone(
    library: str, kind: str, old: bytes, new: bytes
) -> None:
    with answers(200) as server:
        bare = Sent(server, old.decode(), library, kind, JOB)
        adopt.install(Settings(base_url=server.url, **GONE))
        sent = Sent(server, old.decode(), library, kind, JOB)
    bare.requests = [moved(request, old, new) for request in bare.requests]
    assert sent == bare


@every_program
def test_what_is_no_business_of_ours_stays_as_it_is(library: str, kind: str) -> None:
    """Another server, another path, and what has no successor."""
    with answers(200) as server, answers(200) as other:
        for one, path in ((other, CANCEL), (server, "/v1x"), (server, "/v1/batch-process-email")):
            bare = Sent(one, path, library, kind, JOB)
            adopt.install(Settings(base_url=server.url, **GONE))
            assert Sent(one, path, library, kind, JOB) == bare
            adopt.uninstall()
