"""The fault server does what each fault's name says, and leaves nothing behind."""

from __future__ import annotations

import gc
import gzip
import json
import os
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.fault_server import (
    CATALOGUE,
    ENVELOPES,
    FAMILIES,
    HEALTHY,
    OTHER_JOB,
    SENT_AT,
    SENT_AT_UNIX,
    End,
    Fault,
    FaultServer,
    ambiguous,
    applied_then,
    cut_body,
    deflate_bomb,
    drop,
    early,
    echo_key,
    gzip_bomb,
    hang,
    header_bomb,
    huge_body,
    job_body,
    late,
    leftover,
    redirect,
    refusing,
    reset,
    respond,
    stale_connection,
    trickle_body,
    trickle_headers,
    unreachable,
    wrong_job,
)

KEY = {"x-key": "a-key"}
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # unused; loading certificates anew takes its time


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as running:
        yield running


@pytest.fixture
def http(server: FaultServer) -> Iterator[httpx.Client]:
    with new_client(server) as client:
        yield client


def new_client(server: FaultServer, timeout: float = 2) -> httpx.Client:
    return httpx.Client(
        base_url=server.base_url, headers=KEY, timeout=timeout, trust_env=False, verify=TLS
    )


def cancel(http: httpx.Client, process_id: int = 42, version: str = "v2") -> httpx.Response:
    if version == "v1":
        return http.post("/v1/cancel-process", json={"process_id": process_id})
    return http.post(f"/v2/jobs/{process_id}/cancel")


def status(http: httpx.Client, process_id: int = 42, version: str = "v2") -> httpx.Response:
    if version == "v1":
        return http.post("/v1/batch-process-email-status", json={"process_id": process_id})
    return http.get(f"/v2/jobs/{process_id}")


def connect(server: FaultServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=2)


def ask(server: FaultServer, *, most: int = 2**18, within: float = 2.0) -> bytes:
    """What the server sends until it closes, or until there is enough of it, or time is up."""
    received, until = b"", time.monotonic() + within
    with connect(server) as sock:
        sock.sendall(b"POST /v2/jobs/42/cancel HTTP/1.1\r\nX-Key: k\r\nConnection: close\r\n\r\n")
        while len(received) < most and (left := until - time.monotonic()) > 0:
            sock.settimeout(left)
            try:
                data = sock.recv(2**16)
            except TimeoutError:
                break
            if not data:
                break
            received += data
    return received


def settle(server: FaultServer) -> bool:
    until = time.monotonic() + 5
    while server.open_connections and time.monotonic() < until:
        time.sleep(0.002)
    return server.open_connections == 0


# --- the truth --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_it_speaks_the_api(server: FaultServer, http: httpx.Client, version: str) -> None:
    assert status(http, 42, version).json() == job_body(42, "QUEUED")
    first = cancel(http, 42, version)
    assert first.status_code == 200
    assert first.json() == {
        "process_id": 42,
        "filename": "42.csv",
        "current_status": "CANCELLING",
        "message": "Job 42 is cancelling.",
    }
    again = cancel(http, 42, version)
    assert again.status_code == 400
    assert again.json()["detail"]["error"] == "already_cancelled"
    assert status(http, 42, version).json()["current_status"] == "CANCELLING"
    server.jobs[7] = "COMPLETED"
    assert cancel(http, 7, version).json()["detail"]["error"] == "not_cancellable"
    server.missing.add(8)
    assert cancel(http, 8, version).json() == {"detail": "Invalid process_id"}
    assert server.applied == [42]
    assert server.connections == 1
    assert {seen.connection for seen in server.seen} == {1}


def test_requests_it_cannot_serve(server: FaultServer, http: httpx.Client) -> None:
    assert http.post("/v2/jobs/42/cancel", headers={"x-key": ""}).status_code == 401
    assert http.get("/v2/jobs/42/cancel").status_code == 405
    assert http.get("/v3/jobs").status_code == 404
    assert http.get("/v2/jobs/forty").json()["detail"][0]["loc"] == ["path", "process_id"]
    assert http.post("/v1/cancel-process", json={"process_id": True}).status_code == 422
    assert http.post("/v1/cancel-process", content=b"[").json()["detail"][0]["loc"][0] == "body"
    assert server.applied == []


