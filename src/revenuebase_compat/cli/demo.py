"""``revenuebase-compat demo``: the whole story, told by what the sandbox saw and calls gave."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from itertools import zip_longest
from logging import BASIC_FORMAT, Formatter, getLogger
from logging.handlers import BufferingHandler
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from revenuebase_compat.adopt.report import prepare, read
from revenuebase_compat.client.facade import Client
from revenuebase_compat.client.notices import ApiDeprecationWarning
from revenuebase_compat.core.dates import parse_date
from revenuebase_compat.core.errors import CancelError
from revenuebase_compat.core.settings import Settings
from revenuebase_compat.testing.sandbox import RecordedRequest, Sandbox

from .output import columns, show

#: An integration with v1 as there are many: a line on stdout for each call.
SCRIPT = """\
import os, sys, httpx
api = httpx.Client(base_url=os.environ["REVENUEBASE_BASE_URL"], trust_env=False,
                   headers={"x-key": os.environ["REVENUEBASE_API_KEY"]})
def call(method, path, **body):
    answer = api.request(method, "/v1/" + path, **body)
    if answer.is_error:
        sys.exit(f"{answer.status_code} {answer.reason_phrase}: {answer.text}")
    return answer
print(call("GET", "credits").json()["credits"], "credits")
print(call("POST", "process-email", json={"email": "ada@example.com"}).json()["status"])
leads = ("leads.csv", b"email\\nada@example.com\\n")
job = call("POST", "batch-upload", files={"requested_file": leads}).json()
print(job["status"])
job = {"process_id": job["process_id"]}
print(call("POST", "batch-process-email-status", json=job).json()["current_status"])
print(call("POST", "batch-download", json=job).text.split()[1])
job = {"process_id": int(sys.argv[1])}
print(call("POST", "cancel-process", json=job).json()["current_status"])
"""

#: What it prints while v1 lives, and under ``run`` ever after.
SERVED = ("Valid", "PROCESSING QUEUED", "COMPLETED", "ada@example.com,Valid", "CANCELLING")


def demo(arguments: Namespace) -> int:
    """Tell the story; 1 where something did not come out as told, else 0."""
    # They say what the log says, and would point at whoever runs the command.
    warnings.simplefilter("ignore", ApiDeprecationWarning)
    # Uploaded jobs end at once, so that the script need not wait.
    with Sandbox(jobs=range(1, 100), queued_for=0, processing_for=0) as sandbox:
        return 0 if Story(sandbox, arguments.clocks.get("sleep", time.sleep)).tell() else 1


class Story:
    """Six chapters, told on stdout, with a sandbox that holds the jobs 1 to 99."""

    def __init__(self, sandbox: Sandbox, sleep: Callable[[float], object]) -> None:
        self._sandbox, self._sleep, self._as_told = sandbox, sleep, True

    def tell(self) -> bool:
        """Tell it; returns whether everything came out as told."""
        show(f"API v1 and v2, in a sandbox on {self._sandbox.base_url}", "bold", indent=2)
        self._row(f"{'you call':<15} {'the sandbox sees':<24}", "answers", "you get")

        self._chapter("2026-06-01", "v1 has five weeks left: a script as it is, and cancel_job")
        self._script(41, "1000 credits", *SERVED)
        self._call(42, "200: CANCELLING, v1 (DEFAULT)")

        self._chapter("2026-06-15", "v2_rollout=50: half of the jobs, the same half anywhere")
        for job in range(1, 5):
            route = "v1 (DEFAULT)" if job == 3 else "v2 (ROLLOUT)"
            self._call(job, f"200: CANCELLING, {route}", v2_rollout=50)

        self._chapter("2026-07-01", "the vendor rehearses the end: v1 answers 410 once")
        self._sandbox.fail("v1", 410, times=1)
        self._call(43, "410, 200: CANCELLING, v2 (V1_GONE)")

        self._chapter("2026-07-07", "the day itself: the script as it was, and cancel_job")
        self._script(44, "410 Gone")
        self._call(44, "200: CANCELLING, v2 (SUNSET)")

        self._chapter("2026-07-07", "revenuebase-compat run --report FILE -- python nightly.py 45")
        self._script(45, "998 credits", *SERVED, run=True)

        self._chapter("2026-07-07", "an answer is lost: asked again, then the status is read")
        self._sandbox.drop("v2")
        self._call(46, "no answer, 400, 200: CANCELLING, v2 (SUNSET)")
        show(f"  job 46 in the sandbox's own books: {self._sandbox.jobs[46].status}", indent=4)

        end = "everything" if self._as_told else "NOT everything"
        show(f"\n{len(self._sandbox.requests)} requests, {end} as told", "bold", indent=2)
        return self._as_told

    def _chapter(self, day: str, title: str) -> None:
        if self._sandbox.requests and sys.stdout.isatty():
            self._sleep(1.75)  # seconds to read a chapter in
        self._sandbox.now = parse_date(day)
        show(f"\n{day}  {title}", "bold", indent=len(day) + 2)

    def _call(self, job: int, told: str, **settings: Any) -> None:
        sandbox, name = self._sandbox, f"cancel_job({job})"
        begun = len(sandbox.requests)
        found = Settings(sandbox.api_key, base_url=sandbox.base_url, **settings)
        log, notices = getLogger("revenuebase_compat"), BufferingHandler(1000)
        log.addHandler(notices)
        try:
            with Client(found, clock=lambda: sandbox.now, sleep=self._sleep) as client:
                done = client.cancel_job(job)
            got, words = f"{done.current_status}, {done.route}", ""
        except CancelError as error:
            got, words = type(error).__name__, str(error)
        finally:
            log.removeHandler(notices)
        served = sandbox.requests[begun:]
        for one in served:
            left = f"{name:<15} {one.method + ' ' + one.path:<24}"
            self._row(left, _answer(one), got if one is served[-1] else "")
            name = ""
        said = map(Formatter(BASIC_FORMAT).format, notices.buffer)
        self._compare(job, f"{', '.join(map(_answer, served))}: {got}", told, words, *said)

    def _script(self, job: int, *told: str, run: bool = False) -> None:
        begun = len(self._sandbox.requests)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("REVENUEBASE_")}
        environ |= {
            "REVENUEBASE_BASE_URL": self._sandbox.base_url,
            "REVENUEBASE_API_KEY": self._sandbox.api_key,
            # The clock of that process is the real one, whatever the day of the story is.
            "REVENUEBASE_V1_SUNSET": "2000-01-01",
        }
        with TemporaryDirectory() as folder:
            script, report = Path(folder, "nightly.py"), prepare(f"{folder}/report.jsonl")
            script.write_text(SCRIPT, "utf-8")
            ours = ["-m", "revenuebase_compat", "run", "--report", report, "--", sys.executable]
            command = [sys.executable, *(ours if run else ()), str(script), str(job)]
            done = subprocess.run(  # noqa: S603
                command, env=environ, capture_output=True, text=True, timeout=60
            )
            counts = read(report)[0]
        lines, words = done.stdout.splitlines(), done.stderr.strip()
        show(f"  {script.name} {job}")
        for one, line in zip_longest(self._sandbox.requests[begun:], lines):
            # A script's calls have no name, and need the room for their paths.
            request, answer = (f"{one.method} {one.path}", _answer(one)) if one else ("", "")
            self._row(f"  {request:<38}", answer, line or "")
        came = "; ".join(lines) or words.partition(":")[0]
        self._compare(job, came, "; ".join(told), words)
        if run:
            moved = sum(count for (_, fate, _), count in counts.items() if fate == "moved")
            show(f"  its report: {moved} of {counts.total()} requests moved to v2", indent=4)

    def _row(self, left: str, answer: str, got: str) -> None:
        style = "green" if got.startswith("CANCELLING") else ""
        line = f"  {left} {answer:<10} {got}".rstrip()
        show(line if len(line) <= columns() else f"  {' '.join(line.split())}", style, indent=4)

    def _compare(self, job: int, came: str, told: str, *said: str) -> None:
        for text in filter(None, said):
            lines = textwrap.fill(text, min(columns(), 78) - 4, break_on_hyphens=False)
            show(textwrap.indent(lines, "    "), "yellow")
        # The sandbox's own books must agree with what the caller got.
        cancelled = self._sandbox.jobs[job].status == "CANCELLING"
        if came != told or cancelled != ("CANCELLING" in told):
            self._as_told = False
            show(f"  NOT as told: {told}", "red", indent=4)


def _answer(one: RecordedRequest) -> str:
    return str(one.status or "no answer")
