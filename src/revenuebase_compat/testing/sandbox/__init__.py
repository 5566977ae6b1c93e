"""The vendor's API on loopback, for trying out and for tests (extra ``sandbox``)."""

from revenuebase_compat.client.extras import missing_extra

try:
    from .app import ENVELOPE_NAMES
    from .jobs import Job
    from .service import RecordedRequest, Sandbox
except ImportError as error:
    raise missing_extra("the sandbox", "sandbox", error) from error

__all__ = ["ENVELOPE_NAMES", "Job", "RecordedRequest", "Sandbox"]
