"""``revenuebase-compat demo``: the whole story against the embedded sandbox, in ten seconds.

Nothing is staged: what is said of a call is what the sandbox saw and what the client gave back.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
import warnings
from collections.abc import Callable
from logging import BASIC_FORMAT, Formatter, getLogger
from logging.handlers import BufferingHandler
from typing import TYPE_CHECKING, Any

import httpx

from revenuebase_compat.client.facade import Client
from revenuebase_compat.client.notices import ApiDeprecationWarning
from revenuebase_compat.core.dates import parse_date
from revenuebase_compat.core.errors import CancelError
from revenuebase_compat.core.settings import Settings

from .output import printer

if TYPE_CHECKING:
    from revenuebase_compat.testing.sandbox import Sandbox

#: Seconds to read a chapter in, and a line.
CHAPTER, LINE = 1.8, 0.25


def main(sleep: Callable[[float], object] = time.sleep) -> int:
    """Tell the story; returns 0 if everything came out as told, else 1.

    ``sleep`` waits seconds: for the client's retries, and on a terminal for the reader.

    Raises:
        ImportError: the extra ``sandbox`` is not installed; names the ``pip install``.
    """
    from revenuebase_compat.testing.sandbox import Sandbox

    with Sandbox(jobs=range(1, 100)) as sandbox, warnings.catch_warnings():
        # They say what the log says, and would point at whoever runs the command.
        warnings.simplefilter("ignore", ApiDeprecationWarning)
        return 0 if Story(sandbox, sleep).tell() else 1


class Story:
    """Five chapters, told on stdout, with a sandbox that holds the jobs 1 to 99."""

    def __init__(self, sandbox: Sandbox, sleep: Callable[[float], object]) -> None:
        self._sandbox = sandbox
        self._sleep = sleep
        terminal = sys.stdout.isatty()
        self._pause = sleep if terminal else lambda _seconds: None
        self._say = printer(terminal and not os.environ.get("NO_COLOR"))
        self._notices = BufferingHandler(1000)
        self._as_told = True

    def tell(self) -> bool:
        """Tell it; returns whether everything came out as told."""
        self._say(f"API v1 and v2, in a sandbox on {self._sandbox.base_url}", "bold")
        self._row("you call", "the sandbox sees", "answers", "you get")
        getLogger("revenuebase_compat").addHandler(self._notices)
        try:
            self._chapters()
        finally:
            getLogger("revenuebase_compat").removeHandler(self._notices)
        end = "everything" if self._as_told else "NOT everything"
        self._say(f"\n{len(self._sandbox.requests)} requests, {end} as told", "bold")
        return self._as_told

    def _chapters(self) -> None:
        self._chapter("2026-06-01", "v1 has five weeks left, and is used with a notice")
        self._call(self.cancel_job, 42, "200: CANCELLING, v1 (DEFAULT)", notices=1)

        self._chapter("2026-06-15", "v2_rollout=50: half of the jobs, the same half anywhere")
        for job in range(1, 7):
            route = "v2 (ROLLOUT)" if job in (1, 2, 4) else "v1 (DEFAULT)"
            self._call(self.cancel_job, job, f"200: CANCELLING, {route}", v2_rollout=50)
            self._pause(LINE)

        self._chapter("2026-07-01", "the vendor rehearses the end: v1 answers 410 once")
        self._sandbox.fail("v1", 410, times=1)
        self._call(self.cancel_job, 43, "410, 200: CANCELLING, v2 (V1_GONE)", notices=1)

        self._chapter("2026-07-07", "the day itself: a script left as it was, and cancel_job")
        self._call(self.old_script, 44, "410: 410 Gone")
        self._call(self.cancel_job, 44, "200: CANCELLING, v2 (SUNSET)")

        self._chapter("2026-07-07", "an answer is lost: asked again, then the status is read")
        self._sandbox.drop("v2")
        self._call(self.cancel_job, 45, "no answer, 400, 200: CANCELLING, v2 (SUNSET)")
        self._say(f"  job 45 in the sandbox's own books: {self._sandbox.jobs[45].status}", "")

    def cancel_job(self, job: int, **settings: Any) -> tuple[str, str]:
        """What this library gives back, and what its error says."""
        sandbox = self._sandbox
        found = Settings(sandbox.api_key, base_url=sandbox.base_url, **settings)
        with Client(found, clock=lambda: sandbox.now, sleep=self._sleep) as client:
            try:
                result = client.cancel_job(job)
            except CancelError as error:
                return type(error).__name__, str(error)
        return f"{result.current_status}, {result.route}", ""

    def old_script(self, job: int) -> tuple[str, str]:
        """What a v1 integration gets that nobody touched, and what the server says."""
        url, key = f"{self._sandbox.base_url}/v1/cancel-process", {"x-key": self._sandbox.api_key}
        answer = httpx.post(url, json={"process_id": job}, headers=key, trust_env=False)
        return f"{answer.status_code} {answer.reason_phrase}", answer.text

    def _chapter(self, day: str, title: str) -> None:
        if self._sandbox.requests:
            self._pause(CHAPTER)
        self._sandbox.now = parse_date(day)
        self._say(f"\n{day}  {title}", "bold")

    def _call(
        self,
        send: Callable[..., tuple[str, str]],
        job: int,
        told: str,
        notices: int = 0,
        **how: Any,
    ) -> None:
        """Make a call, show it, and compare it with what was told."""
        begun, name = len(self._sandbox.requests), f"{send.__name__}({job})"
        got, words = send(job, **how)
        served = self._sandbox.requests[begun:]
        answers = [str(one.status or "no answer") for one in served]
        for one, answer in zip(served, answers, strict=True):
            self._row(name, f"{one.method} {one.path}", answer, got if one is served[-1] else "")
            name = ""
        said = [Formatter(BASIC_FORMAT).format(record) for record in self._notices.buffer]
        self._notices.flush()
        for text in filter(None, [words, *said]):
            lines = textwrap.fill(text, 74, break_on_hyphens=False)
            self._say(textwrap.indent(lines, "    "), "yellow")
        # The sandbox's own books must agree with what the caller got.
        cancelled = self._sandbox.jobs[job].status == "CANCELLING"
        came = (f"{', '.join(answers)}: {got}", len(said), cancelled)
        if came != (told, notices, "CANCELLING" in told):
            self._as_told = False
            self._say(f"  NOT as told: {told} (notices: {notices})", "red")

    def _row(self, call: str, request: str, answer: str, got: str) -> None:
        line = f"  {call:<15} {request:<24} {answer:<10} {got}"
        self._say(line.rstrip(), "green" if got.startswith("CANCELLING") else "")
