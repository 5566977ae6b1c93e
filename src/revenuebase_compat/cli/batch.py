"""A run of ``cancel``: its jobs, what is shown of them, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from revenuebase_compat.client.facade import Client
from revenuebase_compat.client.many import CancelJobs
from revenuebase_compat.client.notices import call_site
from revenuebase_compat.client.runtime import emit
from revenuebase_compat.core.errors import STOP_ON, ConfigurationError
from revenuebase_compat.core.events import CancelEvent
from revenuebase_compat.core.many import JobOutcome
from revenuebase_compat.core.models import CancelResult, Job, JobId, JobStatus
from revenuebase_compat.core.routes import Route
from revenuebase_compat.core.routing import explain

from .journal import JobRecord, Journal, record, unfinished_row
from .output import STOPPED, OutputLost, complain, finish, note, printable, show, table
from .progress import Display

CONCURRENCY = 8


class Batch:
    """The jobs of one run, and what became of them so far."""

    def __init__(
        self, arguments: Namespace, process_ids: Sequence[int], client: Client, journal: Journal
    ) -> None:
        self.records = {one: journal.done[one] for one in process_ids if one in journal.done}
        self.todo = [one for one in process_ids if one not in self.records]
        self.given, self.process_ids, self.journal = arguments, process_ids, journal
        self.settings, self.wait = client.settings, arguments.wait_timeout
        self.single = len(process_ids) == 1
        # Rows on the same terminal are progress enough.
        self.silent = (
            arguments.quiet
            or (self.single and self.wait is None)
            or (arguments.json and sys.stdout.isatty())
        )
        self.started: set[JobId] = set()
        self.routes: dict[int, Route | None] = {}
        self.states: dict[int, JobStatus] = {}
        self.result: CancelResult | None = None
        #: Why nothing more is started, where it was not Ctrl-C.
        self.why = ""
        runtime = client.runtime
        before = self.records.values()
        self.display = Display(len(process_ids), before, runtime.monotonic, quiet=self.silent)
        self.jobs = CancelJobs(
            runtime._replace(settings=replace(client.settings, on_event=self.on_event)),
            self.todo,
            CONCURRENCY,
            self.wait,
            call_site(),
            on_start=self.on_start,
            on_status=self.on_status,
            on_pause=self.display.paused,
        )

    def run(self) -> int:
        """Cancel the jobs, and show what became of them; returns the exit code."""
        if self.given.json:
            for one in self.records.values():
                self.attempt(show, json.dumps(one.row))
        left = False
        try:
            with self.stoppable():
                for outcome in self.jobs:
                    self.on_outcome(outcome)
        except KeyboardInterrupt:
            left = True
        done = [self.records[one] for one in self.process_ids if one in self.records]
        rest = [one for one in self.process_ids if one not in self.records]
        self.attempt(self.show_all, done, rest)
        if rest or not (self.single or self.given.quiet):
            note(self.display.summary(done, self.given.resume, self.why))
        if left:
            # The threads of the jobs under way would hold up a regular exit.
            finish()
            os._exit(STOPPED)
        if rest:
            return STOPPED if self.display.stopping else 1
        return 0 if all(one.ok for one in done) else 1

    def on_start(self, process_id: JobId) -> None:
        self.started.add(process_id)
        self.attempt(self.journal.started, process_id)

    def on_status(self, job: Job) -> None:
        self.states[job.process_id] = job.status
        self.display.looked(job)

    def on_event(self, event: CancelEvent) -> None:
        """Called in the job's thread, before its outcome is handed out."""
        self.routes[event.process_id] = event.route
        emit(self.settings, event)

    def on_outcome(self, outcome: JobOutcome) -> None:
        job, self.result = int(outcome.process_id), outcome.result
        one = self.records[job] = record(outcome, self.routes.get(job))
        if isinstance(outcome.error, STOP_ON):
            self.why = "the key was refused"
        self.attempt(self.journal.finished, one)
        self.display.finished(one)
        if self.given.json:
            self.attempt(show, json.dumps(one.row))
        elif self.silent and not one.ok:
            complain(one.row["message"], one.name)

    def attempt(self, write: Callable[..., object], *what: object) -> None:
        """Write to stdout or the journal; where that fails, nothing more is started."""
        try:
            write(*what)
        except (OutputLost, ConfigurationError) as error:
            if str(error) and not self.why:
                complain(str(error))
                self.why = str(error)
            if len(self.records) < len(self.process_ids):
                self.jobs.stop()
                self.display.stop()

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Progress is shown; Ctrl-C starts no further job, and a second one waits for none."""

        def interrupted(*_: object) -> None:
            if self.display.stopping:
                raise KeyboardInterrupt
            self.jobs.stop()
            self.display.stop()

        # Not where SIGINT is ignored (nohup), or somebody else's.
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ours = ours and threading.current_thread() is threading.main_thread()
        if ours:
            signal.signal(signal.SIGINT, interrupted)
        try:
            with self.display.following(self.jobs):
                yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, signal.default_int_handler)

    def show_all(self, done: Sequence[JobRecord], rest: Sequence[int]) -> None:
        """What is shown at the end: the table, one sentence, or the objects that are missing."""
        if self.given.json:
            for job in rest:
                show(json.dumps(unfinished_row(job, started=job in self.started)))
        elif self.given.quiet:
            return
        elif not self.single or (done and not self.todo):
            table(done)
        elif done and done[0].ok:
            job, found = done[0].row["process_id"], self.result
            words = f"job {job} was cancelled before"
            if found is not None:
                words = (
                    f"job {job} ({printable(found.filename)}) is {printable(found.current_status)}"
                    f", by API {found.route}: {explain(found.route, self.settings)}"
                )
            state = self.states.get(job, found and found.status)
            if self.wait is not None and state is not JobStatus.CANCELLED:
                words += f"; it had not ended in {self.wait:g} s"
            show(words)
