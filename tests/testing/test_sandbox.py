"""The sandbox over real sockets: what it answers, by which clock, and how it starts and stops."""

import http.client
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from revenuebase_compat.testing.sandbox import Job, RecordedRequest, Sandbox
from tests.support.contract_facts import (
    FORMATS,
    FOUR_FIELDS,
    JOB_STATUSES,
    OPERATIONS,
    PARTLY_PUBLISHED,
    RATE_LIMIT_A_MINUTE,
    SCHEMAS,
    SECURITY_SCHEMES,
    UNPUBLISHED_SCHEMAS,
    UNTOLD_BY_OLD_FASTAPI,
    Operation,
    Schema,
)

SUNSET = datetime(2026, 7, 7, tzinfo=timezone.utc)
BEFORE = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)
BOTH = pytest.mark.parametrize("version", ["v1", "v2"])
NOT_YOURS = {"detail": "Invalid process_id or job does not belong to your account."}


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox(monotonic=lambda: 0.0) as sandbox:  # its clock stands still
        yield sandbox


@pytest.fixture(scope="module")
def http_client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.now = BEFORE
    running.rate_limit = None
    running.cancelling_for = math.inf
    running.envelope = "detail-error"
    running.jobs.clear()
    running.requests.clear()
    running.heal()
    return running


class Caller:
    """The four calls, with the sandbox's own key unless told otherwise."""

    def __init__(self, sandbox: Sandbox, client: httpx.Client) -> None:
        self.sandbox = sandbox
        self.client = client

    def send(
        self, method: str, path: str, *, key: str | None = "", **request: Any
    ) -> httpx.Response:
        headers = {} if key is None else {"x-key": key or self.sandbox.api_key}
        url = self.sandbox.base_url + path
        return self.client.request(method, url, headers=headers, **request)

    def cancel(self, version: str, process_id: object, **more: Any) -> httpx.Response:
        if version == "v1":
            return self.send("POST", "/v1/cancel-process", json={"process_id": process_id}, **more)
        return self.send("POST", f"/v2/jobs/{process_id}/cancel", **more)

    def status(self, version: str, process_id: object, **more: Any) -> httpx.Response:
        if version == "v1":
            path = "/v1/batch-process-email-status"
            return self.send("POST", path, json={"process_id": process_id}, **more)
        return self.send("GET", f"/v2/jobs/{process_id}", **more)


@pytest.fixture
def call(sandbox: Sandbox, http_client: httpx.Client) -> Caller:
    return Caller(sandbox, http_client)


# What the endpoints answer


@BOTH
@pytest.mark.parametrize("before", ["QUEUED", "PROCESSING"])
def test_a_cancel_is_answered_with_the_four_fields(call: Caller, version: str, before: str) -> None:
    call.sandbox.add_job(42, before, "leads.csv")
    answer = call.cancel(version, 42)
    assert answer.status_code == 200
    assert answer.json().keys() == FOUR_FIELDS.keys()
    assert answer.json()["process_id"] == 42
    assert answer.json()["filename"] == "leads.csv"
    assert answer.json()["current_status"] == "CANCELLING"
    assert answer.json()["message"]
    assert call.sandbox.jobs[42] == Job(42, "leads.csv", "CANCELLING")


@BOTH
@pytest.mark.parametrize("status", JOB_STATUSES)
def test_a_status_read_tells_and_changes_nothing(call: Caller, version: str, status: str) -> None:
    call.sandbox.add_job(42, status)
    answer = call.status(version, 42)
    assert answer.status_code == 200
    assert answer.json().keys() == FOUR_FIELDS.keys()
    assert answer.json()["current_status"] == status
    assert call.sandbox.jobs[42].status == status


@BOTH
@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("CANCELLING", "already_cancelled"),
        ("CANCELLED", "already_cancelled"),
        ("COMPLETED", "not_cancellable"),
        ("ERROR", "not_cancellable"),
    ],
)
def test_a_job_past_cancelling_is_refused(
    call: Caller, version: str, status: str, code: str
) -> None:
    call.sandbox.add_job(42, status)
    answer = call.cancel(version, 42)
    assert answer.status_code == 400
    assert answer.json()["detail"]["error"] == code
    assert answer.json()["detail"]["message"]
    assert call.sandbox.jobs[42].status == status


