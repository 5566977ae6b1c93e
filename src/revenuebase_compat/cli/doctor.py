"""``revenuebase-compat doctor``: what is set, where it leads today, and who still speaks v1."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import asdict
from datetime import datetime, timezone
from json import dumps
from typing import Any

from .output import show


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor", help="what is set, where it leads, who still speaks v1"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    """Print the findings; 2 where a setting is wrong, 1 where there is another problem, else 0."""
    from .findings import report

    findings = report(os.environ, datetime.now(timezone.utc))
    for item in findings:
        note = f" ({item.note})" if item.note else ""
        line = f"{item.severity:<8} {item.about:<8} {item.name}: {item.value}{note}"
        show(dumps(asdict(item)) if arguments.json else line)
    wrong = {item.about for item in findings if item.severity == "problem"}
    return 2 if "setting" in wrong else 1 if wrong else 0
