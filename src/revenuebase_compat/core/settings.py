"""Settings: every option, checked once when made, and never changed after (pure).

``Settings.from_env`` is the one place that knows the names of the environment variables.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn
from urllib.parse import urlsplit

from .dates import parse_date
from .errors import ConfigurationError, shown
from .routes import V1, V1_SUNSET, V2

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from .events import CancelEvent, RouteContext

DEFAULT_BASE_URL = "https://api.revenuebase.ai"

_LABEL = r"[a-z0-9_-]{1,63}"
_HOST = rf"{_LABEL}(\.{_LABEL})*\.?|\[[0-9a-f:.]+\]"
_BASE_URL = rf"https?://({_HOST})(:[0-9]{{1,5}})?(/[a-z0-9._~/-]*)?"
_ROLLOUT_RIGHT = "give a share from 0 to 100 (percent), or steps such as 2026-06-01=5,2026-06-15=50"

Flag = Callable[["RouteContext"], "bool | Awaitable[bool | None] | None"]


class Secret:
    """A text that is never shown: not printed, not logged, not pickled."""

    def __init__(self, text: str) -> None:
        self._text = text.strip()
        #: Whether there was white space around it.
        self.stripped = self._text != text
        self._bytes = self._text.encode("utf-8", "replace")

    def reveal(self) -> str:
        return self._text

    def hide(self, data: bytes) -> bytes:
        """``data`` without the text, however JSON may have escaped it."""
        # No key is as short as that, and its replacement would spoil answers without it.
        if len(self._bytes) < 8 or not (self._bytes in data or b"\\" in data):
            return data
        return self._pattern.sub(b"***", data)

    @cached_property  # not by re's own cache, which would hold the key for the whole process
    def _pattern(self) -> re.Pattern[bytes]:
        forms = (
            f"(?:\\\\?{re.escape(char)}|\\\\u00{ord(char):02x}|\\\\u00{ord(char):02X})"
            for char in self._text
        )
        return re.compile("".join(forms).encode())

    def __repr__(self) -> str:
        return "Secret('***')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


class Rollout(NamedTuple):
    """A share in percent, or a schedule of shares; before its first step the share is 0."""

    steps: tuple[tuple[datetime | None, float], ...] = ((None, 0.0),)

    def share(self, now: datetime) -> float:
        """The share in force at ``now``, in percent."""
        for start, share in reversed(self.steps):
            if start is None or start <= now:
                return share
        return 0.0


@dataclass(frozen=True, init=False)
class Settings:
    """How jobs are cancelled; frozen, and checked when made.

    Args:
        api_key: the key, sent in the header ``x-key``. Needed only to send.
        base_url: where the API is: https, or plain http to loopback.
        api_version: ``"auto"``, ``"v1"``, ``"v2"``, or a specifier such as ``">=2"`` (PEP 440).
        v1_sunset: when v1 ends: ISO 8601, an HTTP-date or a ``date``; UTC unless it says so.
        after_sunset: what a v1-only setting does then: ``"migrate"``, ``"raise"`` or ``"try"``.
        v2_rollout: percent of the jobs that go to v2 before the sunset.
        rollout_salt: shuffles which jobs come first.
        v2_flag: a callable, or ``package.module:attribute`` naming one, asked for each job that no
            earlier row of the table decides: true is v2, false is v1, ``None`` is no opinion. It
            is not bounded by ``timeout``; ``AsyncClient`` awaits what it gives.
        on_event: such a callable, given one ``CancelEvent`` per finished cancel; what it raises is
            logged, and changes nothing.
        timeout: seconds for a whole call, retries and waits included, above 0 and up to 86,400.
        max_attempts: requests per version, 1 to 100; a call that changes the version may send
            twice as many, and up to as many again to read a job's status.
        already_cancelled: what a job that was cancelled before is: ``"raise"`` makes it an
            ``AlreadyCancelledError``, ``"return"`` a result, with the status it has.

    Raises:
        ConfigurationError: names the setting, the value, and what would be right.
    """

    api_key: Secret | None
    base_url: str
    api_version: str
    v1_sunset: datetime
    after_sunset: Literal["migrate", "raise", "try"]
    v2_rollout: Rollout
    rollout_salt: str
    v2_flag: Flag | str | None
    on_event: Callable[[CancelEvent], object] | str | None
    timeout: float
    max_attempts: int
    already_cancelled: Literal["raise", "return"]
    #: Which versions ``api_version`` lets a call use.
    admits_v1: bool = field(init=False, repr=False)
    admits_v2: bool = field(init=False, repr=False)
    #: Whether white space was stripped from the key (the vendor's "#1 cause of 401").
    stripped_key: bool = field(init=False, repr=False, compare=False)

    def __init__(
        self,
        api_key: str | Secret | None = None,
        *,
        base_url: str = DEFAULT_BASE_URL,
        api_version: str = "auto",
        v1_sunset: str | date | datetime = V1_SUNSET,
        after_sunset: Literal["migrate", "raise", "try"] = "migrate",
        v2_rollout: float | str | Mapping[str | date, float] | Rollout = 0.0,
        rollout_salt: str = "",
        v2_flag: Flag | str | None = None,
        on_event: Callable[[CancelEvent], object] | str | None = None,
        timeout: float | str = 60.0,
        max_attempts: int | str = 3,
        already_cancelled: Literal["raise", "return"] = "raise",
    ) -> None:
        # First of all, so that no frame of a later error's traceback holds the key in the clear.
        key = _guard_key(api_key)
        del api_key
        if isinstance(key, str):
            _refuse("api_key", None, key)
        seconds, attempts = _number(timeout), _number(max_attempts)
        if not 0 < seconds <= 86_400:
            _refuse("timeout", timeout, "give seconds, more than 0 and at most 86400")
        if attempts not in range(1, 101):
            _refuse("max_attempts", max_attempts, "give a whole number from 1 to 100")
        if not isinstance(rollout_salt, str):
            _refuse("rollout_salt", rollout_salt, "give a str")
        admits_v1, admits_v2 = _admitted(api_version)
        vars(self).update(
            api_key=key,
            stripped_key=key is not None and key.stripped,
            base_url=_base_url(base_url),
            api_version=api_version,
            admits_v1=admits_v1,
            admits_v2=admits_v2,
            v1_sunset=_sunset(v1_sunset),
            after_sunset=_choice("after_sunset", after_sunset, ("migrate", "raise", "try")),
            v2_rollout=_rollout(v2_rollout),
            rollout_salt=rollout_salt,
            v2_flag=_callable("v2_flag", v2_flag),
            on_event=_callable("on_event", on_event),
            timeout=seconds,
            max_attempts=int(attempts),
            already_cancelled=check_already_cancelled(already_cancelled),
        )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **explicit: Any) -> Settings:
        """Settings from ``REVENUEBASE_*`` variables of ``environ``, by default of the process.

        An empty variable counts as unset; an explicit value that is not ``None`` wins.

        Raises:
            ConfigurationError: names the setting and its variable.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {
            name: environ[variable].strip()
            for name, variable in VARIABLES.items()
            if name != "api_key" and environ.get(variable, "").strip()
        }
        # The key is wrapped, and its sources forgotten, before anything can raise.
        given = explicit.pop("api_key", None) or environ.get(VARIABLES["api_key"])
        key = _guard_key(given)
        del given, environ
        if isinstance(key, str):
            _refuse("api_key", None, key)
        values.update({name: value for name, value in explicit.items() if value is not None})
        unknown = sorted(set(values) - {item.name for item in fields(cls) if item.init})
        if unknown:
            raise ConfigurationError(f"there is no setting {unknown[0]!r}")
        return cls(key, **values)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled key would end up in queues and files; the receiver sets its own.
        return {**self.__dict__, "api_key": None}

    def __copy__(self) -> Settings:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return self


