"""The vendor's API on loopback, for trying out and for tests (extra ``sandbox``)."""

try:
    from .app import ENVELOPE_NAMES, default_envelope
    from .jobs import Job
    from .service import RecordedRequest, Sandbox
except ImportError as error:
    sentence = "the sandbox needs an extra: pip install 'revenuebase-compat[sandbox]'"
    raise ImportError(sentence) from error

__all__ = ["ENVELOPE_NAMES", "Job", "RecordedRequest", "Sandbox", "default_envelope"]
