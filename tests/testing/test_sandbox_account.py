"""The sandbox as an account: credits, keys, addresses, uploads, jobs that go on, results."""

from __future__ import annotations

import csv
import io
import json
import math
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from revenuebase_compat.core.endpoints import (
    CANCEL,
    CREDITS,
    DOWNLOAD,
    ENDPOINTS,
    LIST,
    ROTATE_KEY,
    START,
    STATUS,
    UPLOAD,
    VERIFY,
    Endpoint,
)
from revenuebase_compat.testing.sandbox import ENVELOPE_NAMES, RecordedRequest, Sandbox
from tests.support.contract_facts import EMAIL_STATUSES, METADATA_FIELDS

BEFORE = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
SUNSET = datetime(2026, 7, 7, tzinfo=timezone.utc)
QUEUED = timedelta(seconds=60)
PROCESSING = timedelta(seconds=120)

ROWS = "name,Email\nAda,ada@example.com\nBob,invalid.bob@example.com\nCy,unknown@example.com\n"
WITH_STATUS = [
    ["name", "Email", "status"],
    ["Ada", "ada@example.com", "Valid"],
    ["Bob", "invalid.bob@example.com", "Invalid"],
    ["Cy", "unknown@example.com", "Unknown"],
]


@pytest.fixture(scope="module")
def http_client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=10) as client:
        yield client


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    Sandbox.__init__(
        running,
        now=BEFORE,
        queued_for=QUEUED.total_seconds(),
        processing_for=PROCESSING.total_seconds(),
        monotonic=lambda: 0.0,
    )
    return running


class Account:
    """Calls by the table of endpoints, on one version."""

    def __init__(self, sandbox: Sandbox, http_client: httpx.Client, version: str) -> None:
        self.sandbox = sandbox
        self.http_client = http_client
        self.version = version

    def call(self, endpoint: Endpoint, process_id: object = None, **more: Any) -> httpx.Response:
        headers = {"x-key": more.pop("key", self.sandbox.api_key)}
        method, path = endpoint.method, endpoint.path
        if self.version == "v2":
            assert endpoint.v2_method
            assert endpoint.v2_path
            method, path = endpoint.v2_method, endpoint.v2_path.format(process_id=process_id)
        elif endpoint.names_job:
            more["json"] = {"process_id": process_id}
        return self.http_client.request(
            method, self.sandbox.base_url + path, headers=headers, **more
        )

    def verify(self, email: str, **more: Any) -> httpx.Response:
        return self.call(VERIFY, json={"email": email}, **more)

    def upload(self, name: str, content: Any = ROWS, **more: Any) -> httpx.Response:
        return self.call(UPLOAD, files={"requested_file": (name, content)}, **more)

    def credits(self) -> int:
        answer = self.call(CREDITS)
        assert answer.status_code == 200
        return int(answer.json()["credits"])

    def status(self, process_id: int) -> str:
        return str(self.call(STATUS, process_id).json()["current_status"])

    def wait(self, *times: timedelta) -> None:
        self.sandbox.now += sum(times, timedelta())


@pytest.fixture(params=["v1", "v2"])
def account(sandbox: Sandbox, http_client: httpx.Client, request: pytest.FixtureRequest) -> Account:
    return Account(sandbox, http_client, request.param)


# --- credits, keys and single addresses -------------------------------------------------------


def test_an_address_has_a_status_and_is_charged_for_unless_unknown(account: Account) -> None:
    account.sandbox.credits = 10
    addresses = ("ada@example.com", "invalid.ada@example.com", "unknown@example.com", "a@b.invalid")
    answers = [account.verify(address) for address in addresses]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [answer.json() for answer in answers] == [
        {"email": address, "status": status}
        for address, status in zip(addresses, (*EMAIL_STATUSES, "Invalid"), strict=True)
    ]
    assert account.credits() == 10 - 3


def test_without_credits_nothing_is_verified(account: Account) -> None:
    account.sandbox.credits = 1
    assert account.verify("ada@example.com").status_code == 200
    refused = account.verify("ada@example.com")
    assert refused.status_code == 402
    assert "credits" in refused.json()["detail"]
    assert account.credits() == 0