@BOTH
def test_the_envelope_of_a_refusal_is_a_choice(call: Caller, version: str) -> None:
    call.sandbox.envelope = "code"
    call.sandbox.add_job(42, "CANCELLED")
    answer = call.cancel(version, 42)
    assert answer.status_code == 400
    assert answer.json() == {"detail": "Job is already cancelled.", "code": "already_cancelled"}


@BOTH
def test_an_unknown_job_is_a_400_without_a_code(call: Caller, version: str) -> None:
    for answer in (call.cancel(version, 7), call.status(version, 7), call.cancel(version, 10**30)):
        assert (answer.status_code, answer.json()) == (400, NOT_YOURS)


@BOTH
@pytest.mark.parametrize("key", [None, "rb_someone_else"])
def test_a_missing_or_wrong_key_is_a_401(call: Caller, version: str, key: str | None) -> None:
    call.sandbox.add_job(42)
    for answer in (
        call.cancel(version, 42, key=key),
        call.status(version, 42, key=key),
        call.cancel(version, "x", key=key),
    ):
        assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
    assert call.sandbox.jobs[42].status == "QUEUED"


@pytest.mark.parametrize(("version", "place"), [("v1", "body"), ("v2", "path")])
def test_what_is_no_integer_is_a_422_that_names_the_field(
    call: Caller, version: str, place: str
) -> None:
    for answer in (call.cancel(version, "forty-two"), call.status(version, "4.2")):
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == [place, "process_id"]
        assert answer.json()["detail"][0]["type"] == "int_parsing"


def test_v1_takes_digits_in_a_string_and_needs_its_field(call: Caller) -> None:
    call.sandbox.add_job(42)
    assert call.cancel("v1", "42").json()["process_id"] == 42
    answer = call.send("POST", "/v1/cancel-process", json={})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["type"] == "missing"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/no-such-call", 404),
        ("POST", "/v2/jobs/42/pause", 404),
        ("GET", "/v3/jobs/42", 404),
        ("GET", "/", 404),
        ("GET", "/v1/cancel-process", 405),
        ("GET", "/v2/jobs/42/cancel", 405),
        ("POST", "/v2/jobs/42", 405),
    ],
)
def test_other_paths_and_methods_get_what_fastapi_says(
    call: Caller, method: str, path: str, status: int
) -> None:
    answer = call.send(method, path, key=None)
    detail = {404: "Not Found", 405: "Method Not Allowed"}[status]
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})


# The clock and the sunset


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (SUNSET - MICROSECOND, 200),
        (SUNSET, 410),
        (SUNSET + MICROSECOND, 410),
        (SUNSET.astimezone(timezone(timedelta(hours=-8))), 410),
        ((SUNSET - MICROSECOND).astimezone(timezone(timedelta(hours=9))), 200),
    ],
)
def test_v1_is_gone_from_the_instant_of_the_sunset(
    call: Caller, now: datetime, status: int
) -> None:
    call.sandbox.add_job(42)
    call.sandbox.now = now
    assert call.status("v1", 42).status_code == status
    assert call.cancel("v1", 42).status_code == status
    assert call.sandbox.jobs[42].status == ("CANCELLING" if status == 200 else "QUEUED")
    assert call.status("v2", 42).status_code == 200


def test_after_the_sunset_nothing_under_v1_is_looked_at(call: Caller) -> None:
    call.sandbox.now = SUNSET
    for answer in (
        call.cancel("v1", 42, key=None),
        call.cancel("v1", "x"),
        call.send("GET", "/v1/cancel-process"),
        call.send("DELETE", "/v1/no/such/call"),
        call.send("GET", "/v1/", key=None),
    ):
        assert answer.status_code == 410
        assert isinstance(answer.json()["detail"], str)


def test_the_real_clock_runs_when_none_is_set(call: Caller) -> None:
    call.sandbox.now = None
    before = datetime.now(timezone.utc)
    first, second = call.sandbox.now, call.sandbox.now
    assert before <= first <= second
    date = parsedate_to_datetime(call.status("v2", 1).headers["date"])
    assert date >= before - timedelta(seconds=1)


def test_a_set_clock_is_the_date_of_every_answer(call: Caller) -> None:
    call.sandbox.now = datetime(2026, 6, 1, 14, 30, tzinfo=timezone(timedelta(hours=2)))
    for answer in (call.status("v2", 1), call.send("GET", "/nowhere")):
        assert answer.headers.get_list("date") == ["Mon, 01 Jun 2026 12:30:00 GMT"]


