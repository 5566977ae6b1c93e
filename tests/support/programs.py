"""Programs run unmodified: with and without us, their hard-coded host a port of this machine."""

from __future__ import annotations

import asyncio
import json
import math
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme

from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, SUNSET
from tests.support.environments import environment

HOST = "api.revenuebase.ai"
HERE = Path(__file__).parents[1] / "programs"

LIBRARIES = {
    "recent": ["requests", "urllib3>=2", "httpx", "aiohttp"],
    "old": ["requests<2.30", "urllib3<2", "httpx==0.27.0", "aiohttp<3.11"],
}
#: Each library, and the arguments that have ``workflow_….py`` and ``with_….py`` use it.
PROGRAMS = {
    "requests": ["requests.py"],
    "urllib3": ["urllib3.py"],
    "urllib.request": ["urllib_request.py"],
    "http.client": ["http_client.py"],
    "httpx": ["httpx.py", "httpx"],
    "httpx async": ["httpx.py", "httpx", "--async"],
    "aiohttp": ["aiohttp.py"],
}
if sys.version_info >= (3, 11):
    LIBRARIES["recent"].append("httpx2")
    PROGRAMS["httpx2"] = ["httpx.py", "httpx2"]
    PROGRAMS["httpx2 async"] = ["httpx.py", "httpx2", "--async"]

GONE = {"REVENUEBASE_V1_SUNSET": "2000-01-01"}
ALIVE = {"REVENUEBASE_V1_SUNSET": "2999-01-01"}


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


class Retiring(Sandbox):
    """A sandbox whose v1 ends in the middle of a program's work: after so many requests."""

    ends_after = 0

    def __init__(self, **options: Any) -> None:
        # Its clock leaps over weeks in the middle of the work; an uploaded job shall not.
        super().__init__(queued_for=math.inf, **options)

    @property
    def sunset(self) -> datetime:
        return BEFORE if len(self.requests) >= self.ends_after else AFTER

    @sunset.setter
    def sunset(self, _: datetime) -> None:
        pass


@contextmanager
def api(
    tmp_path: Path, kind: type[Sandbox] = Sandbox, **options: Any
) -> Iterator[tuple[Sandbox, Front]]:
    """A sandbox as api.revenuebase.ai; job 7 is finished, and those to 30 are queued."""
    jobs = {job: "COMPLETED" if job == 7 else "QUEUED" for job in range(1, 31)}
    given = {"api_key": "rb_test_sandbox", "jobs": jobs, "sunset": SUNSET, **options}
    with (
        kind(**given) as sandbox,
        Front(HOST, int(sandbox.base_url.rpartition(":")[2]), tmp_path) as front,
    ):
        yield sandbox, front


def execute(
    python: Path,
    program: list[str],
    front: Front,
    *,
    under: Mapping[str, str] | None,
    options: tuple[str, ...] = ("--strict",),
    **variables: str,
) -> subprocess.CompletedProcess[str]:
    """Run a program of ``tests/programs``; ``under`` our runner with these settings, or bare."""
    script, *arguments = program
    command = [str(python), str(HERE / "at_home.py"), str(front.port), str(HERE / script)]
    command += arguments
    if under is not None:
        us = str(python.with_name("revenuebase-compat"))
        command = [us, "run", *options, "--", *command]
    certificates = str(front.certificates)
    trusted = {"SSL_CERT_FILE": certificates, "REQUESTS_CA_BUNDLE": certificates}
    return subprocess.run(
        command,
        env={"PATH": os.defpath, **trusted, **(under or {}), **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def run(
    libraries: str,
    program: list[str],
    front: Front,
    *arguments: str,
    under: Mapping[str, str] | None,
    options: tuple[str, ...] = ("--strict",),
) -> list[Any]:
    """What a program prints: a JSON value a line."""
    python = environment(*LIBRARIES[libraries], with_library=True)
    return lines(execute(python, [*program, *arguments], front, under=under, options=options))


def lines(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """What a program that ended well has printed: a JSON value a line, without times of day."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line, object_hook=_timeless) for line in done.stdout.splitlines()]


def _timeless(found: dict[str, Any]) -> dict[str, Any]:
    for name in ("timestamp", "last_updated"):
        if found.get(name):
            found[name] = "some time"
    return found