#: Setting → environment variable.
VARIABLES = {
    one.name: f"REVENUEBASE_{one.name.upper()}"
    for one in fields(Settings)
    if one.init and one.name != "already_cancelled"
}


def _refuse(name: str, value: object, right: str) -> NoReturn:
    variable = f" ({VARIABLES[name]})" if name in VARIABLES else ""
    given = "" if value is None else f" {shown(value)}"
    raise ConfigurationError(f"{name}{variable}{given}: {right}")


def _guard_key(value: object) -> Secret | str | None:
    """The key, or what is wrong with it: to raise is for the caller, whose frame holds it too."""
    key = Secret(value) if isinstance(value, str) else value
    if not isinstance(key, Secret):
        return None if key is None else f"is a {type(key).__name__}; give the key as a str"
    text = key.reveal()
    if " " in text or not (text.isascii() and text.isprintable()):
        return "holds blanks, control or non-ASCII characters; copy the key again, without quotes"
    return key if text else None


def _base_url(value: object) -> str:
    if value is DEFAULT_BASE_URL:  # to compile the pattern takes longer than all other checks
        return DEFAULT_BASE_URL
    right = "give https://host[:port][/prefix], or http:// to loopback"
    text = value.strip() if isinstance(value, str) else ""
    if "@" in text:
        _refuse("base_url", None, f"holds credentials; {right}")
    if not re.fullmatch(_BASE_URL, text, re.IGNORECASE):
        _refuse("base_url", value, right)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        _refuse("base_url", value, f"{error}; {right}")
    if not host or port == 0 or any(part in (".", "..") for part in parts.path.split("/")):
        _refuse("base_url", value, right)
    # As browsers and httpx have it, a host whose last label is a number is an address.
    if (":" in host or host.split(".")[-1].isdigit()) and _address(host) is None:
        _refuse("base_url", value, f"{host} is no IP address; {right}")
    if parts.scheme == "http" and not is_loopback(host):
        _refuse("base_url", value, f"the key would travel in the clear; {right}")
    netloc = f"[{host}]" if ":" in host else host
    if port not in (None, {"https": 443, "http": 80}[parts.scheme]):
        netloc += f":{port}"
    path = parts.path.rstrip("/")
    if path.endswith(("/v1", "/v2")):  # as much code has it; each request names its own
        path = path[:-3].rstrip("/")
    return f"{parts.scheme}://{netloc}{path}"


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine."""
    return host == "localhost" or bool(getattr(_address(host), "is_loopback", False))


def is_local(host: str) -> bool:
    """Whether what connects to a host name or address stays on this machine, as to ``0.0.0.0``."""
    address: Any = _address(host)
    address = getattr(address, "ipv4_mapped", None) or address
    return is_loopback(str(address or host)) or bool(getattr(address, "is_unspecified", False))


def _address(host: str) -> IPv4Address | IPv6Address | None:
    from ipaddress import ip_address

    try:
        return ip_address(host)
    except ValueError:
        return None


def _admitted(value: object) -> tuple[bool, bool]:
    """Whether v1, and whether v2, may be used."""
    right = 'give "auto", "v1", "v2", or a specifier such as ">=2"'
    if not isinstance(value, str) or not value.strip(" ,"):
        _refuse("api_version", value, right)
    known = {"auto": (True, True), "v1": (True, False), "v2": (False, True)}.get(value)
    if known is not None:
        return known
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        admits = SpecifierSet(value)
    except InvalidSpecifier:
        _refuse("api_version", value, right)
    found = admits.contains(V1), admits.contains(V2)
    if not any(found):
        _refuse("api_version", value, f"admits neither v1 nor v2; {right}")
    return found


def _sunset(value: object) -> datetime:
    try:
        return parse_date(value)
    except ValueError:
        right = "an ISO 8601 date such as 2026-07-07 or 2026-07-07T00:00:00+00:00, or an HTTP-date"
        _refuse("v1_sunset", value, f"give {right}")


def _choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if value not in choices:
        _refuse(name, value, "give " + " or ".join(repr(choice) for choice in choices))
    return str(value)


def _number(value: object) -> float:
    """The number that is meant, or NaN, which is in no range."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            return float(value)
    return math.nan


