"""``revenuebase-compat gateway``: a loopback proxy for clients in any language."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

from .arguments import port
from .output import note, show


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "gateway", help="a loopback proxy that moves v1 requests of clients in any language"
    )
    parser.add_argument("--upstream", metavar="URL", default=DEFAULT_BASE_URL)
    parser.add_argument("--host", default="127.0.0.1", help="loopback only; default: 127.0.0.1")
    parser.add_argument("--port", type=port, default=8089, help="default: 8089")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.adopt.gateway import serve

    def on_ready(base_url: str) -> None:
        show(f"export REVENUEBASE_BASE_URL={base_url}")
        note(f"forwarding to {arguments.upstream} until Ctrl-C")

    listen = {"host": arguments.host, "port": arguments.port}
    # The variable is the clients', and names the gateway itself.
    settings = Settings.from_env(base_url=DEFAULT_BASE_URL)
    serve(settings, upstream=arguments.upstream, on_ready=on_ready, **listen)
    return 0
