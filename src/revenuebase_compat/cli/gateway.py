"""``revenuebase-compat gateway``: its options, and how it is run."""

from __future__ import annotations

import argparse
import sys

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

_LEVELS = ("debug", "info", "warning", "error")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--upstream", metavar="URL", default=DEFAULT_BASE_URL)
    parser.add_argument("--host", default="127.0.0.1", help="loopback only; default: 127.0.0.1")
    parser.add_argument("--port", type=_port, default=8089, help="default: 8089")
    parser.add_argument("--uds", metavar="PATH", help="listen on a Unix socket instead")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name under which clients may ask, besides localhost and IP addresses",
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info", help="default: info")
    parser.add_argument(
        "--access-log", action="store_true", help="log each request: no query, header or body"
    )
    parser.add_argument("--report", metavar="FILE", help="append a line per v1 request to FILE")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:6]) < 65_536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 0 to 65535")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Serve until a signal."""
    import logging

    from revenuebase_compat.adopt.gateway import serve
    from revenuebase_compat.adopt.report import Report, prepare

    def on_ready(address: str) -> None:
        plain = address.startswith("unix:")  # which is no base URL
        line = f"# listening on {address}" if plain else f"export REVENUEBASE_BASE_URL={address}"
        try:
            print(line, flush=True)
        except (OSError, ValueError) as error:
            raise _no_stdout(getattr(error, "strerror", None) or str(error)) from None
        print(f"forwarding to {arguments.upstream} until Ctrl-C", file=sys.stderr)

    if sys.stdout is None:
        raise _no_stdout("it is closed")
    level = arguments.log_level.upper()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("revenuebase_compat").setLevel(level)
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
    return ConfigurationError(f"the gateway's address cannot be written to stdout: {why}")
