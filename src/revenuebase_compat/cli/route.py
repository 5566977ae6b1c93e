"""``revenuebase-compat route``: which version a cancel would go to, and why; sends nothing."""

from __future__ import annotations

import json
from argparse import Namespace
from datetime import datetime, timezone
from typing import Any

from revenuebase_compat.core.errors import CancelError, ConfigurationError
from revenuebase_compat.core.routing import explain

from .arguments import date, process_id
from .output import complain, show


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "route", help="which version a cancel would go to, and why; sends nothing"
    )
    parser.add_argument("process_ids", metavar="ID", nargs="+", type=process_id)
    parser.add_argument("--at", metavar="DATE", type=date, help="as if it were that date")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, one per job")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.client.facade import Client

    from .records import error_row

    moment, code = arguments.at or datetime.now(timezone.utc), 0
    with Client(clock=lambda: moment) as client:
        for job in dict.fromkeys(arguments.process_ids):
            try:
                route = client.route(job)
            except ConfigurationError:
                raise
            except CancelError as error:
                code = 1
                if arguments.json:
                    show(json.dumps(error_row(job, error)))
                else:
                    complain(str(error), type(error).__name__)
                continue
            if arguments.json:
                found = {"version": f"v{route.version}", "reason": route.reason.value}
                show(json.dumps({"process_id": job, "ok": True, **found}))
            else:
                show(f"job {job}: {route}: {explain(route, client.settings)}")
    return code
