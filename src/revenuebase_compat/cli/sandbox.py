"""``revenuebase-compat sandbox``: the vendor's API on loopback, for trying out."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.testing.sandbox import RecordedRequest, Sandbox

from .arguments import MX_RECORD_CHECKED
from .output import WRONG, complain, note, show


def serving(**options: Any) -> Sandbox:
    """A sandbox whose jobs are CANCELLING for a second only, lest ``--wait`` waits in vain."""
    return Sandbox(cancelling_for=1.0, **options)


def sandbox(arguments: Namespace) -> int:
    """Serve until Ctrl-C; 2 where an option is wrong, or the port is taken."""

    def log(request: RecordedRequest) -> None:
        if not arguments.quiet:
            note(f"{request.method} {request.path} {request.status or 'no answer'}")

    same = ("port", "now", "jobs", "rate_limit", "credits", "envelope")
    try:
        with serving(
            **{name: getattr(arguments, name) for name in same},
            queued_for=arguments.job_seconds,
            processing_for=arguments.job_seconds,
            mx_record_checked=MX_RECORD_CHECKED[arguments.mx_record_checked],
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
