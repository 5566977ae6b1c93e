"""Calls of every kind at once, from threads, forks, signal handlers and tasks; prints what came.

``python stress.py URL CALLS`` sends each job once, by a library and from a place that follow from
its number, so that two runs can be compared line by line.
"""

from __future__ import annotations

import asyncio
import faulthandler
import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import httpx
import requests
import urllib3

PATHS = ("/v1/cancel-process", "/v1/batch-process-email-status", "/v1/batch-download")
URL, CALLS = sys.argv[1], int(sys.argv[2])
KEY = {"x-key": "rb_test_stress"}
here = threading.local()
found: dict[int, str] = {}


def session(kind: str) -> Any:
    """One kept session for each thread, process and library; a handler has its own."""
    name = f"{kind}-{os.getpid()}-{getattr(here, 'handling', False)}"
    if not hasattr(here, name):
        made = {"requests": requests.Session, "httpx": httpx.Client, "urllib3": urllib3.PoolManager}
        setattr(here, name, made[kind]())
    return getattr(here, name)


def by_urllib(url: str, body: dict[str, int]) -> int:
    request = urllib.request.Request(url, json.dumps(body).encode(), KEY)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return len(response.read()) and int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def by_http_client(url: str, body: dict[str, int]) -> int:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=20)
    try:
        connection.request("POST", url[url.index("/v1/") :], json.dumps(body), KEY)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


SENDERS = (
    lambda url, body: session("requests").post(url, json=body, headers=KEY, timeout=20).status_code,
    lambda url, body: session("httpx").post(url, json=body, headers=KEY, timeout=20).status_code,
    lambda url, body: session("urllib3").request("POST", url, json=body, headers=KEY).status,
    by_urllib,
    by_http_client,
)

#: What the libraries call a connection that was closed without an answer, and one that was reset.
LOST = {"ConnectionError", "RemoteProtocolError", "ProtocolError", "RemoteDisconnected"}
LOST |= {"ServerDisconnectedError", "ReadError", "ConnectionResetError", "ClientOSError"}


def call(job: int) -> None:
    try:
        outcome = str(SENDERS[job % 5](URL + PATHS[job % 3], {"process_id": job}))
    except Exception as error:
        name = type(error).__name__
        outcome = "lost" if name in LOST else f"{name}: {error}"
    found[job] = outcome


def in_a_fork(job: int) -> None:
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        call(job)
        os.write(write, found[job].encode())
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    found[job] = os.read(read, 4096).decode()
    os.close(read)


async def in_tasks(jobs: list[int]) -> None:
    slots = asyncio.Semaphore(8)
    async with aiohttp.ClientSession() as by_aiohttp, httpx.AsyncClient(timeout=20) as by_httpx:

        async def one(job: int) -> None:
            url, body = URL + PATHS[job % 3], {"process_id": job}
            async with slots:
                try:
                    if job % 2:
                        async with by_aiohttp.post(url, json=body, headers=KEY) as response:
                            await response.read()
                            found[job] = str(response.status)
                    else:
                        found[job] = str((await by_httpx.post(url, json=body)).status_code)
                except Exception as error:
                    name = type(error).__name__
                    found[job] = "lost" if name in LOST else f"{name}: {error}"

        await asyncio.gather(*(one(job) for job in jobs))


def main() -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    jobs = list(range(1, CALLS + 1))
    handled, forked, tasks = jobs[0::10], jobs[1::10], [*jobs[2::10], *jobs[3::10]]
    rest = [job for job in jobs if job % 10 not in (1, 2, 3, 4)]
    now: list[int] = []

    def handler(*_: object) -> None:
        here.handling = True
        call(now.pop())
        here.handling = False

    signal.signal(signal.SIGUSR1, handler)
    shares = [rest[start::4] for start in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: [*map(call, mine)]) for mine in shares[1:]]
    threads.append(threading.Thread(target=lambda: asyncio.run(in_tasks(tasks))))
    threads.append(threading.Thread(target=lambda: [*map(in_a_fork, forked)]))

    def interrupt() -> None:
        for (
            job
        ) in handled:  # one at a time: libraries have locks that a handler must not need twice
            now.append(job)
            os.kill(os.getpid(), signal.SIGUSR1)
            while job not in found:
                time.sleep(0.001)

    threads.append(threading.Thread(target=interrupt))
    for thread in threads:
        thread.start()
    for job in shares[0]:
        call(job)
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.01)
    json.dump([sorted(found.items()), len(os.listdir("/proc/self/fd"))], sys.stdout)


main()
