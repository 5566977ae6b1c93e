"""The commands around other programs: ``run``, ``report``, ``pth``, ``gateway`` and ``sandbox``."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from itertools import groupby

from revenuebase_compat.adopt import pth as start_up_file
from revenuebase_compat.adopt import runner
from revenuebase_compat.adopt.report import FATES, Report, prepare, read
from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, Settings

from .output import WRONG, OutputLost, columns, complain, note, printable, shortened, show, writing


def run(arguments: Namespace) -> int:
    """Become the command; returns only where there is none."""
    argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
    if argv:
        strict, rehearse = arguments.strict, arguments.rehearse
        runner.run(argv, strict=strict, rehearse=rehearse, report=arguments.report)
    complain("run: no command: give one after --, as in run -- python app.py")
    return WRONG


def pth(arguments: Namespace) -> int:
    """Put the start-up file of this Python in, take it away, or say whether it is there."""
    with writing(sys.stdout):
        return start_up_file.pth(arguments.action)


def report(arguments: Namespace) -> int:
    """Print the table of a report; 1 if something was left to v1, else 0."""
    counts, unreadable = read(arguments.file)
    room, styles = columns(), {"moved": "green", "followed": "yellow", "left": "red"}
    digits = len(str(max(counts.values(), default=0)))
    order = sorted(counts, key=lambda key: (key[0], FATES.index(key[1]), key[2]))
    for endpoint, keys in groupby(order, key=lambda key: key[0]):
        show(shortened(printable(endpoint), room), "bold")
        for _, fate, site in keys:
            number = counts[endpoint, fate, site]
            left = f"  {fate:<8}  {number:>{digits}}  "
            # On a terminal a site gives way, in its middle.
            show(left + shortened(printable(site), room - len(left)), styles[fate])
    fates = {one: sum(n for (_, fate, _), n in counts.items() if fate == one) for one in FATES}
    told = ", ".join(f"{number} {fate}" for fate, number in fates.items() if number)
    show(f"in all: {told or 'none (a program out of reach of run writes none, too)'}", "bold")
    if fates["left"]:
        show(f"{fates['left']} would fail in a rehearsal", "red")
    if unreadable:
        show(f"lines that could not be read: {unreadable}", "red")
    return 1 if fates["left"] else 0


def gateway(arguments: Namespace) -> int:
    """Serve until Ctrl-C, once the address has been told on stdout."""
    import logging

    from revenuebase_compat.adopt.gateway import serve

    def on_ready(address: str) -> None:
        unix = address.startswith("unix:")
        try:
            show(f"{'# listening on ' if unix else 'export REVENUEBASE_BASE_URL='}{address}")
        except OutputLost as error:
            raise ConfigurationError(untold + (str(error) or "its reader went away")) from None
        note(f"forwarding to {arguments.upstream} until Ctrl-C")
        if os.environ.get("REVENUEBASE_BASE_URL", address) not in (address, arguments.upstream):
            note("REVENUEBASE_BASE_URL is for its clients; --upstream URL has it forward elsewhere")

    untold = "the gateway's address cannot be told: "
    if getattr(sys.stdout, "name", "") == os.devnull:  # what main() puts where there was none
        raise ConfigurationError(f"{untold}stdout is closed")
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("revenuebase_compat").setLevel(arguments.log_level.upper())
    same = ("upstream", "host", "port", "uds", "access_log")
    serve(
        # The variable is the clients', and names the gateway itself.
        Settings.from_env(base_url=DEFAULT_BASE_URL),
        **{name: getattr(arguments, name) for name in same},
        allow_hosts=arguments.allow_host,
        report=Report(prepare(arguments.report)) if arguments.report else None,
        on_ready=on_ready,
    )
    return 0


def sandbox(arguments: Namespace) -> int:
    """Serve the vendor's API until Ctrl-C; 2 where an option is wrong, or the port is taken."""
    from revenuebase_compat.testing.sandbox import RecordedRequest, Sandbox

    def log(request: RecordedRequest) -> None:
        if not arguments.quiet:
            note(f"{request.method} {request.path} {request.status or 'no answer'}")

    same = ("port", "now", "jobs", "rate_limit", "credits", "envelope")
    texts = {"empty": "", "text": "checked", "host": "mx.example.com"}
    kind = arguments.mx_record_checked
    try:
        with Sandbox(
            **{name: getattr(arguments, name) for name in same},
            queued_for=arguments.job_seconds,
            processing_for=arguments.job_seconds,
            cancelling_for=1.0,  # lest cancel --wait waits in vain
            mx_record_checked=texts[kind] if kind in texts else json.loads(kind),
            on_request=log,
        ) as it:
            show(f"export REVENUEBASE_BASE_URL={it.base_url} REVENUEBASE_API_KEY={it.api_key}")
            note("serving until Ctrl-C")
            it.wait()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except OSError as error:
        complain(f"port {arguments.port}: {error.strerror or error}: give another --port")
        return WRONG
    return 0
