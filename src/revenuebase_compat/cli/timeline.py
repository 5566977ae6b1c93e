"""``revenuebase-compat timeline``: what goes where from a date on, and why."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import datetime, timezone
from typing import Any

from revenuebase_compat.core.settings import Settings

from .arguments import date
from .output import show


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "timeline",
        help="what goes where from a date on, and why",
        description="What goes where from a date on, and why. Shares are those of process ids 1 to "
        "10,000, each decided on by itself.",
    )
    parser.add_argument("--from", dest="start", metavar="DATE", type=date, help="default: today's")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.core.timeline import timeline

    for period in timeline(Settings.from_env(), arguments.start or datetime.now(timezone.utc)):
        start, asked = period.start.isoformat(timespec="seconds"), period.flag
        routes = [
            {
                "version": f"v{route.version}" if route else None,
                "reason": route.reason.value if route else "ApiVersionRetiredError",
                "percent": percent,
            }
            for route, percent in period.routes.items()
        ]
        facts = {"phase": period.phase.value, "share": period.share, "flag": asked}
        where = ", ".join(
            f"{percent:.4g} % {route or 'ApiVersionRetiredError'}"
            for route, percent in period.routes.items()
        )
        line = f"{start}  v1 {period.phase.value:10}  {where}"
        show(
            json.dumps({"from": start, **facts, "routes": routes})
            if arguments.json
            else line + "; the flag is asked first" * asked
        )
    return 0