def test_what_it_has_seen(server: FaultServer, http: httpx.Client) -> None:
    cancel(http, 42, "v1")
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/cancel-process")
    assert (seen.version, seen.route, seen.process_id) == ("v1", "cancel", 42)
    assert json.loads(seen.body) == {"process_id": 42}
    assert seen.key == "a-key"
    assert seen.headers["content-type"] == "application/json"
    assert seen.fault == HEALTHY.title


@pytest.mark.parametrize("envelope", ENVELOPES)
def test_envelopes(server: FaultServer, http: httpx.Client, envelope: str) -> None:
    server.envelope = envelope
    server.jobs[42] = "CANCELLED"
    answer = cancel(http)
    assert answer.status_code == 400
    assert "already" in answer.text
    assert ("problem" in answer.headers["content-type"]) == (envelope == "problem")


# --- which request gets which fault -----------------------------------------------------------


def test_scripts_run_in_order_and_then_end(server: FaultServer, http: httpx.Client) -> None:
    server.script(respond(503), respond(418))
    assert [cancel(http).status_code for _ in range(3)] == [503, 418, 200]


def test_scripts_may_be_for_one_route_or_version(server: FaultServer, http: httpx.Client) -> None:
    server.script(respond(410), route="cancel", version="v1")
    server.script(respond(503), route="status")
    assert status(http, version="v1").status_code == 503
    assert cancel(http, 1, "v2").status_code == 200
    assert cancel(http, 2, "v1").status_code == 410


def test_scripts_for_one_job_come_first(server: FaultServer, http: httpx.Client) -> None:
    server.always(respond(500))
    server.always(respond(502), version="v1")
    server.script(respond(418))
    server.script_for(7, respond(429), route="cancel")
    assert cancel(http, 7, "v1").status_code == 429
    assert cancel(http, 7, "v1").status_code == 418
    assert cancel(http, 7, "v1").status_code == 502
    assert cancel(http, 7).status_code == 500
    server.heal()
    assert cancel(http, 7).status_code == 200


def test_chance_is_seeded(server: FaultServer, http: httpx.Client) -> None:
    draws = []
    for _ in range(2):
        server.chance(0.3, [respond(500), respond(503)], seed=4, route="status")
        draws.append([status(http).status_code for _ in range(60)])
        assert cancel(http, 99).status_code in (200, 400)
    assert draws[0] == draws[1]
    assert set(draws[0]) == {200, 500, 503}
    assert 5 < 60 - Counter(draws[0])[200] < 31


def test_many_at_once(server: FaultServer) -> None:
    jobs = range(1, 41)
    for job in jobs:
        server.script_for(job, *[respond(503, applied=job % 2 == 0)] * 2, route="cancel")

    def work(job: int) -> list[int]:
        with new_client(server) as http:
            return [cancel(http, job).status_code for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(work, jobs))
    assert codes == [[503, 503, 400 if job % 2 == 0 else 200] for job in jobs]
    assert sorted(server.applied) == list(jobs)
    assert len(server.seen) == 120
    assert server.connections == 40


# --- each fault does what its name says -------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_catalogue_keeps_its_books(server: FaultServer, name: str) -> None:
    fault = CATALOGUE[name]
    endless = fault.end is End.HANG or name in FAMILIES["endless"]
    server.script(fault)
    received = b""
    try:
        received = ask(server, within=0.05 if endless else 5)
    except ConnectionResetError:
        assert fault.end is End.RESET
    assert settle(server), "the connection outlives its client"
    assert [seen.fault for seen in server.seen] == [fault.title]
    assert server.applied == ([42] if fault.applied else [])
    if name in FAMILIES["status"]:
        assert received.startswith(b"HTTP/1.1 ")
        assert b"\r\n\r\n" in received


