"""Threads, forks, signals and asyncio at once, over all libraries: ``URL SECONDS SEED``.

Prints one JSON object: the calls made (job, what was sent, by which library, its status), what
failed, and how many descriptors were open before and after.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import httpx
from senders import (  # type: ignore[import-not-found]
    ASYNCHRONOUS,
    CANCEL,
    HEADERS,
    SENDERS,
    STATUS,
    VERIFY,
)

URL, SECONDS, SEED = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
SYNC = [name for name in SENDERS if name not in ASYNCHRONOUS]

calls: list[tuple[int, str, str, int]] = []
failures: list[str] = []
jobs = itertools.count(1000)
ends = 0.0


def call(chance: random.Random, libraries: list[str], job: int | None = None) -> None:
    number = next(jobs) if job is None else job
    path, library = chance.choice((CANCEL, STATUS)), chance.choice(libraries)
    try:
        calls.append((number, path, library, SENDERS[library](URL + path, number)))
    except Exception:
        failures.append(f"{library} {path} {number}: {traceback.format_exc()}")


def threaded(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    while time.monotonic() < ends:
        call(chance, list(SENDERS))


def looping(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311

    async def one(client: Any, session: aiohttp.ClientSession) -> None:
        while time.monotonic() < ends:
            number, path = next(jobs), chance.choice((CANCEL, STATUS))
            if chance.random() < 0.5:
                answer = await client.post(URL + path, json={"process_id": number})
                calls.append((number, path, "httpx async", answer.status_code))
            else:
                async with session.post(URL + path, json={"process_id": number}) as got:
                    await got.read()
                    calls.append((number, path, "aiohttp", got.status))

    async def main() -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=20, verify=VERIFY) as client:
            async with aiohttp.ClientSession(headers=HEADERS) as session:
                await asyncio.gather(*[one(client, session) for _ in range(4)])

    try:
        asyncio.run(main())
    except Exception:
        failures.append(traceback.format_exc())


def handle(*_: object) -> None:
    call(random.Random(next(jobs)), SYNC)  # noqa: S311


def forking(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    while time.monotonic() < ends:
        number, library, path = next(jobs), chance.choice(SYNC), chance.choice((CANCEL, STATUS))
        reading, writing = os.pipe()
        faulthandler.cancel_dump_traceback_later()
        pid = os.fork()
        if pid == 0:
            faulthandler.dump_traceback_later(25, exit=True)
            status = 0
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                status = SENDERS[library](URL + path, number)
            except BaseException:
                traceback.print_exc()
            finally:
                os.write(writing, b"%d" % status)
                os._exit(0 if status else 1)
        faulthandler.dump_traceback_later(SECONDS + 60, exit=True)
        os.close(writing)
        status = int(os.read(reading, 10) or b"0")
        os.close(reading)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0 or not status:
            failures.append(f"a child by {library} {path} {number} failed or hung")
        else:
            calls.append((number, path, library, status))


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    global ends
    for library in SENDERS:  # what each opens once for the process
        SENDERS[library](URL + "/warm", 0)
    # A child that was forked while another thread wrote to stderr could write nothing itself.
    warnings.simplefilter("always")
    before = descriptors()
    signal.signal(signal.SIGALRM, handle)
    ends = time.monotonic() + SECONDS
    with ThreadPoolExecutor(4) as pool:
        work = [pool.submit(threaded, SEED + one) for one in range(3)]
        work.append(pool.submit(looping, SEED + 10))
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        forking(SEED + 20)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for one in work:
            one.result(timeout=40)
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join(5)
    after = descriptors()
    told = {"calls": calls, "failures": failures, "before": before, "after": after}
    print(json.dumps(told))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS + 60, exit=True)
    main()
