"""``revenuebase-compat gateway``: a loopback proxy for clients in any language."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from typing import Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

from .arguments import port
from .output import OutputLost, note, show

_LEVELS = ("debug", "info", "warning", "error")


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "gateway", help="a loopback proxy that moves v1 requests of clients in any language"
    )
    add = parser.add_argument
    add("--upstream", metavar="URL", default=DEFAULT_BASE_URL)
    add("--host", default="127.0.0.1", help="loopback only; default: 127.0.0.1")
    add("--port", type=port, default=8089, help="default: 8089")
    add("--uds", metavar="PATH", help="listen on a Unix socket instead")
    words = "a name clients may ask under, besides localhost and IP addresses; may be repeated"
    add("--allow-host", metavar="NAME", action="append", default=[], help=words)
    add("--log-level", choices=_LEVELS, default="info", help="default: info")
    add("--access-log", action="store_true", help="a line per request: no query, header or body")
    add("--report", metavar="FILE", help="append a line per v1 request to FILE")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
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
    serve(
        # The variable is the clients', and names the gateway itself.
        Settings.from_env(base_url=DEFAULT_BASE_URL),
        upstream=arguments.upstream,
        host=arguments.host,
        port=arguments.port,
        uds=arguments.uds,
        allow_hosts=arguments.allow_host,
        access_log=arguments.access_log,
        report=Report(prepare(arguments.report)) if arguments.report else None,
        on_ready=on_ready,
    )
    return 0


def _no_stdout(why: str) -> ConfigurationError:
    return ConfigurationError(f"the gateway's address cannot be told: {why}")
