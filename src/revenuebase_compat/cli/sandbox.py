"""The commands for trying out: ``sandbox``, the vendor's API on loopback, and ``demo``."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from revenuebase_compat.core.errors import ConfigurationError

from .arguments import count, date, port, process_id, seconds
from .output import WRONG, complain, note, show

if TYPE_CHECKING:
    from revenuebase_compat.testing.sandbox import RecordedRequest

#: Seconds for which a cancelled job is CANCELLING, lest --wait waits in vain.
CANCELLING_FOR = 1.0

MX_RECORD_CHECKED: dict[str, str | bool | None] = {
    "empty": "",
    "text": "checked",
    "host": "mx.example.com",
    "true": True,
    "false": False,
    "null": None,
}


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser("sandbox", help="serve the API on loopback, for trying out")
    add, words = parser.add_argument, "jobs it holds, all QUEUED; default: 1 to 100"
    add("--port", type=port, default=8042, help="default: 8042")
    add("--now", metavar="DATE", type=date, help="its clock, which runs on; default: today's")
    add("--jobs", metavar="ID", nargs="*", type=process_id, default=range(1, 101), help=words)
    add("--rate-limit", metavar="N", type=count, help="requests a minute; default: none")
    add("--credits", metavar="N", type=count, default=1000, help="default: 1000")
    words = "for which an uploaded job is QUEUED, and PROCESSING then; default: 2"
    add("--job-seconds", metavar="S", type=seconds, default=2.0, help=words)
    add("--envelope", metavar="NAME", default="detail-error", help="of a 400")
    kinds: Any = {"choices": MX_RECORD_CHECKED, "metavar": "KIND", "default": "empty"}
    add("--mx-record-checked", **kinds, help=f"of metadata: {', '.join(MX_RECORD_CHECKED)}")
    add("--quiet", action="store_true", help="no line for each request")
    parser.set_defaults(run=run)
    parser = subparsers.add_parser("demo", help="the whole story in ten seconds, in the sandbox")
    parser.set_defaults(run=demo)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.testing.sandbox import Sandbox

    def log(request: RecordedRequest) -> None:
        note(f"{request.method} {request.path} {request.status or 'no answer'}")

    same = ("port", "now", "jobs", "rate_limit", "credits", "envelope")
    try:
        with Sandbox(
            **{name: getattr(arguments, name) for name in same},
            cancelling_for=CANCELLING_FOR,
            queued_for=arguments.job_seconds,
            processing_for=arguments.job_seconds,
            mx_record_checked=MX_RECORD_CHECKED[arguments.mx_record_checked],
            on_request=(lambda request: None) if arguments.quiet else log,
        ) as service:
            key = service.api_key
            show(f"export REVENUEBASE_BASE_URL={service.base_url} REVENUEBASE_API_KEY={key}")
            note("serving until Ctrl-C")
            service.wait()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    except OSError as error:
        complain(f"port {arguments.port}: {error.strerror or error}: give another --port")
        return WRONG
    return 0


def demo(arguments: Namespace) -> int:
    """Tell the story; 1 where something did not come out as told, else 0."""
    from .demo import main

    return main()
