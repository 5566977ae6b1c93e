"""The commands that look, and send nothing: ``route``, ``timeline`` and ``doctor``."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from revenuebase_compat.core.errors import CancelError, ConfigurationError
from revenuebase_compat.core.routing import explain
from revenuebase_compat.core.settings import Settings

from .arguments import date, process_id
from .output import complain, show


def add_arguments(subparsers: Any) -> None:
    flag: Any = {"action": "store_true", "help": "one JSON object a line"}
    words = "which version a cancel would go to, and why; sends nothing"
    parser = subparsers.add_parser("route", help=words)
    parser.add_argument("process_ids", metavar="ID", nargs="+", type=process_id)
    parser.add_argument("--at", metavar="DATE", type=date, help="as if it were that date")
    parser.add_argument("--json", **flag)
    parser.set_defaults(run=route)

    parser = subparsers.add_parser(
        "timeline",
        help="what goes where from a date on, and why",
        description="What goes where from a date on, and why. Shares are those of process ids 1 to "
        "10,000, each decided on by itself.",
    )
    parser.add_argument("--from", dest="start", metavar="DATE", type=date, help="default: today's")
    parser.add_argument("--json", **flag)
    parser.set_defaults(run=timeline)

    words = "what is set, where it leads, who still speaks v1"
    parser = subparsers.add_parser("doctor", help=words)
    parser.add_argument("--json", **flag)
    parser.set_defaults(run=doctor)


def route(arguments: Namespace) -> int:
    """Print where each job would go; 1 if a call for one of them would fail, else 0."""
    from revenuebase_compat.client.facade import Client

    from .journal import error_row

    moment, code = arguments.at or datetime.now(timezone.utc), 0
    with Client(clock=lambda: moment) as client:
        for job in dict.fromkeys(arguments.process_ids):
            try:
                found = client.route(job)
            except ConfigurationError:
                raise
            except CancelError as error:
                code = 1
                if arguments.json:
                    show(json.dumps(error_row(job, error)))
                else:
                    complain(str(error), type(error).__name__)
                continue
            facts = {"version": f"v{found.version}", "reason": found.reason.value}
            row = json.dumps({"process_id": job, "ok": True, **facts})
            line = f"job {job}: {found}: {explain(found, client.settings)}"
            show(row if arguments.json else line)
    return code


def timeline(arguments: Namespace) -> int:
    """Print the periods, each with the shares of its routes."""
    from revenuebase_compat.core.timeline import timeline

    for period in timeline(Settings.from_env(), arguments.start or datetime.now(timezone.utc)):
        start, retired = period.start.isoformat(timespec="seconds"), "ApiVersionRetiredError"
        routes = [
            {
                "version": f"v{route.version}" if route else None,
                "reason": route.reason.value if route else retired,
                "percent": percent,
            }
            for route, percent in period.routes.items()
        ]
        facts = {"phase": period.phase.value, "share": period.share, "flag": period.flag}
        row = json.dumps({"from": start, **facts, "routes": routes})
        where = ", ".join(
            f"{share:.4g} % {route or retired}" for route, share in period.routes.items()
        )
        line = f"{start}  v1 {period.phase.value:10}  {where}"
        show(row if arguments.json else line + "; the flag is asked first" * period.flag)
    return 0


def doctor(arguments: Namespace) -> int:
    """Print the findings; 2 where a setting is wrong, 1 where there is another problem, else 0."""
    from .findings import report

    findings = report(os.environ, datetime.now(timezone.utc))
    for item in findings:
        note = f" ({item.note})" if item.note else ""
        line = f"{item.severity:<8} {item.about:<8} {item.name}: {item.value}{note}"
        show(json.dumps(asdict(item)) if arguments.json else line)
    wrong = {item.about for item in findings if item.severity == "problem"}
    return 2 if "setting" in wrong else 1 if wrong else 0
