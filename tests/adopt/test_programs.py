"""Programs that were written against v1, not one line changed, under ``revenuebase-compat run``.

The host is hard-coded in them: a name that resolves to loopback, and a certificate of our own.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from revenuebase_compat.core.rollout import bucket
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment

pytestmark = pytest.mark.slow

HOST = "api.revenuebase.ai"
URL = f"https://{HOST}/v1/cancel-process"
HERE = Path(__file__).parents[1] / "programs"

LIBRARIES = {
    "recent": ["requests", "urllib3>=2", "httpx", "aiohttp"],
    "old": ["requests<2.30", "urllib3<2", "httpx==0.27.0", "aiohttp<3.11"],
}
PROGRAMS = {
    "requests": ["with_requests.py"],
    "urllib3": ["with_urllib3.py"],
    "urllib.request": ["with_urllib_request.py"],
    "http.client": ["with_http_client.py"],
    "httpx": ["with_httpx.py"],
    "httpx async": ["with_httpx.py", "--async"],
    "aiohttp": ["with_aiohttp.py"],
}
CASES = [
    pytest.param(libraries, program, id=f"{name}, {libraries}")
    for libraries in LIBRARIES
    for name, program in PROGRAMS.items()
]
if sys.version_info >= (3, 11):
    LIBRARIES["recent"].append("httpx2")
    CASES += [
        pytest.param("recent", ["with_httpx2.py"], id="httpx2"),
        pytest.param("recent", ["with_httpx2.py", "--async"], id="httpx2 async"),
    ]
WAYS = ("json", "insecure", "text", "chunks", "gzip")

every_program = pytest.mark.parametrize(("libraries", "program"), CASES)


class Front:
    """TLS in front of a server of this machine, under a name of our choice."""

    def __init__(self, name: str, target: int, folder: Path) -> None:
        authority = trustme.CA()
        self.certificates = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.certificates))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self._context)
        self._target = target
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> Front:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self._started.set()
            await self._stop.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection("127.0.0.1", self._target)
        await asyncio.gather(self._pump(reader, here), self._pump(there, writer))

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()


@contextmanager
def api(tmp_path: Path, **options: Any) -> Iterator[tuple[Sandbox, Front]]:
    jobs = range(1, 31)
    with (
        Sandbox(api_key="rb_test_sandbox", jobs=jobs, sunset=SUNSET, **options) as sandbox,
        Front(HOST, int(sandbox.base_url.rpartition(":")[2]), tmp_path) as front,
    ):
        yield sandbox, front


GONE = {"REVENUEBASE_V1_SUNSET": "2000-01-01"}
ALIVE = {"REVENUEBASE_V1_SUNSET": "2999-01-01"}


def run(
    libraries: str, program: list[str], front: Front, *jobs: str, under: dict[str, str] | None
) -> list[Any]:
    """What a program prints, a list for each job; ``under`` our runner with these variables."""
    python = environment(*LIBRARIES[libraries], with_library=True)
    script, *options = program
    command = [str(python), str(HERE / "at_home.py"), str(front.port), str(HERE / script)]
    command += [*options, *jobs]
    if under is not None:
        command = [str(python.with_name("revenuebase-compat")), "run", "--strict", "--", *command]
    certificates = str(front.certificates)
    done = subprocess.run(
        command,
        env={
            "PATH": os.defpath,
            "SSL_CERT_FILE": certificates,
            "REQUESTS_CA_BUNDLE": certificates,
            **(under or {}),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@every_program
def test_a_program_cancels_its_jobs_after_the_sunset(
    libraries: str, program: list[str], tmp_path: Path
) -> None:
    jobs = {number: f"{way}={number}" for number, way in enumerate(WAYS, 1)}
    with api(tmp_path, now=AFTER) as (sandbox, front):
        without = run(libraries, program, front, *jobs.values(), under=None)
        assert [(status, url) for status, url, *_ in without] == [(410, URL)] * len(jobs)
        sandbox.requests.clear()

        answers = run(libraries, program, front, *jobs.values(), under=GONE)
        for number, (status, url, cancelled, looked) in zip(jobs, answers, strict=True):
            assert (status, url) == (200, URL)
            assert cancelled.keys() == {"process_id", "filename", "current_status", "message"}
            assert cancelled["process_id"] == looked["process_id"] == number
            assert cancelled["current_status"] == looked["current_status"] == "CANCELLING"
        expected = [
            asked
            for number in jobs
            for asked in (("POST", f"/v2/jobs/{number}/cancel"), ("GET", f"/v2/jobs/{number}"))
        ]
        assert [(one.method, one.path) for one in sandbox.requests] == expected


@every_program
@pytest.mark.parametrize("share", [0, 50, 100])
def test_before_the_sunset_the_share_decides(
    libraries: str, program: list[str], share: int, tmp_path: Path
) -> None:
    # Not gzip: FastAPI, and so the sandbox's v1, does not read it.
    jobs = {number: f"{WAYS[number % 4]}={number}" for number in range(1, 13)}
    under = {**ALIVE, "REVENUEBASE_V2_ROLLOUT": str(share)}
    with api(tmp_path, now=BEFORE) as (sandbox, front):
        answers = run(libraries, program, front, *jobs.values(), under=under)
        assert [(status, url) for status, url, *_ in answers] == [(200, URL)] * len(jobs)
        moved = [bucket("", number) < share for number in jobs for _ in ("cancel", "status")]
        assert [one.version for one in sandbox.requests] == ["v2" if yes else "v1" for yes in moved]
        assert len(set(moved)) == (2 if share == 50 else 1)


@every_program
def test_a_rehearsal_ends_in_v2(libraries: str, program: list[str], tmp_path: Path) -> None:
    with api(tmp_path, now=AFTER) as (sandbox, front):
        # The settings do not know yet, and the first answer tells them.
        answers = run(libraries, program, front, "json=1", "text=2", under=ALIVE)
        assert [(status, url) for status, url, *_ in answers] == [(200, URL)] * 2
        assert [one.version for one in sandbox.requests] == ["v1", "v2", "v2", "v2", "v2"]


def test_a_certificate_that_is_not_trusted_is_refused(tmp_path: Path) -> None:
    with api(tmp_path, now=AFTER) as (sandbox, front):
        front.certificates = tmp_path / "empty.pem"
        front.certificates.write_bytes(trustme.CA().cert_pem.bytes())
        for program in (["with_requests.py"], ["with_httpx.py"], ["with_aiohttp.py"]):
            with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
                run("recent", program, front, "json=1", under=GONE)
        assert sandbox.requests == []
