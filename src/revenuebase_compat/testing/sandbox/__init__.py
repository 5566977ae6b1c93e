"""The vendor's API on loopback, for trying out and for tests (extra ``sandbox``)."""

from .service import Job, RecordedRequest, Sandbox, default_envelope

__all__ = ["Job", "RecordedRequest", "Sandbox", "default_envelope"]
