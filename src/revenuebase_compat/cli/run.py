"""``revenuebase-compat run``: a command whose v1 requests are moved, with no line of it changed."""

from __future__ import annotations

from argparse import REMAINDER, Namespace
from typing import Any

from .output import WRONG, complain


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run a command whose v1 requests are moved, with no line of it changed",
        usage="%(prog)s … -- CMD…",
    )
    add, words = parser.add_argument, "strict, and v1 counts as gone: what still needs it raises"
    add("--strict", action="store_true", help="raise where a request cannot be moved")
    add("--rehearse", action="store_true", help=words)
    add("--report", metavar="FILE", help="append each v1 request, and its fate")
    add("argv", metavar="CMD", nargs=REMAINDER)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.adopt import runner

    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if argv:
        runner.run(
            argv,
            strict=arguments.strict,
            rehearse=arguments.rehearse,
            report=arguments.report,
        )
    complain("run: no command: give one after --, as in run -- python app.py")
    return WRONG
