"""Names that left the vendor's SDK, back in force: ``client.email_processing``, ``client.v1``.

``revenuebase-sdk`` 0.2.0 dropped the first and 0.3.0 the second, both without an alias, so that an
unpinned upgrade ends in ``AttributeError``. The two calls that are this library's business work
again, forwarded to ``client.jobs``; any other name there says what its successor is called.
"""

from __future__ import annotations

import time
import warnings
from types import ModuleType
from typing import Any

from packaging.version import Version

from revenuebase_compat.client import notices

#: The attribute of a client, and the release that has it no more.
DROPPED = {"email_processing": Version("0.2.0"), "v1": Version("0.3.0")}

FORWARDED = {"cancel_batch": "cancel", "get_batch_status": "get"}

#: By the SDK's own "Migrate to …" notes (its 0.2.1, ``resources/v1.py``).
SUCCESSORS = {
    "get_credits": "account.balance()",
    "rotate_api_key": "account.rotate_api_key()",
    "process_email": "email.verify()",
    "validate_email": "email.verify()",
    "batch_upload": "email.batch_upload()",
    "batch_start": "email.batch_upload()",
    "list_queued": "jobs.list()",
    "download_batch": "jobs.download()",
}

_restored: list[tuple[type, str]] = []


def restore(module: ModuleType) -> None:
    """Give the clients of ``revenuebase_sdk`` the names back that its version lacks."""
    from importlib.metadata import version

    installed = Version(version("revenuebase-sdk"))
    for client in (module.RevenuebaseClient, module.AsyncRevenuebaseClient):
        for name, dropped in DROPPED.items():
            if installed >= dropped and name not in vars(client):
                setattr(client, name, _Dropped(name, installed))
                _restored.append((client, name))


def remove() -> None:
    """Undo ``restore``."""
    while _restored:
        client, name = _restored.pop()
        if isinstance(vars(client).get(name), _Dropped):
            delattr(client, name)


class _Dropped:
    """The attribute; one that a client sets itself goes before it."""

    def __init__(self, name: str, installed: Version) -> None:
        self._name = name
        self._installed = installed

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        return _Resource(client, f"client.{self._name}", self._installed)


class _Resource:
    """What stood behind the name; of an asynchronous client, ``jobs`` gives what to await."""

    def __init__(self, client: Any, name: str, installed: Version) -> None:
        self._client = client
        self._name = name
        self._installed = installed

    def cancel_batch(self, *, process_id: int) -> Any:
        """``client.jobs.cancel``."""
        return self._forward("cancel_batch", process_id)

    def get_batch_status(self, *, process_id: int) -> Any:
        """``client.jobs.get``."""
        return self._forward("get_batch_status", process_id)

    def _forward(self, name: str, process_id: int) -> Any:
        successor = FORWARDED[name]
        message = (
            f"{self._name} is gone from revenuebase-sdk {self._installed}: {name}() is forwarded "
            f"to client.jobs.{successor}(), which is what to call instead"
        )
        notices.log(("sdk_names", self._name, name), "warning", message, time.monotonic())
        warnings.warn(message, notices.ApiDeprecationWarning, stacklevel=3)
        return getattr(self._client.jobs, successor)(process_id=process_id)

    def __getattr__(self, name: str) -> Any:
        successor = SUCCESSORS.get(name)
        raise AttributeError(
            f"{self._name}.{name} is gone from revenuebase-sdk {self._installed}: "
            + (f"call client.{successor} instead" if successor else "no successor is published"),
            name=name,
            obj=self,
        )
