"""The parser of the command line: every command, its options, and the types of their values."""

from __future__ import annotations

from argparse import REMAINDER, ArgumentParser, ArgumentTypeError, HelpFormatter, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from textwrap import fill
from typing import Any, NoReturn

from revenuebase_compat._version import __version__
from revenuebase_compat.core.dates import parse_date
from revenuebase_compat.core.models import check_process_id, check_wait
from revenuebase_compat.core.settings import DEFAULT_BASE_URL

from .output import WRONG, complain, note, writing

ASK_FROM = 20  #: where there are more jobs, ``cancel`` asks once, on a terminal
WAIT = 600.0  #: seconds that ``--wait`` waits

_EXAMPLES = """\
examples:
  revenuebase-compat cancel 42 43 --wait
  revenuebase-compat cancel --from-file ids.csv --resume cancel.journal
  some-query | revenuebase-compat cancel --from-file - --json > fates.jsonl

exit codes: 0 all cancelled, 1 some job was not, 2 wrong usage or settings, 130 stopped
"""


class _Parser(ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_WrappedLines, **options)

    def error(self, message: str) -> NoReturn:
        complain(message, self.prog)
        raise SystemExit(WRONG)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse itself hides that there is no reader, or ends in a traceback: by its version.
        with writing(file):
            file.write(message)


class _WrappedLines(HelpFormatter):
    # The lines of a description are kept, and wrapped where the terminal is too narrow.
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(
            fill(line, width, subsequent_indent="    " * (line[:1] == " "), break_on_hyphens=False)
            for line in text.splitlines()
        )


def _checked(make: Callable[[str], Any], wrong: str, text: str) -> Any:
    """What ``make`` makes; in the ``wrong`` words ``{0}`` is the text and ``{1}`` the error."""
    try:
        return make(text)
    except ValueError as error:
        raise ArgumentTypeError(wrong.format(text, error)) from None


def _file_name(text: str) -> str:
    if text.isdigit():  # no option may swallow an id
        raise ArgumentTypeError(f"{text!r} looks like an id: give ./{text} for a file")
    return text


