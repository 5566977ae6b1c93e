"""``revenuebase-compat sandbox``: the API on loopback, for trying out."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from .arguments import date, port, process_id
from .output import WRONG, complain, note, show

#: Seconds for which a cancelled job is CANCELLING, lest --wait waits in vain.
CANCELLING_FOR = 1.0


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser("sandbox", help="serve the API on loopback, for trying out")
    add, words = parser.add_argument, "jobs it holds, all QUEUED; default: 1 to 100"
    add("--port", type=port, default=8042, help="default: 8042")
    add("--now", metavar="DATE", type=date, help="its clock; default: today's")
    add("--jobs", metavar="ID", nargs="*", type=process_id, default=range(1, 101), help=words)
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.testing.sandbox import Sandbox

    how = {"port": arguments.port, "now": arguments.now, "jobs": arguments.jobs}
    try:
        with Sandbox(cancelling_for=CANCELLING_FOR, **how) as service:
            key = service.api_key
            show(f"export REVENUEBASE_BASE_URL={service.base_url} REVENUEBASE_API_KEY={key}")
            note("serving until Ctrl-C")
            service.wait()
    except OSError as error:
        complain(f"port {arguments.port}: {error.strerror or error}: give another --port")
        return WRONG
    return 0
