"""What ``doctor`` finds: what is set, where it leads today, and who still speaks v1.

Looks at the environment and at what is installed. Sends nothing, and never shows the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from difflib import get_close_matches
from importlib import metadata
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from revenuebase_compat.adopt import start
from revenuebase_compat.adopt.libraries import LIBRARIES
from revenuebase_compat.adopt.pth import pth_file
from revenuebase_compat.adopt.sdk_names import DROPPED, covered
from revenuebase_compat.client import flags
from revenuebase_compat.core.endpoints import ENDPOINTS
from revenuebase_compat.core.errors import ApiVersionRetiredError, ConfigurationError
from revenuebase_compat.core.responses import readable
from revenuebase_compat.core.routes import V1, Route, RouteReason
from revenuebase_compat.core.routing import decide, explain
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, VARIABLES, Rollout, Settings

SDK = "revenuebase-sdk"

Severity = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing the doctor saw.

    Attributes:
        severity: ``problem`` needs a hand, ``note`` an eye, ``ok`` neither.
        about: ``setting``, ``route``, ``package`` or ``patch``.
        name: which one.
        value: what it is.
        note: where that comes from, or what it means.
    """

    severity: Severity
    about: str
    name: str
    value: str
    note: str = ""


def report(environ: Mapping[str, str], now: datetime) -> list[Finding]:
    """All findings for these variables at ``now`` (aware), and for the packages of this Python."""
    found = [*(_setting(*setting, environ) for setting in VARIABLES.items()), *_unknown(environ)]
    if all(item.severity != "problem" for item in found):
        found += _routes(Settings.from_env(environ), now)
    return [*found, *_packages(), *_patches(environ)]


def _setting(name: str, variable: str, environ: Mapping[str, str]) -> Finding:
    given = environ.get(variable, "").strip()
    origin = variable if given else "default"
    try:
        # One at a time, so that every wrong one is seen.
        settings = Settings.from_env({variable: environ[variable]} if given else {})
    except ConfigurationError as error:
        return Finding("problem", "setting", name, "unusable", str(error))
    value = getattr(settings, name)
    if name == "api_key":
        if value is None:
            return Finding("note", "setting", name, "missing", "run can do without it")
        if settings.stripped_key:
            return Finding("note", "setting", name, "present, stripped of white space", origin)
        return Finding("ok", "setting", name, "present", origin)
    if name == "base_url" and value != DEFAULT_BASE_URL:
        return Finding("note", "setting", name, value, f"{origin}; not the vendor's")
    if name in ("v2_flag", "on_event") and value is not None:
        try:
            flags.resolve(name, value)
        except ConfigurationError as error:
            return Finding("note", "setting", name, value, f"{origin}; here {error}")
    return Finding("ok", "setting", name, _shown(value), origin)


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    for variable in sorted(environ):
        ours = variable in VARIABLES.values() or variable.startswith("REVENUEBASE_COMPAT_")
        if variable.startswith("REVENUEBASE_") and not ours:
            near = get_close_matches(variable, VARIABLES.values(), 1)
            meant = f"no setting of ours; {near[0]} is" if near else "no setting of ours"
            yield Finding("note", "setting", variable, "set", meant)


def _shown(value: Any) -> str:
    if isinstance(value, Rollout):
        return ", ".join(
            f"{share:g} %" if start is None else f"{share:g} % from {start.isoformat()}"
            for start, share in value.steps
        )
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else readable(str(value))


def _routes(settings: Settings, now: datetime) -> Iterator[Finding]:
    """Where a cancel goes at ``now``: by these settings, and by each other ``api_version``."""
    yield _route("today", settings, now)
    for version in ("auto", "v1", "v2"):
        if version != settings.api_version:
            what_if = _route(f"with {version}", replace(settings, api_version=version), now)
            yield replace(what_if, severity="ok")


def _route(name: str, settings: Settings, now: datetime) -> Finding:
    share = settings.v2_rollout.share(now)
    try:
        next(decide(settings, 1, now, v1_retired=False))
    except ApiVersionRetiredError:
        return Finding("problem", "route", name, "refused", "v1 has ended; after_sunset is 'raise'")
    except StopIteration as stop:
        route: Route = stop.value
    else:
        rest = f"where it has no opinion, {share:g} % of the jobs go to v2"
        return Finding("note", "route", name, "v1 or v2 (FLAG)", f"v2_flag decides; {rest}")
    if route.reason in (RouteReason.ROLLOUT, RouteReason.DEFAULT) and 0 < share < 100:
        value = f"v2 (ROLLOUT) for {share:g} % of the jobs, else v1 (DEFAULT)"
        return Finding(
            "note", "route", name, value, explain(Route(V1, RouteReason.DEFAULT), settings)
        )
    severity: Severity = "ok"
    if route.version is V1:
        severity = "problem" if now >= settings.v1_sunset else "note"
    return Finding(severity, "route", name, str(route), explain(route, settings))


def _packages() -> Iterator[Finding]:
    """The vendor's SDK, and what of it the bridge covers."""
    version = _installed(SDK)
    if version is None:
        return
    severity: Severity = "ok"
    words = []
    if version < DROPPED["v1"]:
        severity = "note" if start.is_active() else "problem"
        left = ", ".join(one.call for one in ENDPOINTS if one.successor is None)
        words.append(f"speaks v1: under run its requests are moved, but for {left}")
    dropped = covered(version)
    if dropped:
        back = sum(successor is not None for successor in dropped.values())
        clients = sorted({f"client.{name.partition('.')[0]}" for name in dropped if "." in name})
        words.append(
            f"run brings {back} names back that it has dropped, of {', '.join(clients)}; "
            f"{len(dropped) - back} say what to call instead"
        )
    yield Finding(severity, "package", SDK, str(version), "; ".join(words))


def _libraries() -> Iterator[Finding]:
    """The HTTP libraries that are installed, by the table that ``run`` patches by."""
    for distribution, supported, *_ in LIBRARIES.values():
        version = _installed(distribution)
        if version is None or distribution == SDK:
            continue
        if SpecifierSet(supported).contains(version, prereleases=True):
            yield Finding("ok", "patch", distribution, str(version), "within reach of run")
        else:
            words = f"run is tested with {supported}: its requests may pass unmoved"
            yield Finding("note", "patch", distribution, str(version), words)


def _installed(distribution: str) -> Version | None:
    try:
        return Version(metadata.version(distribution)) if distribution else None
    except (metadata.PackageNotFoundError, InvalidVersion):
        return None


def _patches(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is patched in this environment, and what would be."""
    flag, file = environ.get(start.FLAG, ""), pth_file()
    if start.is_active():
        yield Finding("ok", "patch", start.FLAG, flag, "v1 requests of this process are moved")
    elif flag in start.OFF:
        yield Finding("ok", "patch", start.FLAG, flag or "unset", "nothing is patched here")
    else:
        words = "set, but nothing is patched here: the command runs in another Python"
        yield Finding("problem", "patch", start.FLAG, flag, words)
    yield Finding("ok", "patch", ".pth", "installed" if file.exists() else "none", str(file))
    yield from _libraries()