@pytest.mark.parametrize("checked", ["", "checked", "mx1.example.com", True, False, None])
def test_metadata_is_given_where_it_is_asked_for(account: Account, checked: Any) -> None:
    account.sandbox.mx_record_checked = checked
    answer = account.verify("ada@Example.com", params={"metadata": "true"}).json()
    assert tuple(answer) == METADATA_FIELDS
    assert answer["email"] == "ada@Example.com"
    assert answer["domain"] == "example.com"
    assert answer["timestamp"] == "2026-06-01T12:00:00+00:00"
    assert answer["mx_record_present"] is True
    assert answer["mx_record_checked"] == checked
    assert type(answer["mx_record_checked"]) is type(checked)
    plain = account.verify("ada@example.com", params={"metadata": "false"}).json()
    assert tuple(plain) == METADATA_FIELDS[:2]


@pytest.mark.parametrize("email", ["ada", "ada@", "@example.com", "a da@example.com", "a@b", "", 7])
def test_a_malformed_address_is_a_422_and_free(account: Account, email: Any) -> None:
    refused = account.call(VERIFY, json={"email": email})
    assert refused.status_code == 422
    [error] = refused.json()["detail"]
    assert error["loc"] == ["body", "email"]
    assert {"msg", "type", "input"} <= error.keys()
    assert account.credits() == 1000
    no_bool = account.verify("ada@example.com", params={"metadata": "perhaps"})
    assert (no_bool.status_code, no_bool.json()["detail"][0]["loc"]) == (422, ["query", "metadata"])


def test_a_rotated_key_replaces_the_old_one_at_once(account: Account) -> None:
    old = account.sandbox.api_key
    new = account.call(ROTATE_KEY).json()["api_key"]
    assert new != old
    assert account.call(CREDITS, key=old).status_code == 401
    assert account.call(CREDITS, key=new).status_code == 200
    newest = account.call(ROTATE_KEY).json()["api_key"]
    assert len({old, new, newest}) == 3
    assert account.call(CREDITS, key=new).status_code == 401


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.name)
def test_every_call_needs_the_key(account: Account, endpoint: Endpoint) -> None:
    if account.version == "v2" and not endpoint.v2_path:
        pytest.skip("v2 has no such call")
    body: dict[str, Any] = (
        {"files": {"requested_file": ("a.csv", "x")}} if endpoint is UPLOAD else {}
    )
    if endpoint in (VERIFY, START):
        body = {"json": {"email": "ada@example.com", "filename": "a.csv"}}
    refused = account.call(endpoint, 1, key="rb_test_other", **body)
    assert (refused.status_code, refused.json()) == (401, {"detail": "Not authenticated"})


# --- files and jobs ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["leads.csv", "LEADS.CSV"])
def test_an_uploaded_file_goes_through_its_states(account: Account, name: str) -> None:
    uploaded = account.upload(name)
    assert uploaded.status_code == 200
    job = uploaded.json().pop("process_id")
    assert uploaded.json() == {"process_id": job, "filename": name, "status": "PROCESSING QUEUED"}
    account.wait(QUEUED - timedelta(seconds=1))
    assert account.status(job) == "QUEUED"
    assert account.call(DOWNLOAD, job).status_code == 400
    account.wait(timedelta(seconds=1))
    assert account.status(job) == "PROCESSING"
    assert account.credits() == 1000
    account.wait(PROCESSING)
    # Two of three rows are charged for, once; and whoever asks for the credits first sees so.
    assert account.credits() == 998
    assert account.status(job) == "COMPLETED"
    account.wait(PROCESSING)
    assert account.credits() == 998


def test_the_states_are_those_of_the_clock_however_far_it_goes(sandbox: Sandbox) -> None:
    job = sandbox.start("leads.csv", ROWS.encode())
    sandbox.now += timedelta(days=1)
    assert sandbox.jobs[job.process_id].status == "COMPLETED"
    job = sandbox.start("leads.csv", ROWS.encode())
    sandbox.now -= timedelta(days=30)  # back before it was uploaded: it goes on from here
    assert sandbox.jobs[job.process_id].status == "QUEUED"
    sandbox.now += QUEUED
    assert sandbox.jobs[job.process_id].status == "PROCESSING"


