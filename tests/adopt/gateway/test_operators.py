"""The gateway for its operators: readiness, metrics, logs, the report, and whom it answers."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from revenuebase_compat import Settings
from revenuebase_compat.adopt import report
from revenuebase_compat.adopt.gateway import Gateway
from revenuebase_compat.adopt.gateway import app as app_module
from revenuebase_compat.core.endpoints import ENDPOINTS, START, Endpoint
from tests.conftest import TEST_KEY
from tests.support import AFTER, BEFORE
from tests.support import fault_server as faults
from tests.support.fault_server import FaultServer

from .support import CANCEL, KEY, OK, STATUS, Connection, Running, Upstream, served, wait_for
from .test_pool import relay

COUNT = re.compile(r'gateway_requests_total\{endpoint="(\w+)",fate="(\w+)"\} ([1-9]\d*)\.0')


def counts(client: httpx.Client) -> dict[tuple[str, str], int]:
    text = client.get("/-/metrics").text
    return {(endpoint, fate): int(number) for endpoint, fate, number in COUNT.findall(text)}


def ask(client: httpx.Client, endpoint: Endpoint) -> httpx.Response:
    content = json.dumps({"process_id": 42}) if endpoint.method == "POST" else None
    return client.request(endpoint.method, endpoint.path, content=content)


# --- paths of its own -------------------------------------------------------------------------


def test_it_is_ready_when_the_upstream_can_be_reached(running: Running) -> None:
    seen: list[bytes] = []

    def handle(connection: Connection) -> None:
        seen.append(connection.reader.read())

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        for _ in range(3):
            answer = client.get("/-/readyz")
            assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        running.switch.current.pool.close()
        wait_for(lambda: seen == [b""])  # one connection, and no request on it


def test_it_looks_again_after_ten_seconds(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(app_module, "monotonic", lambda: now[0])
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = sock.getsockname()
    with running.front(f"http://127.0.0.1:{address[1]}") as client:
        answer = client.get("/-/readyz")
        assert answer.status_code == 503
        assert "ConnectionRefusedError" in answer.json()["status"]
        with socket.create_server(address):
            now[0] += 9.9
            assert client.get("/-/readyz").status_code == 503
            now[0] += 0.2
            assert client.get("/-/readyz").status_code == 200
    assert app_module.READY_FOR == 10


def test_it_is_not_ready_where_tls_fails(running: Running) -> None:
    with Upstream(b"no TLS") as upstream:
        with running.front(upstream.base_url.replace("http://", "https://")) as client:
            upstream.handle = lambda connection: connection.sock.sendall(b"220 no TLS\r\n")
            assert client.get("/-/readyz").status_code == 503


def test_it_is_not_ready_once_a_stop_has_begun(running: Running, server: FaultServer) -> None:
    with running.front(server.base_url) as client:
        running.switch.current.stopping = True
        answer = client.get("/-/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "stopping"})
        assert answer.headers["connection"] == "close"
        assert client.get("/-/healthz").status_code == 200
        assert client.get("/v2/jobs").headers["connection"] == "close"


def test_nothing_below_its_own_paths_reaches_the_upstream(
    running: Running, server: FaultServer
) -> None:
    with running.front(server.base_url) as client:
        assert client.get("/-/other").status_code == 404
        assert client.get("/-/metrics").status_code == 200
    assert server.connections == 0


# --- metrics, logs, report --------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=[one.name for one in ENDPOINTS])
def test_metrics_count_by_endpoint_and_fate(running: Running, endpoint: Endpoint) -> None:
    with Upstream(OK) as upstream:
        with running.front(upstream.base_url) as client:
            ask(client, endpoint)
            client.get("/v2/jobs")
            client.get("/v1/of/another/kind")
            found = counts(client)
            text = client.get("/-/metrics")
    fate = "left" if endpoint is START else "moved"
    assert found == {(endpoint.name, fate): 1, ("other", "passed"): 1, ("unknown", "left"): 1}
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'revenuebase_compat_gateway_answers_total{status="200"} 4.0' in text.text
    assert "revenuebase_compat_gateway_request_seconds_count 3.0" in text.text


def test_metrics_count_what_was_followed_and_what_was_refused(
    running: Running, server: FaultServer
) -> None:
    server.always(faults.gone(), version="v1")
    with running.front(server.base_url, now=BEFORE) as client:
        client.post(CANCEL, json={"process_id": 1})
        client.post(CANCEL, json={"process_id": 2})
        client.post(STATUS, content=b"?")
        client.get("/v2/jobs", headers={"Origin": "https://a.example"})
        found, text = counts(client), client.get("/-/metrics").text
    assert found == {("cancel", "followed"): 1, ("cancel", "moved"): 1, ("status", "left"): 1}
    assert 'answers_total{status="403"} 1.0' in text


def test_metrics_tell_what_is_under_way(running: Running) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def handle(connection: Connection) -> None:
        connection.head()
        arrived.set()
        assert go_on.wait(10)
        connection.sock.sendall(OK)

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        thread = threading.Thread(target=lambda: httpx.get(running.base_url + "/v2/jobs"))
        thread.start()
        assert arrived.wait(10)
        assert "revenuebase_compat_gateway_in_flight 1.0" in client.get("/-/metrics").text
        go_on.set()
        thread.join(10)
        assert "revenuebase_compat_gateway_in_flight 0.0" in client.get("/-/metrics").text


def test_moved_requests_are_told_of_at_info(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with running.front(server.base_url) as client:
        for process_id in (1, 2):
            client.post(CANCEL, json={"process_id": process_id})
    said = [one for one in caplog.records if one.name == "revenuebase_compat"]
    assert [(one.levelname, one.getMessage()) for one in said] == [
        ("INFO", "POST /v1/cancel-process is sent as POST /v2/jobs/{process_id}/cancel")
    ]


def test_the_access_log_holds_no_key_query_or_body(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    gateway = Gateway(Settings(), server.base_url, access_log=True, clock=lambda: AFTER)
    with served(gateway) as running, httpx.Client(base_url=running.base_url, headers=KEY) as one:
        one.post(CANCEL + "?token=s3cret", json={"process_id": 1234567})
        one.post(STATUS, json={"process_id": 1234567})
        one.get("/v2/jobs?token=s3cret")
        one.get("/v2/x", headers={"Host": "evil.example"})
        one.get("/-/healthz")
        one.get("/-/healthz", headers={"Host": "evil.example"})
    lines = [one.getMessage() for one in caplog.records if one.name.endswith(".access")]
    assert [re.sub(r"[\d.]+ s", "T", line) for line in lines] == [
        f"POST {CANCEL} moved 200 T",
        f"POST {STATUS} moved 200 T",
        "GET /v2/jobs passed 404 T",
        "GET /v2/x refused 403 T",
        "GET /-/healthz answered 200 T",
        "GET /-/healthz refused 403 T",
    ]
    ours = "".join(one.getMessage() for one in caplog.records if one.name.startswith("revenue"))
    assert not [secret for secret in ("s3cret", "1234567", TEST_KEY) if secret in ours]


def test_there_is_no_access_log_unless_asked_for(
    running: Running, server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with running.front(server.base_url) as client:
        client.get("/v2/jobs")
    assert [one for one in caplog.records if one.name.startswith("revenuebase_compat")] == []


def test_a_report_has_a_line_per_v1_request(server: FaultServer, tmp_path: Path) -> None:
    path = str(tmp_path / "report.jsonl")
    server.always(faults.gone(), version="v1")
    gateway = Gateway(Settings(), server.base_url, report=report.Report(path), clock=lambda: BEFORE)
    with served(gateway) as running, httpx.Client(base_url=running.base_url, headers=KEY) as one:
        one.post(STATUS, json={"process_id": 1})
        one.post(STATUS, json={"process_id": 1})
        one.post(CANCEL, content=b"no job")
        one.get("/v1/rb_test_in_a_path")
        one.get("/v2/jobs")
        with running.connect() as sock:  # nothing was sent
            sock.sendall(
                b"POST /v1/cancel-process HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"
            )
    counted, unreadable = report.read(path)
    assert dict(counted) == {
        ("POST /v1/batch-process-email-status", "followed", "gateway"): 1,
        ("POST /v1/batch-process-email-status", "moved", "gateway"): 1,
        ("POST /v1/cancel-process", "left", "gateway"): 1,
        ("GET /v1/…", "left", "gateway"): 1,
    }
    assert unreadable == 0
    assert oct(os.stat(path).st_mode)[-3:] == "600"


# --- whom it answers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8089",
        "127.0.0.1:1",
        "[::1]:8089",
        "10.1.2.3",
        "api.invalid",
        "gw:80",
    ],
)
def test_it_answers_under_known_names(host: str) -> None:
    gateway = Gateway(Settings(), "https://api.invalid", allow_hosts=["GW"])
    with served(gateway) as running:
        for path in ("/-/healthz", "/-/metrics"):
            assert httpx.get(running.base_url + path, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:8089"},
        {"Host": "localhost.evil.example"},
        {"Host": "api.invalid.evil.example"},
        {"Host": "user@localhost"},
        {"Host": "127.0.0.1.nip.io"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:8089"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
@pytest.mark.parametrize("path", ["/-/healthz", "/-/metrics", CANCEL, "/v2/jobs"])
def test_web_pages_are_refused(
    running: Running, server: FaultServer, headers: dict[str, str], path: str
) -> None:
    with running.front(server.base_url) as client:
        answer = client.post(path, json={"process_id": 1}, headers=headers)
        assert answer.status_code == 403
        assert server.connections == 0
        # The address bar, say, is nobody's page.
        ours = {"Sec-Fetch-Site": "none"}
        assert client.get("/-/healthz", headers=ours).status_code == 200


def test_a_loop_ends_with_508(running: Running) -> None:
    def handle(connection: Connection) -> None:
        relay(connection.sock, running.port)

    with Upstream(handle) as upstream, running.front(upstream.base_url) as client:
        answer = client.get("/v2/jobs")
        again = client.get("/v2/jobs", headers={"Via": "1.1 proxy, 1.1 other"})
    assert answer.status_code == again.status_code == 508
    assert len(upstream.threads) == 2


def test_via_names_the_gateway_after_those_before_it(running: Running) -> None:
    with Upstream(OK) as upstream, running.front(upstream.base_url) as client:
        client.get("/", headers={"Via": "1.0 before"})
        pseudonym: Any = running.switch.current.pseudonym
    via = re.findall(rb"(?i)\r\nvia: ([^\r]+)", upstream.heads[0])
    assert via == [b"1.0 before", b"1.1 " + pseudonym]
    assert re.fullmatch(rb"revenuebase-compat-[0-9a-f]{8}", pseudonym)
