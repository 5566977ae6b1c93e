"""``revenuebase-compat pth``: the start-up file for Pythons that ignore PYTHONPATH."""

from __future__ import annotations

from argparse import Namespace
from typing import Any


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "pth", help="the same for Pythons that ignore PYTHONPATH; acts only under run"
    )
    parser.add_argument("action", choices=("install", "uninstall", "status"))
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.adopt.pth import pth

    return pth(arguments.action)
