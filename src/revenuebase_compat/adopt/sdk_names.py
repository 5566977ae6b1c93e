"""Names that left the vendor's SDK, back in force: ``client.email_processing``, ``client.v1``.

``revenuebase-sdk`` 0.2.0 dropped the names of 0.1.0, and 0.3.0 those of 0.2, both without an alias.
Their calls are forwarded to what the installed release has for them: 0.2 to ``client.v1``, whose
requests are moved like any other's; 0.3 to v2. What API v2 cannot do raises ``AttributeError`` at
the caller's line, and says what to call.
"""

from __future__ import annotations

import sys
from inspect import signature
from operator import attrgetter
from types import ModuleType
from typing import Any

from packaging.version import Version

from revenuebase_compat.client import notices
from revenuebase_compat.core import endpoints as v1

from . import interceptor

#: The attribute of a client, and the release that has it no more.
DROPPED = {
    **dict.fromkeys(("email_processing", "user_operations", "company_resolver"), Version("0.2.0")),
    "v1": Version("0.3.0"),
}

#: What a call is named on a client of 0.1, of 0.2, and on v2. Source: the releases themselves, and
#: "Migrating from v1" in the README of 0.3.0.
CALLS = {
    v1.CREDITS: ("user_operations.get_credits", "v1.get_credits", "account.balance"),
    v1.ROTATE_KEY: (
        "user_operations.rotate_api_key",
        "v1.rotate_api_key",
        "account.rotate_api_key",
    ),
    v1.VERIFY: ("email_processing.validate_email", "v1.process_email", "email.verify"),
    v1.UPLOAD: ("email_processing.batch_upload", "v1.batch_upload", "email.batch_upload"),
    v1.START: ("email_processing.batch_start", "v1.batch_start", None),
    v1.STATUS: ("email_processing.get_batch_status", "v1.get_batch_status", "jobs.get"),
    v1.LIST: ("email_processing.list_queued", "v1.list_queued", "jobs.list"),
    v1.CANCEL: ("email_processing.cancel_batch", "v1.cancel_batch", "jobs.cancel"),
    v1.DOWNLOAD: ("email_processing.download_batch", "v1.download_batch", "jobs.download"),
}

#: Why a call is not forwarded, and what to call instead. The company resolver never was v1.
_NO_FILE = "API v2 takes no file by its name: call client.email.batch_upload() with the file"
_CHARGE = "client.organization may charge the same call otherwise: call that once it suits you"

#: A type's old name, and the new one: the same fields. 0.3.0 dropped it.
_TYPES = {"CreditsResponse": "UsageResponse"}

_ABSENT = object()
_restored: list[tuple[Any, str, Any, Any]] = []


def covered(installed: Version) -> dict[str, str | None]:
    """What this release of the SDK lacks, and what stands in for it under ``install()``.

    Calls (``v1.get_credits``) are forwarded to another one (``account.balance``), types
    (``CreditsResponse``) are aliases of one. ``None``: the call raises, and says what to call.
    """
    found: dict[str, str | None] = {}
    dropped = installed >= DROPPED["v1"]
    for oldest, older, newest in CALLS.values():
        if installed >= DROPPED["email_processing"]:
            found[oldest] = older if newest and not dropped else newest
        if dropped:
            found[older] = newest
    if installed >= DROPPED["company_resolver"]:
        found |= dict.fromkeys(("company_resolver.resolve", "company_resolver.discover"))
    return found | (_TYPES if dropped else {})


def restore(module: ModuleType) -> None:
    """Give ``revenuebase_sdk`` the names back that its release lacks."""
    if "RevenuebaseClient" not in vars(module):
        return  # a test's stand-in
    installed = Version(module.__version__)
    names = covered(installed)
    changes: list[tuple[Any, str, Any]] = []
    for name in [name for name, release in DROPPED.items() if installed >= release]:
        why = _CHARGE if name == "company_resolver" else _NO_FILE
        methods: dict[str, Any] = {}
        for call, target in names.items():
            resource, _, method = call.partition(".")
            if resource == name:
                refused = _Refused(f"client.{call}()", installed, why)
                methods[method] = _forwarded(call, target, installed) if target else refused
        path = f"{module.resources.__name__}.{name}"
        for prefix in ("", "Async"):
            title = f"{prefix}{name.title().replace('_', '')}Resource"
            kind = type(title, (_Resource,), methods)
            attribute: Any = _Restored(name, kind)
            if name == "company_resolver":
                attribute = _Refused(f"client.{name}", installed, why)
            client = getattr(module, f"{prefix}RevenuebaseClient")
            changes += [(client, name, attribute), (module.resources, title, kind)]
            if installed >= DROPPED["v1"]:  # which dropped their modules, too
                home = sys.modules.setdefault(path, ModuleType(path))
                changes += [(home, title, kind), (module.resources, name, home)]
    for old in _TYPES.keys() & names.keys():
        owners = (module, module.types, module.types.user_operations)
        changes += [(owner, old, getattr(module, _TYPES[old])) for owner in owners]
        changes.append((module, "__all__", [*module.__all__, old]))
    for owner, name, value in changes:
        before = vars(owner).get(name, _ABSENT)
        if before is _ABSENT or (name == "__all__" and value[-1] not in before):
            setattr(owner, name, value)
            _restored.append((owner, name, value, before))


def remove() -> None:
    """Undo ``restore``."""
    while _restored:
        owner, name, value, before = _restored.pop()
        if isinstance(value, ModuleType) and sys.modules.get(value.__name__) is value:
            del sys.modules[value.__name__]
        if vars(owner).get(name) is value:
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


class _Refused:
    """A name that only says what to use instead."""

    def __init__(self, name: str, installed: Version, why: str) -> None:
        self._words = f"{name} is gone from revenuebase-sdk {installed}, and {why}"
        self._is_call = why == _NO_FILE

    def __get__(self, instance: Any, owner: type) -> Any:
        active = interceptor.active
        if self._is_call and instance is not None and active is not None:
            active.record(v1.START.call, "left")
        raise AttributeError(self._words)


class _Restored:
    """A client's attribute; one that the client sets itself goes before it."""

    def __init__(self, name: str, kind: type[_Resource]) -> None:
        self._name = name
        self._kind = kind

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            raise AttributeError(f"type object {owner.__name__!r} has no attribute {self._name!r}")
        # Always the same object, as it was: a test double that is set on it stays.
        return vars(client).setdefault(f"_revenuebase_compat_{self._name}", self._kind(client))


class _Resource:
    """What stood behind the name; of an asynchronous client, its methods give what to await."""

    def __init__(self, client: Any) -> None:
        self._client = client


def _forwarded(call: str, target: str, installed: Version) -> Any:
    [(endpoint, instead)] = [(one, new) for one, (*old, new) in CALLS.items() if call in old]
    which = "which" if target == instead else f"and client.{instead}()"
    message = (
        f"client.{call}() is gone from revenuebase-sdk {installed}: it is forwarded to "
        f"client.{target}(), {which} is what to call instead"
    )

    def forward(self: _Resource, **arguments: Any) -> Any:
        notices.log(("sdk_names", call), "warning", message)
        notices.warn_at(notices.call_site(), message)
        send = attrgetter(target)(self._client)
        signature(send).bind(**arguments)  # or a TypeError, and nothing is sent
        active = interceptor.active
        if active is not None and target == instead:  # what goes to v1 is recorded on its way
            active.record(endpoint.call, "moved")
        return send(**arguments)

    forward.__name__ = forward.__qualname__ = call.partition(".")[2]
    forward.__doc__ = f"``client.{target}``."
    return forward