def test_active_jobs_are_listed_with_five_fields(account: Account) -> None:
    sandbox = account.sandbox
    for number, status in enumerate(
        ("QUEUED", "PROCESSING", "COMPLETED", "ERROR", "CANCELLING", "CANCELLED"), 1
    ):
        sandbox.add_job(number, status)
    started = account.upload("leads.csv").json()["process_id"]
    account.wait(QUEUED)
    answer = account.call(LIST)
    assert answer.status_code == 200
    found = answer.json()["processes"]
    assert [(one["process_id"], one["status"]) for one in found] == [
        (1, "QUEUED"),
        (2, "PROCESSING"),
        (started, "PROCESSING"),
    ]
    fields = ["process_id", "filename", "status", "message", "last_updated"]
    assert [sorted(one) for one in found] == [sorted(fields)] * 3
    # As in the vendor's own fixtures, without an offset.
    assert [one["last_updated"] for one in found] == [
        "2026-06-01T12:00:00",
        "2026-06-01T12:00:00",
        "2026-06-01T12:01:00",
    ]


def test_a_result_is_the_file_with_a_status_column_under_its_name(account: Account) -> None:
    job = account.upload("leads.csv").json()["process_id"]
    account.wait(QUEUED, PROCESSING)
    answer = account.call(DOWNLOAD, job)
    assert answer.status_code == 200
    assert answer.headers["content-disposition"] == 'attachment; filename="leads.csv"'
    assert answer.headers["content-type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(answer.text))) == WITH_STATUS


def test_a_result_with_metadata_has_its_columns(account: Account) -> None:
    job = account.upload("leads.csv", params={"metadata": "true"}).json()["process_id"]
    account.wait(QUEUED, PROCESSING)
    header, *rows = csv.reader(io.StringIO(account.call(DOWNLOAD, job).text))
    assert header == ["name", "Email", *METADATA_FIELDS[1:]]
    assert [row[:3] for row in rows] == WITH_STATUS[1:]
    assert {len(row) for row in rows} == {len(header)}


@pytest.mark.parametrize(
    "items",
    [["ada@example.com", "unknown@example.com"], [{"id": 1, "mail": "ada@example.com"}, {"id": 2}]],
)
def test_a_json_result(account: Account, items: list[Any]) -> None:
    job = account.upload("leads.json", json.dumps(items)).json()["process_id"]
    account.wait(QUEUED, PROCESSING)
    answer = account.call(DOWNLOAD, job)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["content-disposition"] == 'attachment; filename="leads.json"'
    kept = [item if isinstance(item, dict) else {"email": item} for item in items]
    second = "Invalid" if isinstance(items[0], dict) else "Unknown"
    assert answer.json() == [kept[0] | {"status": "Valid"}, kept[1] | {"status": second}]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("ada@example.com\n\n", [["ada@example.com", "Valid"]]),  # no header, an empty line
        ("\ufeffemail\r\nada@example.com", [["email", "status"], ["ada@example.com", "Valid"]]),
        ("email\n", [["email", "status"]]),
        ('n,m\n"a ""b"",\nc",a@b.co\n', [["n", "m", "status"], ['a "b",\nc', "a@b.co", "Valid"]]),
        ("email\nnobody\n", [["email", "status"], ["nobody", "Invalid"]]),
    ],
)
def test_files_as_people_have_them(account: Account, text: str, rows: list[list[str]]) -> None:
    job = account.upload("leads.csv", text.encode()).json()["process_id"]
    account.wait(QUEUED, PROCESSING)
    answer = account.call(DOWNLOAD, job)
    assert list(csv.reader(io.StringIO(answer.text, newline=""))) == rows


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("q1 leads.csv", 'filename="q1 leads.csv"'),
        ("дата.csv", "filename*=utf-8''%D0%B4%D0%B0%D1%82%D0%B0.csv"),
        ("a;b\\c.csv", "filename*=utf-8''a%3Bb%5Cc.csv"),
    ],
)
def test_any_name_comes_back(account: Account, name: str, header: str) -> None:
    uploaded = account.upload(name).json()
    assert uploaded["filename"] == name
    account.wait(QUEUED, PROCESSING)
    answer = account.call(DOWNLOAD, uploaded["process_id"])
    assert answer.headers["content-disposition"] == f"attachment; {header}"


def test_a_cancelled_job_is_not_charged_for_and_its_result_is_without_status(
    account: Account,
) -> None:
    account.sandbox.cancelling_for = 5
    job = account.upload("leads.csv").json()["process_id"]
    account.wait(QUEUED)
    assert account.call(CANCEL, job).json()["current_status"] == "CANCELLING"
    refused = account.call(DOWNLOAD, job)
    assert (refused.status_code, refused.json()["detail"]["error"]) == (400, "not_completed")
    account.wait(PROCESSING)
    assert account.status(job) == "CANCELLED"
    assert account.credits() == 1000
    rows = list(csv.reader(io.StringIO(account.call(DOWNLOAD, job).text)))
    assert [row[-1] for row in rows] == ["status", "", "", ""]


@pytest.mark.parametrize("name", ["leads.txt", "leads", "leads.csv.exe", "csv"])
def test_another_extension_is_refused(account: Account, name: str) -> None:
    refused = account.upload(name)
    assert refused.status_code == 400
    assert refused.json()["detail"]["error"] == "invalid_extension"
    assert account.sandbox.jobs == {}


def test_an_empty_file_and_no_file_are_refused(account: Account) -> None:
    empty = account.upload("leads.csv", b"")
    assert (empty.status_code, empty.json()["detail"]["error"]) == (400, "upload_error")
    wrongs: list[dict[str, Any]] = [{"files": {"file": ("leads.csv", "x")}}, {"json": {}}, {}]
    for wrong in wrongs:
        refused = account.call(UPLOAD, **wrong)
        assert refused.status_code == 422
        assert refused.json()["detail"][0]["loc"] == ["body", "requested_file"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("leads.csv", b"email\n\xff\xfe\n"),
        ("leads.csv", b"email\n" + b"x" * 200_000),  # more than a cell of a CSV may hold
        ("leads.json", b'{"email": "ada@example.com"}'),
        ("leads.json", b"[1,"),
        ("leads.json", b"[" * 100_000),
    ],
)
def test_a_file_that_cannot_be_read_ends_in_error(
    account: Account, name: str, content: bytes
) -> None:
    job = account.upload(name, content).json()["process_id"]
    account.wait(QUEUED)
    assert account.status(job) == "PROCESSING"
    account.wait(PROCESSING)
    assert account.status(job) == "ERROR"
    refused = account.call(DOWNLOAD, job)
    assert (refused.status_code, refused.json()["detail"]["error"]) == (400, "process_error")
    refused = account.call(CANCEL, job)
    assert (refused.status_code, refused.json()["detail"]["error"]) == (400, "not_cancellable")
    assert account.credits() == 1000


def test_jobs_that_were_put_in_have_a_result_and_stay_as_they_are(account: Account) -> None:
    account.sandbox.add_job(1, "COMPLETED")
    account.sandbox.add_job(2, "COMPLETED", "leads.json")
    account.sandbox.add_job(3, "QUEUED")
    account.wait(timedelta(days=10))
    assert account.call(DOWNLOAD, 1).text == "email,status\nada@example.com,Valid\n"
    assert account.call(DOWNLOAD, 2).json() == [{"email": "ada@example.com", "status": "Valid"}]
    assert account.status(3) == "QUEUED"
    assert account.call(DOWNLOAD, 9).status_code == 400