def test_titles_tell_the_faults_apart() -> None:
    assert max(Counter(fault.title for fault in CATALOGUE.values()).values()) == 1
    assert set(CATALOGUE) == {name for family in FAMILIES.values() for name in family}


@pytest.mark.parametrize("name", FAMILIES["odd but right"])
def test_odd_but_right(server: FaultServer, http: httpx.Client, name: str) -> None:
    server.script(CATALOGUE[name])
    answer = cancel(http).json()
    assert int(answer["process_id"]) == 42
    assert answer["current_status"] in ("CANCELLING", "PAUSED")


CONTENT = {"length_and_chunked", "early", "switching_protocols"}  # so httpx is with these


@pytest.mark.parametrize("name", sorted({*FAMILIES["lost"], *FAMILIES["not HTTP"]} - CONTENT))
def test_plain_httpx_gets_no_answer(server: FaultServer, name: str) -> None:
    server.script(CATALOGUE[name])
    patience = 0.05 if CATALOGUE[name].end is End.HANG else 2
    with new_client(server, patience) as http, pytest.raises(httpx.TransportError):
        cancel(http)


@pytest.mark.parametrize("name", [*FAMILIES["encoding"], *FAMILIES["body"]])
def test_bodies_are_complete_but_not_right(
    server: FaultServer, http: httpx.Client, name: str
) -> None:
    fault = CATALOGUE[name]
    server.script(fault)
    try:
        right = repr(cancel(http).json()) == repr(job_body(42))
    except (httpx.DecodingError, ValueError, RecursionError):
        right = False
    assert not right or name in ("ambiguous_id", "ambiguous_status")


def test_lost_answers(server: FaultServer) -> None:
    server.script(drop(applied=True), hang(), cut_body(), reset())
    assert ask(server) == b""
    assert server.applied == [42]
    assert ask(server, within=0.05) == b""
    head, _, body = ask(server).partition(b"\r\n\r\n")
    declared = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) < declared
    with pytest.raises(ConnectionResetError):
        ask(server)


def test_a_hang_ends_with_its_client(server: FaultServer) -> None:
    server.script(hang())
    sock = connect(server)
    sock.sendall(b"GET /v2/jobs/1 HTTP/1.1\r\n\r\n")
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        sock.recv(1)
    assert server.open_connections == 1
    sock.close()
    assert settle(server)


@pytest.mark.parametrize("make", [trickle_body, trickle_headers])
def test_trickles_never_end(server: FaultServer, make: Callable[..., Fault]) -> None:
    server.script(make(interval=0.0001))
    received = ask(server, most=500)
    assert received.startswith(b"HTTP/1.1 200 OK")
    assert len(received) >= 500


def test_huge_bodies(server: FaultServer, http: httpx.Client) -> None:
    server.script(huge_body(mib=3), header_bomb(kib=50))
    answer = cancel(http)
    assert len(answer.content) == int(answer.headers["content-length"]) > 3 * 2**20
    assert answer.json() == job_body(42)
    assert len(cancel(http).headers.raw) >= 50


def test_bombs_are_valid_and_grow_as_told(server: FaultServer) -> None:
    bombs: dict[Fault, Callable[[bytes], bytes]] = {
        gzip_bomb(mib=5): gzip.decompress,
        gzip_bomb(mib=5, layers=2): lambda data: gzip.decompress(gzip.decompress(data)),
        deflate_bomb(mib=5): zlib.decompress,
    }
    for process_id, (bomb, unpack) in enumerate(bombs.items(), 1):
        server.jobs = {42: "QUEUED"}
        server.script(bomb)
        body = ask(server).partition(b"\r\n\r\n")[2]
        expanded = unpack(body)
        assert len(body) < 10_000
        assert 5 * 2**20 < len(expanded) < 5 * 2**20 + 1000
        assert json.loads(expanded) == job_body(42)
        assert len(server.applied) == process_id


