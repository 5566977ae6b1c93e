"""The commands for programs nobody edits: ``run``, ``report``, ``pth`` and ``gateway``."""

from __future__ import annotations

import os
import shutil
import sys
from argparse import REMAINDER, Namespace
from collections import Counter
from typing import Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

from .arguments import port
from .output import WRONG, OutputLost, complain, note, printer, show

STYLES = {"moved": "green", "followed": "yellow", "left": "red"}
LEVELS = ("debug", "info", "warning", "error")


def add_arguments(subparsers: Any) -> None:
    words = "run a command whose v1 requests are moved, with no line of it changed"
    parser = subparsers.add_parser("run", help=words, usage="%(prog)s … -- CMD…")
    add, words = parser.add_argument, "strict, and v1 counts as gone: what still needs it raises"
    add("--strict", action="store_true", help="raise where a request cannot be moved")
    add("--rehearse", action="store_true", help=words)
    add("--report", metavar="FILE", help="append each v1 request, and its fate")
    add("argv", metavar="CMD", nargs=REMAINDER)
    parser.set_defaults(run=run)

    words = "what run --report FILE wrote: who still speaks v1"
    parser = subparsers.add_parser("report", help=words)
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=report)

    words = "the same for Pythons that ignore PYTHONPATH; acts only under run"
    parser = subparsers.add_parser("pth", help=words)
    parser.add_argument("action", choices=("install", "uninstall", "status"))
    parser.set_defaults(run=pth)

    words = "a loopback proxy that moves v1 requests of clients in any language"
    parser = subparsers.add_parser("gateway", help=words)
    add = parser.add_argument
    add("--upstream", metavar="URL", default=DEFAULT_BASE_URL, help="where requests go")
    add("--host", default="127.0.0.1", help="loopback only; default: 127.0.0.1")
    add("--port", type=port, default=8089, help="default: 8089")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    words = "a name clients may ask under, besides localhost and IP addresses; may be repeated"
    add("--allow-host", metavar="NAME", action="append", default=[], help=words)
    add("--log-level", choices=LEVELS, default="info", help="default: info")
    add("--access-log", action="store_true", help="a line per request: no query, header or body")
    add("--report", metavar="FILE", help="append a line per v1 request to FILE")
    parser.set_defaults(run=gateway)


def run(arguments: Namespace) -> int:
    """Become the command; returns only where there is none."""
    from revenuebase_compat.adopt import runner

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if argv:
        strict, rehearse = arguments.strict, arguments.rehearse
        runner.run(argv, strict=strict, rehearse=rehearse, report=arguments.report)
    complain("run: no command: give one after --, as in run -- python app.py")
    return WRONG


def pth(arguments: Namespace) -> int:
    """Put the start-up file of this Python in, take it away, or say whether it is there."""
    from revenuebase_compat.adopt.pth import pth

    return pth(arguments.action)


def report(arguments: Namespace) -> int:
    """Print the table of a report; 1 if something was left to v1, else 0.

    Raises:
        ConfigurationError: there is no such file, or it is no report.
    """
    from revenuebase_compat.adopt.report import FATES, read

    counts, unreadable = read(arguments.file)
    say = printer(sys.stdout.isatty())
    # On a terminal a site gives way, in its middle; a file or a pipe gets it whole.
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10**6
    width = len(str(max(counts.values(), default=0)))
    fates: Counter[str] = Counter()
    order = sorted(counts, key=lambda key: (key[0], FATES.index(key[1]), key[2]))
    above = ""
    for endpoint, fate, site in order:
        if endpoint != above:
            above = endpoint
            say(_cut(endpoint, columns), "bold")
        number = counts[endpoint, fate, site]
        left = f"  {fate:<8}  {number:>{width}}  "
        say(left + _cut(site, columns - len(left)), STYLES[fate])
        fates[fate] += number
    told = ", ".join(f"{fates[fate]} {fate}" for fate in FATES if fates[fate])
    say(f"in all: {told or 'none'}", "bold")
    if fates["left"]:
        say(f"{fates['left']} would fail in a rehearsal", "red")
    if unreadable:
        say(f"lines that could not be read: {unreadable}", "red")
    return 1 if fates["left"] else 0


def _cut(text: str, width: int) -> str:
    text = "".join(char if char.isprintable() else "?" for char in text)
    half = max(4, width - 1) // 2
    return text if len(text) <= width else f"{text[:half]}…{text[-half:]}"


def gateway(arguments: Namespace) -> int:
    """Serve until Ctrl-C.

    Raises:
        ConfigurationError: an option is wrong, or the address cannot be told on stdout.
    """
    import logging

    from revenuebase_compat.adopt.gateway import serve
    from revenuebase_compat.adopt.report import Report, prepare

    def on_ready(address: str) -> None:
        plain = address.startswith("unix:")  # which is no base URL
        try:
            show(f"# listening on {address}" if plain else f"export REVENUEBASE_BASE_URL={address}")
        except OutputLost as error:
            raise _no_stdout(str(error) or "its reader went away") from None
        note(f"forwarding to {arguments.upstream} until Ctrl-C")

    if getattr(sys.stdout, "name", "") == os.devnull:  # what main() puts where there was none
        raise _no_stdout("stdout is closed")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("revenuebase_compat").setLevel(arguments.log_level.upper())
    same = ("upstream", "host", "port", "uds", "access_log")
    serve(
        # The variable is the clients', and names the gateway itself.
        Settings.from_env(base_url=DEFAULT_BASE_URL),
        **{name: getattr(arguments, name) for name in same},
        allow_hosts=arguments.allow_host,
        report=Report(prepare(arguments.report)) if arguments.report else None,
        on_ready=on_ready,
    )
    return 0


def _no_stdout(why: str) -> ConfigurationError:
    return ConfigurationError(f"the gateway's address cannot be told: {why}")