def test_a_set_clock_runs_on() -> None:
    seconds = 5.0
    sandbox = Sandbox(now=BEFORE, monotonic=lambda: seconds)
    seconds += 90
    assert sandbox.now == BEFORE + timedelta(seconds=90)
    sandbox.now = SUNSET
    seconds += 0.5
    assert sandbox.now == SUNSET + timedelta(seconds=0.5)
    real = Sandbox(now=BEFORE)
    assert BEFORE <= real.now < real.now + MICROSECOND <= BEFORE + timedelta(minutes=5)


def test_the_sunset_is_a_choice(http_client: httpx.Client) -> None:
    with Sandbox(jobs=[1], now=BEFORE, sunset=BEFORE) as early:
        assert Caller(early, http_client).cancel("v1", 1).status_code == 410


def test_nothing_is_announced(call: Caller) -> None:
    for now in (BEFORE, SUNSET):
        call.sandbox.now = now
        headers = call.cancel("v1", 42).headers
        assert not {"deprecation", "sunset", "link"} & headers.keys()


# Rate limits


def test_every_answer_states_the_limit_that_was_asked_for(call: Caller) -> None:
    call.sandbox.rate_limit = RATE_LIMIT_A_MINUTE
    call.sandbox.add_job(42)
    call.sandbox.fail("v2", 503, times=1)
    answers = [call.cancel("v2", 42), call.cancel("v1", 42), call.cancel("v2", 42)]
    answers += [call.cancel("v2", 42, key=None), call.send("GET", "/nowhere")]
    call.sandbox.now = SUNSET
    answers.append(call.cancel("v1", 42))
    assert [answer.status_code for answer in answers] == [503, 200, 400, 401, 404, 410]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == str(RATE_LIMIT_A_MINUTE)
        assert 0 <= int(answer.headers["x-ratelimit-remaining"]) < RATE_LIMIT_A_MINUTE
        date = parsedate_to_datetime(answer.headers["date"]).timestamp()
        assert 0 <= int(answer.headers["x-ratelimit-reset"]) - date <= 61


def test_the_limit_is_a_rolling_minute_for_each_key(http_client: httpx.Client) -> None:
    def ask(call: Caller, key: str = "") -> tuple[int, int, int]:
        answer = call.status("v2", 1, key=key)
        remaining, reset = (
            int(answer.headers[f"x-ratelimit-{name}"]) for name in ("remaining", "reset")
        )
        assert answer.headers["x-ratelimit-limit"] == "2"
        return answer.status_code, remaining, reset - int(BEFORE.timestamp())

    with Sandbox(jobs=[1], now=BEFORE, rate_limit=2, monotonic=lambda: 0.0) as limited:
        call = Caller(limited, http_client)
        assert ask(call) == (200, 1, 60)
        limited.now = BEFORE + timedelta(seconds=20.5)
        assert ask(call) == (200, 0, 60)
        assert ask(call) == (429, 0, 60)
        assert call.cancel("v2", 1).json() == {"detail": "Rate limit exceeded"}
        assert limited.jobs[1].status == "QUEUED"
        assert ask(call, "rb_someone_else") == (401, 1, 81)
        limited.now = BEFORE + timedelta(seconds=60) - MICROSECOND
        assert ask(call) == (429, 0, 60)
        limited.now = BEFORE + timedelta(seconds=60)
        assert ask(call) == (200, 0, 81)
        assert ask(call) == (429, 0, 81)


def test_without_a_limit_nobody_is_turned_away(call: Caller) -> None:
    answers = [call.status("v2", 1) for _ in range(RATE_LIMIT_A_MINUTE + 2)]
    assert {answer.status_code for answer in answers} == {400}
    stated = {name for answer in answers for name in answer.headers if "ratelimit" in name}
    assert stated == set()


# Outages


@BOTH
def test_a_fault_lasts_as_often_as_told(call: Caller, version: str) -> None:
    call.sandbox.add_job(42)
    call.sandbox.fail(version, 503, times=2)
    answers = [call.cancel(version, 42) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert answers[0].json() == {"detail": "Service Unavailable"}


def test_a_fault_without_times_lasts_until_healed_and_leaves_the_rest_alone(call: Caller) -> None:
    call.sandbox.add_job(42)
    call.sandbox.fail("v1", 410)
    call.sandbox.fail("v2", 599)
    assert [call.status("v1", 42).status_code for _ in range(3)] == [410, 410, 410]
    assert call.send("GET", "/nowhere").status_code == 404
    call.sandbox.heal("v1")
    assert call.status("v1", 42).status_code == 200
    assert call.status("v2", 42).status_code == 599
    call.sandbox.heal()
    assert call.status("v2", 42).status_code == 200


def test_faults_are_played_in_the_order_given(call: Caller) -> None:
    call.sandbox.add_job(42)
    call.sandbox.fail("v2", 500, times=1)
    call.sandbox.drop("v2")
    call.sandbox.fail("v2", 429, times=1)
    assert call.cancel("v2", 42).status_code == 500
    with pytest.raises(httpx.RemoteProtocolError):
        call.cancel("v2", 42)
    assert call.cancel("v2", 42).status_code == 429
    assert call.cancel("v2", 42).status_code == 400


@BOTH
@pytest.mark.parametrize(("applying", "after"), [(True, "CANCELLING"), (False, "QUEUED")])
def test_a_failed_cancel_may_have_been_applied(
    call: Caller, version: str, applying: bool, after: str
) -> None:
    call.sandbox.add_job(42)
    call.sandbox.fail(version, 502, times=1, after_applying=applying)
    answer = call.cancel(version, 42)
    assert (answer.status_code, answer.json()) == (502, {"detail": "Bad Gateway"})
    assert call.sandbox.jobs[42].status == after


@BOTH
def test_a_dropped_answer_is_lost_although_the_job_is_cancelled(
    call: Caller, version: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    call.sandbox.add_job(42)
    call.sandbox.drop(version)
    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        call.cancel(version, 42)
    assert call.sandbox.jobs[42].status == "CANCELLING"
    assert call.sandbox.requests[-1].status is None
    assert call.cancel(version, 42).status_code == 400
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]
    assert capfd.readouterr() == ("", "")


def test_a_request_said_to_be_forwarded_is_dropped_as_well(call: Caller) -> None:
    call.sandbox.drop("v2")
    host, _, port = call.sandbox.base_url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", "/v2/jobs/1", headers={"x-forwarded-for": "192.0.2.1"})
    with pytest.raises(http.client.RemoteDisconnected):
        connection.getresponse()
    connection.close()


def test_nothing_is_applied_where_the_endpoint_is_gone_or_the_limit_reached(
    call: Caller,
) -> None:
    call.sandbox.add_job(42)
    call.sandbox.now = SUNSET
    call.sandbox.fail("v1", 500, times=1, after_applying=True)
    assert call.cancel("v1", 42).status_code == 500
    call.sandbox.rate_limit = 0
    call.sandbox.fail("v2", 500, times=1, after_applying=True)
    assert call.cancel("v2", 42).status_code == 500
    assert call.sandbox.jobs[42].status == "QUEUED"


def test_every_request_is_on_record(call: Caller) -> None:
    call.sandbox.add_job(42)
    call.cancel("v1", 42)
    call.status("v2", 42)
    call.send("GET", "/nowhere")
    assert call.sandbox.requests == [
        RecordedRequest("POST", "/v1/cancel-process", 200, "v1"),
        RecordedRequest("GET", "/v2/jobs/42", 200, "v2"),
        RecordedRequest("GET", "/nowhere", 404, ""),
    ]


# What the OpenAPI document says


def short_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return "|".join(short_type(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"[{short_type(schema['items'])}]"
    return str(schema.get("type", "any"))


def body_type(content: dict[str, Any]) -> str:
    [(media_type, described)] = content["content"].items()
    return f"{media_type} {short_type(described['schema'])}".removeprefix("application/json ")


def operation_of(described: dict[str, Any]) -> Operation:
    body = described.get("requestBody")
    assert body is None or body["required"]
    return Operation(
        operation_id=described["operationId"],
        deprecated=described.get("deprecated", False),
        parameters=tuple(
            (one["name"], one["in"], short_type(one["schema"]), one["required"])
            for one in described.get("parameters", ())
        ),
        body=body and body_type(body),
        answers={status: body_type(answer) for status, answer in described["responses"].items()},
        security=tuple(name for scheme in described["security"] for name in scheme),
    )


def schema_of(described: dict[str, Any]) -> Schema:
    assert described["type"] == "object"
    properties = {name: short_type(one) for name, one in described["properties"].items()}
    return Schema(properties, frozenset(described.get("required", ())))


@pytest.fixture(scope="module")
def document(running: Sandbox) -> dict[str, Any]:
    return running.app.openapi()


@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_an_operation_is_the_published_one(
    document: dict[str, Any], operation: tuple[str, str]
) -> None:
    method, path = operation
    assert operation_of(document["paths"][path][method]) == OPERATIONS[operation]


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_the_published_one(document: dict[str, Any], name: str) -> None:
    described, published = schema_of(document["components"]["schemas"][name]), SCHEMAS[name]
    assert described.required == published.required
    assert described.properties.items() <= published.properties.items()
    missing = published.properties.keys() - described.properties.keys()
    assert missing in (set(), UNTOLD_BY_OLD_FASTAPI)


@pytest.mark.parametrize("operation", PARTLY_PUBLISHED, ids=" ".join)
def test_an_operation_of_v1_is_as_far_as_published(
    document: dict[str, Any], operation: tuple[str, str]
) -> None:
    method, path = operation
    described = operation_of(document["paths"][path][method])
    published = PARTLY_PUBLISHED[operation]
    assert {name: getattr(described, name) for name in published} == published
    assert described.deprecated
    assert described.security == ("APIKeyHeader",)


@pytest.mark.parametrize(("schema", "name"), FORMATS)
def test_a_format_is_the_published_one(document: dict[str, Any], schema: str, name: str) -> None:
    described = document["components"]["schemas"][schema]["properties"][name]
    assert described["format"] == FORMATS[schema, name]


def test_nothing_else_is_described(document: dict[str, Any]) -> None:
    described = {(m, path) for path, methods in document["paths"].items() for m in methods}
    assert described == OPERATIONS.keys() | PARTLY_PUBLISHED.keys()
    assert len(described) == 9 + 8
    assert document["openapi"].startswith("3.1")
    assert document["components"]["schemas"].keys() == SCHEMAS.keys() | UNPUBLISHED_SCHEMAS
    schemes = document["components"]["securitySchemes"]
    assert {
        name: (scheme["type"], scheme["in"], scheme["name"]) for name, scheme in schemes.items()
    } == SECURITY_SCHEMES


# Bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"now": datetime(2026, 6, 1)}, r"now needs a time zone, and datetime.*2026, 6, 1"),  # noqa: DTZ001
        ({"sunset": datetime(2026, 7, 7)}, "sunset needs a time zone"),  # noqa: DTZ001
        ({"jobs": {42: "queued"}}, "QUEUED, PROCESSING, .* not 'queued'"),
        ({"rate_limit": -1}, "rate_limit is 0 or more, not -1"),
        ({"credits": -1}, "credits is 0 or more, not -1"),
        ({"queued_for": -0.5}, "queued_for is 0 or more, not -0.5"),
        ({"processing_for": math.nan}, "processing_for is 0 or more, not nan"),
        ({"cancelling_for": -1}, "cancelling_for is 0 or more, not -1"),
        ({"envelope": "xml"}, "envelope is one of detail-error, .*, vendor, not 'xml'"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sandbox(**wrong)


def test_a_wrong_change_is_named_and_changes_nothing(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="now needs a time zone"):
        sandbox.now = datetime(2026, 6, 1)  # noqa: DTZ001
    with pytest.raises(ValueError, match="v1, v2, not 'v3'"):
        sandbox.fail("v3", 500)
    with pytest.raises(ValueError, match="v1, v2, not '2'"):
        sandbox.drop("2")
    with pytest.raises(ValueError, match="400 to 599, not 200"):
        sandbox.fail("v2", 200)
    assert sandbox.now == BEFORE


def test_jobs_are_given_with_their_states_or_as_ids_alone() -> None:
    assert Sandbox(jobs={1: "ERROR"}).jobs == {1: Job(1, "job-1.csv", "ERROR")}
    assert [job.status for job in Sandbox(jobs=range(1, 4)).jobs.values()] == ["QUEUED"] * 3
    assert Sandbox().jobs == {}


def test_without_the_extra_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['fastapi'] = None; import revenuebase_compat.testing.sandbox"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    last = ran.stderr.strip().splitlines()[-1]
    sentence = "the sandbox needs what is not installed: pip install 'fastapi>="
    assert f"MissingExtraError: {sentence}" in last
    assert "ModuleNotFoundError" in ran.stderr


# Starting and stopping


def test_two_sandboxes_at_once_share_nothing(sandbox: Sandbox, http_client: httpx.Client) -> None:
    with Sandbox(jobs=[1], api_key="rb_test_other", now=SUNSET) as other:
        sandbox.add_job(1)
        assert Caller(sandbox, http_client).cancel("v1", 1).status_code == 200
        assert Caller(other, http_client).cancel("v1", 1).status_code == 410
        assert Caller(other, http_client).cancel("v2", 1, key="rb_test_sandbox").status_code == 401
        assert other.jobs[1].status == "QUEUED"


def test_it_leaves_no_thread_socket_or_word_behind(
    http_client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    threads = set(threading.enumerate())
    with Sandbox(jobs=[1]) as sandbox:
        assert Caller(sandbox, http_client).cancel("v2", 1).status_code == 200
        # A client that stops in the middle of a request must not hold up the end.
        host, _, port = sandbox.base_url.removeprefix("http://").partition(":")
        half = socket.create_connection((host, int(port)))
        half.sendall(b"POST /v2/jobs/1/cancel HTTP/1.1\r\n")
    half.close()
    assert set(threading.enumerate()) == threads
    with pytest.raises(httpx.ConnectError):
        http_client.get(sandbox.base_url)
    assert capfd.readouterr() == ("", "")


def test_a_sandbox_can_be_started_again_on_a_port_of_ones_choice(
    http_client: httpx.Client,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sandbox = Sandbox(jobs=[1], port=port)
    for status in (200, 400):
        with sandbox:
            assert sandbox.base_url == f"http://127.0.0.1:{port}"
            assert Caller(sandbox, http_client).cancel("v2", 1).status_code == status
            with pytest.raises(OSError, match="in use"), Sandbox(port=port):
                pass


def test_it_listens_on_one_loopback_address_only(sandbox: Sandbox) -> None:
    host, _, port = sandbox.base_url.removeprefix("http://").partition(":")
    assert host == "127.0.0.1"
    for other in ("127.0.0.2", "::1"):
        with pytest.raises(OSError):  # noqa: PT011  # which one depends on the system
            socket.create_connection((other, int(port)), timeout=1)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send itself these signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_wait_ends_quietly_on_ctrl_c_and_on_a_plain_kill(name: str) -> None:
    code = (
        "import threading, time, signal\n"
        "from revenuebase_compat.testing.sandbox import Sandbox\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def tell(url):  # once it can be stopped\n"
        f"    while signal.getsignal(signal.{name}) is not signal.default_int_handler:\n"
        "        time.sleep(0.001)\n"
        "    print(url, flush=True)\n"
        "with Sandbox() as sandbox:\n"
        "    threading.Thread(target=tell, args=(sandbox.base_url,), daemon=True).start()\n"
        "    sandbox.wait()\n"
        "print('ended')\n"
    )
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", code]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/v2/jobs/1", trust_env=False).status_code == 401
        os.kill(process.pid, signal.Signals[name])
        rest, errors = process.communicate(timeout=10)
    assert (rest, errors, process.returncode) == ("ended\n", "", 0)


def test_a_refusal_waits_for_the_rest_of_a_body() -> None:
    """A client that is still sending would lose its connection, and the answer with it."""
    with Sandbox(now=datetime(2026, 8, 1, tzinfo=timezone.utc)) as sandbox:
        with closing(http.client.HTTPConnection(sandbox.base_url[7:], timeout=5)) as connection:
            connection.putrequest("POST", "/v1/cancel-process")
            connection.putheader("Transfer-Encoding", "chunked")
            connection.endheaders()
            connection.send(b"1\r\n{\r\n")
            assert select.select([connection.sock], [], [], 0.1)[0] == []
            connection.send(b"1\r\n}\r\n0\r\n\r\n")
            assert connection.getresponse().status == 410


@BOTH
def test_a_cancelled_job_stops_after_a_while(call: Caller, version: str) -> None:
    call.sandbox.cancelling_for = 10
    call.sandbox.add_job(1, "PROCESSING")
    call.sandbox.add_job(2, "CANCELLING")
    assert call.cancel(version, 1).json()["current_status"] == "CANCELLING"
    call.sandbox.now = BEFORE + timedelta(seconds=9)
    assert call.status(version, 1).json()["current_status"] == "CANCELLING"
    call.sandbox.now = BEFORE + timedelta(seconds=10)
    assert call.status(version, 1).json()["current_status"] == "CANCELLED"
    assert call.status(version, 2).json()["current_status"] == "CANCELLING"
    assert call.cancel(version, 1).status_code == 400