def _rollout(value: object) -> Rollout:
    if isinstance(value, Rollout):
        return value
    if isinstance(value, str) and "=" in value:
        pairs = [part.partition("=")[::2] for part in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        return Rollout(((None, _share(value, value)),))
    steps: dict[datetime, float] = {}
    for start, share in pairs:
        try:
            moment = parse_date(start)
        except ValueError:
            _refuse("v2_rollout", value, f"{start!r} is no date; {_ROLLOUT_RIGHT}")
        if moment in steps:
            _refuse("v2_rollout", value, f"has two steps at {start}; {_ROLLOUT_RIGHT}")
        steps[moment] = _share(value, share)
    if not steps:
        _refuse("v2_rollout", value, _ROLLOUT_RIGHT)
    return Rollout(tuple(sorted(steps.items())))


def _share(value: object, share: object) -> float:
    if isinstance(share, str):
        share = share.strip().removesuffix("%")
    number = _number(share)
    if not 0 <= number <= 100:
        _refuse("v2_rollout", value, _ROLLOUT_RIGHT)
    return number


def _callable(name: str, value: object) -> object:
    if value is None:
        return None
    dotted = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
    named = re.fullmatch(f"{dotted}:{dotted}", value) if isinstance(value, str) else callable(value)
    if not named:
        _refuse(name, value, "give a callable, or its name as package.module:attribute")
    from . import events  # noqa: F401 (here, so that no call under way has to)

    return value


def check_already_cancelled(value: object) -> str:
    return _choice("already_cancelled", value, ("raise", "return"))