def test_redirects_name_another_host(server: FaultServer, http: httpx.Client) -> None:
    server.script(redirect(), redirect(308, "https://example.org/x"))
    location = cancel(http).headers["location"]
    assert location == f"http://localhost:{server.port}/v2/jobs/42/cancel"
    assert cancel(http).headers["location"] == "https://example.org/x"
    with FaultServer() as other:
        server.script(redirect(307, f"{other.base_url}/v2/jobs/42/cancel"))
        http.follow_redirects = True
        cancel(http)
        assert [seen.key for seen in other.seen] == ["a-key"]  # why it matters


def test_wrong_answers(server: FaultServer, http: httpx.Client) -> None:
    server.script(wrong_job(7), ambiguous(), echo_key(), echo_key(403))
    assert cancel(http).json()["process_id"] == 7
    assert str(OTHER_JOB) in cancel(http).text
    for answer in (cancel(http), cancel(http)):
        assert "a-key" in answer.text
        assert "a-key" in answer.headers["x-key"]
        assert "a-key" in answer.reason_phrase


def test_connections_that_cannot_be_reused(server: FaultServer, http: httpx.Client) -> None:
    server.script(stale_connection(), leftover(7))
    assert cancel(http).status_code == 200
    assert settle(server)
    assert cancel(http, 43).json()["process_id"] == 43
    assert server.connections == 2
    with connect(server) as sock:
        server.script(leftover(7))
        sock.sendall(b"GET /v2/jobs/44 HTTP/1.1\r\nX-Key: k\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: sock.recv(2**16), b""))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert b'"process_id": 7' in received


def test_early_comes_before_the_request_is_read(server: FaultServer) -> None:
    server.script(early(respond(503)))
    with connect(server) as sock:
        sock.sendall(b"P")
        assert sock.recv(2**16).startswith(b"HTTP/1.1 503")
        assert server.seen == []
        sock.sendall(b"OST /v2/jobs/42/cancel HTTP/1.1\r\nX-Key: k\r\n\r\n")
        sock.sendall(b"GET /v2/jobs/42 HTTP/1.1\r\nX-Key: k\r\n\r\n")
        assert b"QUEUED" in sock.recv(2**16)
    assert [seen.route for seen in server.seen] == ["cancel", "status"]


def test_late_and_applied_then(server: FaultServer, http: httpx.Client) -> None:
    server.script(late(0.05), applied_then(late(5, respond(500))))
    began = time.monotonic()
    assert cancel(http).status_code == 200
    assert time.monotonic() - began >= 0.05
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v2/jobs/43/cancel", timeout=0.05)
    assert server.applied == [42, 43]


def test_dates_agree() -> None:
    told = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(SENT_AT_UNIX))
    assert told == SENT_AT


def test_places_without_a_server() -> None:
    with refusing() as url, pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)
    with unreachable() as url, pytest.raises(httpx.ConnectTimeout):
        httpx.get(url, trust_env=False, timeout=0.05)


# --- nothing is left behind -------------------------------------------------------------------


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_stopping_is_prompt_and_leaves_nothing() -> None:
    threads, files = threading.active_count(), descriptors()
    stuck = ["hang", "trickle_body", "trickle_headers", "endless_body", "endless_informational"]
    with FaultServer() as server:
        server.script(*[CATALOGUE[name] for name in stuck], late(60))
        clients = [connect(server) for _ in range(7)]
        for sock in clients[:6]:
            sock.sendall(b"POST /v2/jobs/42/cancel HTTP/1.1\r\nX-Key: k\r\n\r\n")
        until = time.monotonic() + 5
        while (len(server.seen), server.connections) != (6, 7) and time.monotonic() < until:
            time.sleep(0.002)
        assert server.open_connections == 7
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 1
        assert server.open_connections == 0
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        for sock in clients:
            sock.close()
    # An earlier test's may end meanwhile.
    assert threading.active_count() <= threads
    assert descriptors() <= files