def test_a_large_file_is_not_held_in_memory(account: Account, tmp_path: Any) -> None:
    row = b"notes" * 80 + b",ada@example.com\n"
    path = tmp_path / "leads.csv"
    path.write_bytes(row * (6 * 1024 * 1024 // len(row)))
    with path.open("rb") as file:
        tracemalloc.start()
        try:
            job = account.upload("leads.csv", file).json()["process_id"]
            account.wait(QUEUED, PROCESSING)
            size = 0
            url = {"v1": "/v1/batch-download", "v2": f"/v2/jobs/{job}/download"}[account.version]
            with account.http_client.stream(
                "POST" if account.version == "v1" else "GET",
                account.sandbox.base_url + url,
                headers={"x-key": account.sandbox.api_key},
                json={"process_id": job} if account.version == "v1" else None,
            ) as answer:
                for chunk in answer.iter_raw():
                    size += len(chunk)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert size > path.stat().st_size
    assert peak < 4 * 1024 * 1024


def test_a_known_file_is_started_again_on_v1(sandbox: Sandbox, http_client: httpx.Client) -> None:
    account = Account(sandbox, http_client, "v1")
    first = account.upload("leads.csv").json()["process_id"]
    again = account.call(START, json={"filename": "leads.csv"})
    assert again.status_code == 200
    assert again.json()["status"] == "PROCESSING QUEUED"
    assert again.json()["process_id"] != first
    account.wait(QUEUED, PROCESSING)
    rows = csv.reader(io.StringIO(account.call(DOWNLOAD, again.json()["process_id"]).text))
    assert list(rows) == WITH_STATUS
    unknown = account.call(START, json={"filename": "other.csv"})
    assert (unknown.status_code, unknown.json()) == (400, {"detail": "File not found."})
    assert account.call(START, json={}).status_code == 422


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda one: one.name)
def test_all_of_v1_ends_with_the_sunset(
    sandbox: Sandbox, http_client: httpx.Client, endpoint: Endpoint
) -> None:
    sandbox.now = SUNSET
    assert Account(sandbox, http_client, "v1").call(endpoint, 1).status_code == 410


# --- envelopes, limits, the record ------------------------------------------------------------


@pytest.mark.parametrize("envelope", ENVELOPE_NAMES)
def test_a_code_stands_where_the_envelope_has_it(account: Account, envelope: str) -> None:
    account.sandbox.envelope = envelope
    account.sandbox.add_job(1, "CANCELLED")
    answer = account.call(CANCEL, 1)
    code, words = "already_cancelled", "Job is already cancelled."
    vendor = {"v1": {"message": words}, "v2": {"message": code}}[account.version]
    assert answer.status_code == 400
    assert (
        answer.json()
        == {
            "detail-error": {"detail": {"error": code, "message": words}},
            "detail-code": {"detail": {"code": code, "message": words}},
            "detail": {"detail": code},
            "detail-prose": {"detail": words},
            "error": {"error": code, "message": words},
            "code": {"detail": words, "code": code},
            "message": {"message": code},
            "message-prose": {"message": words},
            "problem": {
                "type": f"https://api.revenuebase.ai/errors/{code}",
                "title": "Bad Request",
                "status": 400,
                "detail": words,
            },
            "vendor": vendor,
        }[envelope]
    )
    kind = "application/problem+json" if envelope == "problem" else "application/json"
    assert answer.headers["content-type"] == kind
    # What has no code has the words alone.
    missing = account.call(CANCEL, 2).json()
    assert list(missing) == ["message" if envelope.startswith(("message", "vendor")) else "detail"]
    assert missing.popitem()[1].startswith("Invalid process_id")


def test_every_request_is_told_as_it_is_answered(account: Account) -> None:
    heard: list[RecordedRequest] = []
    account.sandbox.on_request = heard.append
    account.sandbox.fail(account.version, 503, times=1)
    account.call(CREDITS)
    account.credits()
    assert [(one.version, one.status) for one in heard] == [
        (account.version, 503),
        (account.version, 200),
    ]
    assert heard == account.sandbox.requests


def test_an_upload_whose_answer_is_lost_has_started_a_job(account: Account) -> None:
    account.sandbox.drop(account.version)
    with pytest.raises(httpx.RemoteProtocolError):
        account.upload("leads.csv")
    assert [job.filename for job in account.sandbox.jobs.values()] == ["leads.csv"]


def test_a_limit_is_over_when_the_clock_has_run_on(account: Account) -> None:
    account.sandbox.rate_limit = 1
    assert account.call(CREDITS).status_code == 200
    assert account.call(CREDITS).status_code == 429
    account.wait(timedelta(seconds=60))
    assert account.call(CREDITS).status_code == 200


def test_no_answer_states_a_limit_that_is_not_kept(account: Account) -> None:
    assert not [name for name in account.call(CREDITS).headers if "ratelimit" in name]


def test_defaults_are_those_that_the_docstring_names() -> None:
    sandbox = Sandbox()
    assert (sandbox.credits, sandbox.rate_limit, sandbox.cancelling_for) == (1000, None, math.inf)
    assert (sandbox.queued_for, sandbox.processing_for) == (30, 30)
