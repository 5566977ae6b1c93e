"""The command ``revenuebase-compat``: arguments in, lines and exit codes out.

Results go to stdout, notices and progress to stderr. Exit codes: 0 all cancelled, 1 some job
was not, 2 wrong usage or settings. Optional parts are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from revenuebase_compat._version import __version__
from revenuebase_compat.core.dates import parse_date
from revenuebase_compat.core.errors import CancelError, ConfigurationError, InvalidProcessIdError
from revenuebase_compat.core.models import JobOutcome, JobStatus, check_process_id
from revenuebase_compat.core.routing import explain
from revenuebase_compat.core.settings import Settings

from .gateway import add_arguments as add_gateway_arguments
from .gateway import run as run_gateway

if TYPE_CHECKING:
    from revenuebase_compat.client.facade import Client
    from revenuebase_compat.client.many import CancelJobs

    from .journal import JobRecord
    from .output import Display

WRONG = 2
INTERRUPTED = 130

#: More jobs than that are asked about once, on a terminal.
ASK_FROM = 20
CONCURRENCY = 8

#: Seconds for which a cancelled job of the sandbox is CANCELLING, lest --wait waits in vain.
CANCELLING_FOR = 1.0

_CANCEL_EXAMPLES = """\
examples:
  revenuebase-compat cancel 42 43 --wait
  revenuebase-compat cancel --from-file ids.csv --resume cancel.journal
  some-query | revenuebase-compat cancel --from-file - --json > fates.jsonl

exit codes: 0 all cancelled, 1 some job was not, 2 wrong usage or settings, 130 stopped by Ctrl-C
"""


def main(argv: Sequence[str] | None = None, **clocks: Any) -> int:
    """Run one command; returns the exit code. ``clocks`` are a ``Client``'s, for tests."""
    arguments = _parser().parse_args(argv)
    arguments.clocks = clocks
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except (ConfigurationError, InvalidProcessIdError, ImportError) as error:
        if isinstance(error, ImportError) and "revenuebase-compat[" not in str(error):
            raise
        return _complain(str(error))
    except BrokenPipeError:
        # The reader went away, as `| head` does; nothing more can be said on stdout.
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def _complain(text: str) -> int:
    print(f"revenuebase-compat: {text}", file=sys.stderr)
    return WRONG


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="revenuebase-compat",
        description="Cancels RevenueBase jobs on API v1 or v2, whichever is right today.",
        epilog="Settings come from REVENUEBASE_* variables; the README has the table.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    cancel = commands.add_parser(
        "cancel",
        help="cancel jobs",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Cancels jobs, each once, at the pace that the API's rate limit allows.",
        epilog=_CANCEL_EXAMPLES,
    )
    cancel.add_argument(
        "process_ids", metavar="ID", nargs="*", type=_process_id, help="a job's process_id"
    )
    cancel.add_argument(
        "--from-file",
        metavar="FILE",
        help="more ids: a line each, CSV with a process_id column, or JSON lines; - is stdin",
    )
    cancel.add_argument(
        "--wait",
        metavar="SECONDS",
        nargs="?",
        type=_seconds,
        const=600.0,
        help="wait until each job has ended, at most so long (600 s where no number is given)",
    )
    cancel.add_argument(
        "--resume",
        metavar="JOURNAL",
        type=Path,
        help="write what is started and done to that file; given again, skip what is done",
    )
    cancel.add_argument("--json", action="store_true", help="one JSON object a line, one per job")
    cancel.add_argument(
        "--quiet", action="store_true", help="no progress and no table: errors only"
    )
    cancel.add_argument(
        "--yes", action="store_true", help=f"do not ask for more than {ASK_FROM} jobs"
    )
    cancel.add_argument(
        "--sandbox",
        action="store_true",
        help="cancel in an embedded sandbox that holds these jobs; needs no key",
    )
    cancel.set_defaults(run=_cancel)

    route = commands.add_parser(
        "route", help="which version a cancel would go to, and why; sends nothing"
    )
    route.add_argument("process_ids", metavar="ID", nargs="+", type=_process_id)
    route.add_argument("--at", metavar="DATE", type=_date, help="as if it were that date")
    route.add_argument("--json", action="store_true", help="one JSON object a line, one per job")
    route.set_defaults(run=_route)

    timeline = commands.add_parser(
        "timeline",
        help="what goes where from a date on, and why",
        description="What goes where from a date on, and why. Shares are those of process ids 1 to "
        "10,000, each decided on by itself.",
    )
    timeline.add_argument(
        "--from", dest="start", metavar="DATE", type=_date, help="default: today's"
    )
    timeline.add_argument("--json", action="store_true", help="one JSON object a line")
    timeline.set_defaults(run=_timeline)

    doctor = commands.add_parser("doctor", help="what is set, where it leads, who still speaks v1")
    doctor.add_argument("--json", action="store_true", help="one JSON object a line")
    doctor.set_defaults(run=_doctor)

    run = commands.add_parser(
        "run",
        help="run a command whose v1 requests are moved, with no line of it changed",
        usage="%(prog)s [-h] [--strict] [--rehearse] -- CMD…",
    )
    run.add_argument("--strict", action="store_true", help="raise where a request cannot be moved")
    run.add_argument(
        "--rehearse",
        action="store_true",
        help="strict, and v1 counts as gone: what still needs it raises",
    )
    run.add_argument("argv", metavar="CMD", nargs=argparse.REMAINDER)
    run.set_defaults(run=_run)

    pth = commands.add_parser(
        "pth", help="the same for Pythons that ignore PYTHONPATH; acts only under run"
    )
    pth.add_argument("action", choices=("install", "uninstall", "status"))
    pth.set_defaults(run=_pth)

    gateway = commands.add_parser(
        "gateway", help="a loopback proxy that moves v1 requests of clients in any language"
    )
    add_gateway_arguments(gateway)
    gateway.set_defaults(run=run_gateway)

    demo = commands.add_parser("demo", help="the whole story in ten seconds, in the sandbox")
    demo.set_defaults(run=_demo)

    sandbox = commands.add_parser("sandbox", help="serve the API on loopback, for trying out")
    sandbox.add_argument("--port", type=_port, default=8042, help="default: 8042")
    sandbox.add_argument("--now", metavar="DATE", type=_date, help="its clock; default: today's")
    sandbox.add_argument(
        "--jobs",
        metavar="ID",
        nargs="*",
        type=_process_id,
        default=list(range(1, 101)),
        help="jobs it holds, all QUEUED; default: 1 to 100",
    )
    sandbox.set_defaults(run=_sandbox)
    return parser


