"""``revenuebase-compat doctor``: what is set, where it leads today, and who still speaks v1.

Looks at the environment and at what is installed. Sends nothing, and never shows the key.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from difflib import get_close_matches
from importlib import metadata
from typing import Any, NamedTuple

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
from revenuebase_compat.core.routes import DEFAULT, ROLLOUT, V1, Route
from revenuebase_compat.core.routing import decide, explain
from revenuebase_compat.core.settings import DEFAULT_BASE_URL, VARIABLES, Rollout, Settings

from .output import show

SDK = "revenuebase-sdk"


class Finding(NamedTuple):
    """One thing the doctor saw."""

    severity: str  #: ``problem`` needs a hand, ``note`` an eye, ``ok`` neither
    about: str  #: ``setting``, ``route``, ``package`` or ``patch``
    name: str
    value: str
    note: str  #: where the value comes from, or what it means


def doctor(arguments: Namespace) -> int:
    """Print the findings; 2 where a setting is wrong, 1 where there is another problem, else 0."""
    findings = report(os.environ, datetime.now(timezone.utc))
    for item in findings:
        line = f"{item.severity:<8} {item.about:<8} {item.name}: {item.value} ({item.note})"
        show(item._asdict() if arguments.json else line, indent=9)
    wrong = {item.about for item in findings if item.severity == "problem"}
    return 2 if "setting" in wrong else 1 if wrong else 0


def report(environ: Mapping[str, str], now: datetime) -> list[Finding]:
    """All findings for these variables at ``now`` (aware), and for the packages of this Python."""
    found = [*(_setting(*setting, environ) for setting in VARIABLES.items()), *_unknown(environ)]
    if all(item.severity != "problem" for item in found):
        found.append(_route(Settings.from_env(environ), now))
    return [*found, *_sdk(), *_patches(environ)]


def _setting(name: str, variable: str, environ: Mapping[str, str]) -> Finding:
    given = environ.get(variable, "")
    try:
        # One at a time, so that every wrong one is seen.
        settings = Settings.from_env({variable: given})
    except ConfigurationError as error:
        words = str(error).replace(f"{name} ({variable})", variable, 1)
        return Finding("problem", "setting", name, "unusable", words)
    value = getattr(settings, name)
    shown, origin, remark = _shown(value), variable if given.strip() else "default", ""
    severity = "note"
    if name == "api_key":
        shown = "present" if value else "missing"
        if value is None:
            origin, remark = "", "run needs none: the program sends its own"
        elif settings.stripped_key:
            remark = "; the white space around it is not sent"
    elif name == "base_url" and value != DEFAULT_BASE_URL:
        remark = "; this is not RevenueBase itself"
    elif name in ("v2_flag", "on_event") and value is not None:
        try:
            flags.resolve(name, value)
        except ConfigurationError as error:
            severity = "problem"
            remark = str(error).replace(f"{name} ({variable})", "; in this directory,", 1)
    return Finding(severity if remark else "ok", "setting", name, shown, origin + remark)


def _shown(value: Any) -> str:
    if isinstance(value, Rollout):
        return ", ".join(
            f"{share:g} %" + (f" from {start.isoformat()}" if start else "")
            for start, share in value.steps
        )
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value in (None, "") else readable(str(value))


def _unknown(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    for variable in sorted(environ):
        ours = variable in VARIABLES.values() or variable.startswith("REVENUEBASE_COMPAT_")
        if variable.startswith("REVENUEBASE_") and not ours:
            near = get_close_matches(variable, VARIABLES.values(), 1)
            meant = f"; was {near[0]} meant?" if near else ""
            yield Finding("note", "setting", variable, "set", "there is no such setting" + meant)


def _route(settings: Settings, now: datetime) -> Finding:
    share = settings.v2_rollout.share(now)
    try:
        next(decide(settings, 1, now, v1_retired=False))
    except ApiVersionRetiredError:
        words = "api_version admits v1 alone, v1 has ended, and after_sunset is 'raise'"
        return Finding("problem", "route", "today", "refused", words)
    except StopIteration as decided:
        route: Route = decided.value
    else:
        words = f"v2_flag decides; where it has no opinion, {share:g} % of the jobs go to v2"
        return Finding("note", "route", "today", "v1 or v2 (FLAG)", words)
    value = str(route)
    if route in (ROLLOUT, DEFAULT) and 0 < share < 100:
        value, route = f"{ROLLOUT} for {share:g} % of the jobs, else {DEFAULT}", DEFAULT
    severity = "ok"
    if route.version is V1:
        severity = "problem" if now >= settings.v1_sunset else "note"
    return Finding(severity, "route", "today", value, explain(route, settings))


def _sdk() -> Iterator[Finding]:
    version = _installed(SDK)
    if version is None:
        return
    words, severity = [], "ok"
    if version < DROPPED["v1"]:
        severity = "note"  # how the programs that use it are started is not seen from here
        left = ", ".join(one.call for one in ENDPOINTS if one.successor is None)
        words.append(f"speaks v1; run moves all of its requests but {left}")
    if dropped := covered(version):
        back = sum(successor is not None for successor in dropped.values())
        left = f"the other {len(dropped) - back} say what to call instead"
        gone = f"{len(dropped)} names of older releases are gone"
        words.append(f"{gone}: under run {back} work again, {left}")
    yield Finding(severity, "package", SDK, str(version), "; ".join(words))


def _patches(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What is in force in this environment, and the HTTP libraries that ``run`` would patch."""
    flag, file = environ.get(start.FLAG, ""), pth_file()
    severity, words = "ok", "this command was not started by run"
    if start.is_active():
        words = "v1 requests of this process are moved"
    elif flag not in start.OFF:
        severity, words = "problem", "set, but nothing is moved here: use the run of this Python"
    yield Finding(severity, "patch", start.FLAG, flag or "unset", words)
    yield Finding("ok", "patch", ".pth", "installed" if file.exists() else "absent", str(file))
    for distribution, supported, *_ in LIBRARIES.values():
        version = _installed(distribution)
        if version is not None and distribution != SDK:
            severity, words = "ok", "run moves its v1 requests"
            if not SpecifierSet(supported).contains(version, prereleases=True):
                severity = "note"
                words = f"run is tested with {supported} only: it may leave its requests on v1"
            yield Finding(severity, "patch", distribution, str(version), words)


def _installed(distribution: str) -> Version | None:
    try:
        return Version(metadata.version(distribution)) if distribution else None
    except (metadata.PackageNotFoundError, InvalidVersion):
        return None
