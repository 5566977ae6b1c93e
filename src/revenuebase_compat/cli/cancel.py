"""``revenuebase-compat cancel``: jobs in, their fates out, each job once."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from revenuebase_compat.client.facade import Client
from revenuebase_compat.client.many import CancelJobs
from revenuebase_compat.client.notices import ApiDeprecationWarning, call_site
from revenuebase_compat.client.runtime import emit
from revenuebase_compat.core.errors import STOP_ON, CancelError, ConfigurationError
from revenuebase_compat.core.events import CancelEvent
from revenuebase_compat.core.many import JobOutcome
from revenuebase_compat.core.models import JobId, JobStatus
from revenuebase_compat.core.routes import Route
from revenuebase_compat.core.routing import explain
from revenuebase_compat.core.settings import Settings

from .arguments import ASK_FROM, WAIT
from .ids import decode, read_ids
from .journal import JobRecord, Journal, finished, unfinished
from .output import STOPPED, OutputLost, complain, finish, note, printable, show, table
from .progress import Display

CONCURRENCY = 8


def cancel(arguments: Namespace) -> int:
    """Cancel the jobs that are named; the exit code is that of ``Batch.run``, or 1 after a no."""
    # It says what the log says, and would point at whoever runs the command.
    warnings.simplefilter("ignore", ApiDeprecationWarning)
    if arguments.sandbox and arguments.resume:
        raise ConfigurationError("cancel: a journal (--resume) holds no jobs of a --sandbox")
    if arguments.wait and arguments.wait_timeout is None:
        arguments.wait_timeout = WAIT
    process_ids = _all_ids(arguments)
    with ExitStack() as stack:
        settings = None
        if arguments.sandbox:
            from revenuebase_compat.testing.sandbox import Sandbox

            # CANCELLING for a second only, lest --wait waits in vain
            service = stack.enter_context(Sandbox(jobs=process_ids, cancelling_for=1.0))
            settings = Settings.from_env(api_key=service.api_key, base_url=service.base_url)
        client = stack.enter_context(Client(settings, **arguments.clocks))
        if client.settings.api_key is None:
            client.cancel_job(process_ids[0])  # says what is missing, and sends nothing
        journal = stack.enter_context(closing(Journal(arguments.resume, client.settings.base_url)))
        batch = Batch(arguments, process_ids, client, journal)
        if not arguments.yes and len(batch.todo) > ASK_FROM and _declined(len(batch.todo)):
            complain("nothing was sent")
            return 1
        return batch.run()


def _all_ids(arguments: Namespace) -> list[int]:
    """Those named and those of the file, each once, in order."""
    found, file = list(arguments.process_ids), arguments.from_file
    name = "stdin" if file == "-" else file
    if file is not None:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"--from-file {name}: {error.strerror}") from None
        found += read_ids(decode(data, name), name)
    if not found:
        right = f"{name} holds none" if name else "give some, or --from-file FILE"
        raise ConfigurationError(f"cancel: no ids: {right}")
    return list(dict.fromkeys(found))


def _declined(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Cancel {count} jobs? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() not in ("y", "yes")


class Batch:
    """The jobs of one run, and what became of them so far."""

    def __init__(self, given: Namespace, ids: list[int], client: Client, journal: Journal) -> None:
        self.records = {one: journal.done[one] for one in ids if one in journal.done}
        self.todo = [one for one in ids if one not in self.records]
        self.given, self.ids, self.journal = given, ids, journal
        self.settings, self.wait = client.settings, given.wait_timeout
        self.single = len(ids) == 1
        # Rows on the same terminal are progress enough.
        rows = given.json and sys.stdout.isatty()
        self.silent = given.quiet or rows or (self.single and self.wait is None)
        self.started: set[JobId] = set()
        self.refused: dict[int, JobRecord] = {}  #: for their rate, and given up
        self.routes: dict[int, Route | None] = {}
        self.unread, self.why = "", ""  #: why nothing more is started, if not for Ctrl-C
        runtime = client.runtime
        self.display = Display(self.records.values(), len(ids), runtime.monotonic, self.silent)
        runtime = runtime._replace(settings=replace(client.settings, on_event=self.on_event))
        hooks = (self.on_start, self.display.looked, self.display.paused)
        self.jobs = CancelJobs(runtime, self.todo, CONCURRENCY, self.wait, call_site(), *hooks)

    def run(self) -> int:
        """Cancel the jobs, and show what became of them; returns the exit code."""
        for one in self.records.values():
            self.show_row(one)
        left = False
        try:
            with ExitStack() as stack:
                # Not where SIGINT is ignored (nohup), or somebody else's.
                ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
                if ours and threading.current_thread() is threading.main_thread():
                    stack.callback(signal.signal, signal.SIGINT, signal.default_int_handler)
                    signal.signal(signal.SIGINT, self.stop)
                stack.enter_context(self.display.following(self.jobs))
                for outcome in self.jobs:
                    self.on_outcome(outcome)
        except KeyboardInterrupt:
            left = True
        done = [self.records[one] for one in self.ids if one in self.records]
        rest = [one for one in self.ids if one not in self.records]
        for job in rest:
            self.show_row(self.refused.get(job) or unfinished(job, started=job in self.started))
        if not self.given.json and not self.given.quiet:
            self.attempt(self.show_table, done)
        if rest or not (self.single or self.given.quiet):
            why = self.why or self.unread
            note(self.display.summary(done, self.given.resume, why, len(self.refused)))
        if left:
            # The threads of the jobs under way would hold up a regular exit.
            finish()
            os._exit(STOPPED)
        if self.unread or (rest and self.display.stopping):
            return STOPPED
        return 0 if not rest and all(one.ok for one in done) else 1

    def on_start(self, process_id: JobId) -> None:
        self.started.add(process_id)
        self.attempt(self.journal.write, "started", process_id=process_id)

    def on_event(self, event: CancelEvent) -> None:
        """Called in the job's thread, before its outcome is handed out."""
        self.routes[event.process_id] = event.route
        emit(self.settings, event)

    def on_outcome(self, outcome: JobOutcome) -> None:
        job = int(outcome.process_id)
        one = finished(outcome, self.routes.get(job))
        if self.display.stopping and type(outcome.error) is CancelError:
            self.refused[job] = JobRecord({**one, "error": "interrupted"})
            return
        self.records[job] = one
        if isinstance(outcome.error, STOP_ON):
            self.why = "the key was refused"
        self.attempt(self.journal.write, "done", process_id=job, final=one.final, row=one)
        self.display.finished(one)
        self.show_row(one)
        if self.silent and not one.ok and not self.given.json:
            complain(one["message"], one.name)

    def show_row(self, one: JobRecord) -> None:
        if self.given.json:
            self.attempt(show, one)

    def attempt(self, write: Callable[..., object], *what: object, **facts: object) -> None:
        """Write to stdout or the journal; where that fails, nothing more is started."""
        try:
            write(*what, **facts)
        except (OutputLost, ConfigurationError) as error:
            if not str(error):
                self.unread = "nobody reads stdout"
            elif not self.why:
                complain(str(error))
                self.why = str(error)
            if len(self.records) < len(self.ids):
                self.stop()

    def stop(self, *interrupt: Any) -> None:
        """Start no further job; a second Ctrl-C waits for none under way, either."""
        if interrupt and self.display.stopping:
            raise KeyboardInterrupt
        self.jobs.stop()
        self.display.stop(again=" again" if interrupt else "", why=self.unread)

    def show_table(self, done: Sequence[JobRecord]) -> None:
        """The table, or one sentence of a single job; its error was said."""
        if not self.single or (done and not self.todo):
            table(done)
        elif done and done[0].ok:
            job, state = done[0]["process_id"], done[0].get("current_status", "")
            words, route = f"job {job} was cancelled before", self.routes[job]
            if state and route is not None:
                name, why = printable(done[0]["filename"]), explain(route, self.settings)
                words = f"job {job} ({name}) is {printable(state)}, by API {route}: {why}"
            last = JobStatus.of(self.display.seen or state)
            if self.wait is not None and last is not JobStatus.CANCELLED:
                words += f"; it had not ended in {self.wait:g} s"
            show(words)