def _process_id(text: str) -> int:
    try:
        return check_process_id(text)
    except InvalidProcessIdError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds from 0 to 86400")
    return seconds


def _date(text: str) -> datetime:
    try:
        return parse_date(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date: give ISO 8601, such as 2026-07-07 or 2026-07-07T12:00:00Z"
        ) from None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


@contextmanager
def _client(sandbox: bool, process_ids: Sequence[int], **clocks: Any) -> Iterator[Client]:
    from revenuebase_compat.client.facade import Client

    if not sandbox:
        with Client(**clocks) as client:
            yield client
        return
    from revenuebase_compat.testing.sandbox import Sandbox

    with Sandbox(jobs=process_ids, cancelling_for=CANCELLING_FOR) as service:
        settings = Settings.from_env(api_key=service.api_key, base_url=service.base_url)
        with Client(settings, **clocks) as client:
            yield client


def _cancel(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.client.many import CancelJobs
    from revenuebase_compat.client.notices import ApiDeprecationWarning, call_site

    from .journal import Journal
    from .output import Display, table

    # It says what the log says, and would point at whoever runs the command.
    warnings.simplefilter("ignore", ApiDeprecationWarning)
    process_ids = _all_ids(arguments)
    wait, single = arguments.wait, len(process_ids) == 1
    # Rows on the same terminal are progress enough.
    silent = arguments.quiet or (single and not wait) or (arguments.json and sys.stdout.isatty())
    left = False
    with (
        _client(arguments.sandbox, process_ids, **arguments.clocks) as client,
        closing(Journal(arguments.resume)) as journal,
    ):
        if client.settings.api_key is None:
            client.cancel_job(process_ids[0])  # says what is missing, and sends nothing
        fates = {one: journal.done[one] for one in process_ids if one in journal.done}
        todo = [one for one in process_ids if one not in fates]
        if not arguments.yes and len(todo) > ASK_FROM and _declined(len(todo)):
            return _complain("nothing was sent") and 1
        if arguments.json:
            for fate in fates.values():
                print(json.dumps(fate.row))
        display = Display(len(process_ids), fates.values(), client.runtime.monotonic, quiet=silent)
        jobs = CancelJobs(
            client.runtime,
            todo,
            CONCURRENCY,
            wait,
            call_site(),
            on_start=journal.started,
            on_status=display.looked,
            on_pause=display.paused,
        )
        try:
            with _stoppable(jobs, display):
                for outcome in jobs:
                    fate = fates[int(outcome.process_id)] = journal.settle(outcome)
                    display.finished(fate)
                    if arguments.json:
                        print(json.dumps(fate.row), flush=True)
                    elif silent and not fate.ok:
                        _say(outcome, fate, client.settings, wait)
        except KeyboardInterrupt:
            left = True
        fates = {one: fates[one] for one in process_ids if one in fates}
        stopped = len(fates) < len(process_ids)
        if not (arguments.json or arguments.quiet):
            if not single or (fates and not todo):
                table(fates.values())
            elif fates and fate.ok:
                _say(outcome, fate, client.settings, wait)
        if stopped or not (single or arguments.quiet):
            sys.stdout.flush()
            print(display.summary(fates.values(), arguments.resume), file=sys.stderr)
        if left:
            # The threads of the jobs under way would hold up a regular exit.
            sys.stdout.flush()
            os._exit(INTERRUPTED)
    if stopped:
        return INTERRUPTED
    return 0 if all(fate.ok for fate in fates.values()) else 1


def _all_ids(arguments: argparse.Namespace) -> list[int]:
    """Those named and those of the file, each once, in order."""
    from .journal import read_ids

    found = list(arguments.process_ids)
    if arguments.from_file is not None:
        name = "stdin" if arguments.from_file == "-" else arguments.from_file
        try:
            raw = sys.stdin.buffer.read() if name == "stdin" else Path(name).read_bytes()
            found += read_ids(raw.decode("utf-8-sig"), name)
        except OSError as error:
            raise ConfigurationError(f"--from-file {name}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"--from-file {name} is not UTF-8 text") from None
    if not found:
        name = arguments.from_file
        right = f"{name} holds none" if name else "give some, or --from-file FILE"
        taken = f" (--wait took {arguments.wait:g} for its seconds)" if arguments.wait else ""
        raise ConfigurationError(f"cancel: no ids: {right}{taken}")
    return list(dict.fromkeys(found))


def _declined(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Cancel {count} jobs? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() not in ("y", "yes")


@contextmanager
def _stoppable(jobs: CancelJobs, display: Display) -> Iterator[None]:
    """Progress is shown; Ctrl-C starts no further job, and a second one waits for none."""

    def interrupted(*_: object) -> None:
        if display.stopping:
            raise KeyboardInterrupt
        jobs.stop()
        display.stop()

    # Not where SIGINT is ignored (nohup), or somebody else's.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ours = ours and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, interrupted)
    try:
        with display.following(jobs):
            yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _say(outcome: JobOutcome, fate: JobRecord, settings: Settings, wait: float | None) -> None:
    if outcome.result is not None:
        job = outcome.result
        cancelled = job.status is JobStatus.CANCELLED
        over = f"; it had not ended in {wait:g} s" if wait and not cancelled else ""
        print(
            f"job {job.process_id} ({job.filename}) is {job.current_status}, by API {job.route}: "
            f"{explain(job.route, settings)}{over}"
        )
    elif fate.ok:
        print(f"job {outcome.process_id} was cancelled before, by a run of this journal")
    else:
        print(f"{type(outcome.error).__name__}: {outcome.error}", file=sys.stderr)


def _route(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.client.facade import Client

    from .journal import row

    moment = arguments.at or datetime.now(timezone.utc)
    code = 0
    with Client(clock=lambda: moment) as client:
        for process_id in dict.fromkeys(arguments.process_ids):
            try:
                route = client.route(process_id)
            except ConfigurationError:
                raise
            except CancelError as error:
                code = 1
                if arguments.json:
                    print(json.dumps(row(JobOutcome(process_id, error=error), False)))
                else:
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)
                continue
            if arguments.json:
                found = {"version": f"v{route.version}", "reason": route.reason.value}
                print(json.dumps({"process_id": process_id, "ok": True, **found}))
            else:
                print(f"job {process_id}: {route}: {explain(route, client.settings)}")
    return code


def _timeline(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.core.timeline import timeline

    settings = Settings.from_env()
    for period in timeline(settings, arguments.start or datetime.now(timezone.utc)):
        start = period.start.isoformat(timespec="seconds")
        if arguments.json:
            routes = [
                {
                    "version": f"v{route.version}" if route else None,
                    "reason": route.reason.value if route else "ApiVersionRetiredError",
                    "percent": percent,
                }
                for route, percent in period.routes.items()
            ]
            facts = {"phase": period.phase.value, "share": period.share, "flag": period.flag}
            print(json.dumps({"from": start, **facts, "routes": routes}))
            continue
        where = ", ".join(
            f"{percent:.4g} % {route or 'ApiVersionRetiredError'}"
            for route, percent in period.routes.items()
        )
        asked = "; the flag is asked first" if period.flag else ""
        print(f"{start}  v1 {period.phase.value:10}  {where}{asked}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import main

    return main(arguments.json)


def _run(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.adopt.runner import run

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if argv:
        run(argv, strict=arguments.strict, rehearse=arguments.rehearse)
    return _complain("run: no command: give one after --, as in run -- python app.py")


def _pth(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.adopt.pth import pth

    return pth(arguments.action)


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import main

    return main()


def _sandbox(arguments: argparse.Namespace) -> int:
    from revenuebase_compat.testing.sandbox import Sandbox

    try:
        with Sandbox(
            port=arguments.port,
            now=arguments.now,
            jobs=arguments.jobs,
            cancelling_for=CANCELLING_FOR,
        ) as service:
            print(
                f"export REVENUEBASE_BASE_URL={service.base_url} "
                f"REVENUEBASE_API_KEY={service.api_key}",
                flush=True,
            )
            print("serving until Ctrl-C", file=sys.stderr)
            service.wait()
    except OSError as error:
        return _complain(f"port {arguments.port}: {error.strerror or error}: give another --port")
    return 0