def _whole(what: str, most: int, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise ArgumentTypeError(f"{text!r} is no {what}: give a number from 0 to {most}")
    return int(text)


_process_id = partial(_checked, check_process_id, "{1}")
_NO_SECONDS = "{0!r}: give seconds from 0 to 86400"
_seconds = partial(_checked, lambda text: check_wait(float(text)), _NO_SECONDS)
_NO_DATE = "{0!r} is no date: give ISO 8601, such as 2026-07-07 or 2026-07-07T12:00:00Z"
_date = partial(_checked, parse_date, _NO_DATE)
_port, _count = partial(_whole, "port", 65_535), partial(_whole, "count", 999_999_999)

_FLAG = {"action": "store_true"}
_JSON = {**_FLAG, "help": "one JSON object a line"}


def _add_jobs(command: Callable[..., Any]) -> None:
    words = "Cancels jobs, each once, at the pace that the API's rate limit allows."
    add = command("cancel", "cancel", "cancel jobs", description=words, epilog=_EXAMPLES)
    add("process_ids", metavar="ID", nargs="*", type=_process_id, help="a job's process_id")
    words = "more ids: a line each, CSV with a process_id column, or JSON lines; - is stdin"
    add("--from-file", metavar="FILE", type=_file_name, help=words)
    add("--wait", **_FLAG, help=f"wait until each job has ended, at most {WAIT:g} s")
    words = "like --wait, for at most SECONDS; a job that is still CANCELLING counts as cancelled"
    add("--wait-timeout", metavar="SECONDS", type=_seconds, help=words)
    words = "write what is started and done to that file; given again, skip what is done, and what "
    words += "another try would not change, such as a job that does not exist"
    add("--resume", metavar="JOURNAL", type=_file_name, help=words)
    add("--json", **_FLAG, help="one JSON object a line, one per job")
    add("--quiet", **_FLAG, help="no progress and no table: errors only")
    add("--yes", **_FLAG, help=f"cancel more than {ASK_FROM} jobs without asking at the terminal")
    add("--sandbox", **_FLAG, help="cancel in an embedded sandbox that holds them; needs no key")
    add = command("route", "plan", "which version a cancel would go to, and why; sends nothing")
    add("process_ids", metavar="ID", nargs="+", type=_process_id)
    add("--at", metavar="DATE", type=_date, help="as if it were that date")
    add("--json", **_JSON)
    words = "what goes where from a date on, and why"
    about = f"{words}; shares are those of process ids 1 to 10,000, each decided on by itself; v1 "
    about += "is deprecated, sunsetting in its last 90 days, and then retired"
    add = command("timeline", "plan", words, description=about)
    add("--from", dest="start", metavar="DATE", type=_date, help="default: today's")
    add("--json", **_JSON)
    words = "what is set, who still speaks v1; exit code 1: a problem; 2: a wrong setting"
    add = command("doctor", "doctor", words)
    add("--json", **_JSON)


def _add_programs(command: Callable[..., Any]) -> None:
    words = "run a command whose v1 requests are moved, with no line of it changed"
    add = command("run", "bridge", words, usage="%(prog)s\n       [options] -- CMD ...")
    add("--strict", **_FLAG, help="raise where a request cannot be moved")
    add("--rehearse", **_FLAG, help="strict, and v1 counts as gone: what still needs it raises")
    add("--report", metavar="FILE", help="append each v1 request, and its fate")
    add("argv", metavar="CMD", nargs=REMAINDER)
    add = command("report", "bridge", "what run --report FILE wrote: who still speaks v1")
    add("file", metavar="FILE")
    words = "a start-up file with which run also reaches Pythons that ignore PYTHONPATH (-I, -E)"
    add = command("pth", "bridge", words)
    words = "put it there, remove it, or say whether it is there (exit code 1: it is not)"
    add("action", choices=("install", "uninstall", "status"), help=words)
    words = "a loopback proxy that moves v1 requests of clients in any language"
    add = command("gateway", "bridge", words)
    add("--upstream", metavar="URL", default=DEFAULT_BASE_URL, help="where requests go")
    add("--host", default="127.0.0.1", help="loopback only; default: 127.0.0.1")
    add("--port", type=_port, default=8089, help="default: 8089")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    words = "a name clients may ask under, besides localhost and IP addresses; may be repeated"
    add("--allow-host", metavar="NAME", action="append", default=[], help=words)
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, default="info", help="default: info")
    add("--access-log", **_FLAG, help="a line per request: no query, header or body")
    add("--report", metavar="FILE", help="append a line per v1 request to FILE")
    add = command("sandbox", "bridge", "serve the API on loopback, for trying out")
    add("--port", type=_port, default=8042, help="default: 8042")
    add("--now", metavar="DATE", type=_date, help="its clock, which runs on; default: today's")
    ids = {"nargs": "*", "type": _process_id, "default": range(1, 101)}
    add("--jobs", metavar="ID", **ids, help="jobs it holds, all QUEUED; default: 1 to 100")
    add("--rate-limit", metavar="N", type=_count, help="requests a minute; default: none")
    add("--credits", metavar="N", type=_count, default=1000, help="default: 1000")
    words = "an uploaded job is QUEUED for so long, then PROCESSING for so long; default: 2"
    add("--job-seconds", metavar="SECONDS", type=_seconds, default=2.0, help=words)
    words = "where a 400 has its code: error, code, message, message-prose, problem, vendor, detail"
    words += ', detail-code, detail-prose, or detail-error (the default): {"detail": {"error": …}}'
    add("--envelope", metavar="NAME", default="detail-error", help=words)
    kinds = ("empty", "text", "host", "true", "false", "null")
    words = "what mx_record_checked is in the answer for a verified address; default: empty; else "
    words += ", ".join(kinds[1:])
    add("--mx-record-checked", metavar="KIND", choices=kinds, default="empty", help=words)
    add("--quiet", **_FLAG, help="no line for each request")
    command("demo", "demo", "the whole story in ten seconds, in the sandbox")


def parse(argv: Sequence[str] | None = None) -> Namespace:
    """The arguments; ``module`` is where the function named as the ``command`` is.

    Without a ``command`` the help is printed. Wrong arguments are said, and a ``SystemExit``.
    """
    parser = _Parser(
        prog="revenuebase-compat",
        description="Cancels RevenueBase jobs on API v1 or v2, whichever is right today.",
        epilog="Settings come from REVENUEBASE_* variables; the README has the table.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(name: str, module: str, words: str, **options: Any) -> Callable[..., object]:
        added = subparsers.add_parser(name, help=words, **{"description": words, **options})
        added.set_defaults(module=module)
        return added.add_argument

    _add_jobs(command)
    _add_programs(command)
    arguments, rest = parser.parse_known_args(argv)
    if arguments.command is None:
        note(parser.format_help().rstrip())
    elif rest and hasattr(arguments, "process_ids") and not any(text[:1] == "-" for text in rest):
        # argparse leaves the ids behind an option, where others stood before it.
        arguments.process_ids += parser.parse_args([arguments.command, *rest]).process_ids
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments
