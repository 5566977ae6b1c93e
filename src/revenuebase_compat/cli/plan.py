"""The commands that look at a plan, and send nothing: ``route`` and ``timeline``."""

from __future__ import annotations

from argparse import Namespace
from datetime import datetime, timezone

from revenuebase_compat.client.facade import Client
from revenuebase_compat.core.errors import ApiVersionRetiredError
from revenuebase_compat.core.routes import Route
from revenuebase_compat.core.routing import explain
from revenuebase_compat.core.settings import Settings
from revenuebase_compat.core.timeline import timeline as periods_of

from .journal import failed
from .output import complain, show

RETIRED = ApiVersionRetiredError.__name__  #: stands for a route where calls fail


def route(arguments: Namespace) -> int:
    """Print where each job would go; 1 if a call for one of them would fail, else 0."""
    moment, code = arguments.at or datetime.now(timezone.utc), 0
    with Client(clock=lambda: moment) as client:
        for job in dict.fromkeys(arguments.process_ids):
            try:
                found = client.route(job)
            except ApiVersionRetiredError as error:
                code = 1
                if arguments.json:
                    show(failed(job, error))
                else:
                    complain(str(error), type(error).__name__)
                continue
            start, why = f"job {job}: ", explain(found, client.settings)
            row, line = {"process_id": job, "ok": True, **_facts(found)}, f"{start}{found}: {why}"
            show(row if arguments.json else line, indent=len(start))
    return code


def timeline(arguments: Namespace) -> int:
    """Print the periods, each with the shares of its routes."""
    for one in periods_of(Settings.from_env(), arguments.start or datetime.now(timezone.utc)):
        start, phase = one.start.isoformat(timespec="seconds"), one.phase.value
        shares = one.routes.items()
        if arguments.json:
            facts = {"from": start, "phase": phase, "share": one.share, "flag": one.flag}
            routes = [{**_facts(route), "percent": percent} for route, percent in shares]
            show({**facts, "routes": routes})
        else:
            where = ", ".join(f"{percent:.4g} % {route or RETIRED}" for route, percent in shares)
            flag = "; the flag is asked first" * one.flag
            show(f"{start}  v1 {phase:10}  {where}{flag}", indent=len(start) + 2)
    return 0


def _facts(route: Route | None) -> dict[str, object]:
    if route is None:
        return {"version": None, "reason": RETIRED}
    return {"version": f"v{route.version}", "reason": route.reason.value}
