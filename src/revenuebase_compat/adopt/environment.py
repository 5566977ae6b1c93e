"""Settings of a program that is not ours to stop: a broken one costs a line; its default holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import VARIABLES, Settings

#: The settings that ``run`` found broken, and has spoken of.
IGNORED = "REVENUEBASE_COMPAT_IGNORED"

#: The sunset of a rehearsal: before whatever day a test suite freezes its clock at.
REHEARSED_SUNSET: Any = "2000-01-01"

#: Behind what is wrong with a setting.
WITHOUT = "; without it, the default holds"


def lenient_settings(environ: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """Settings of the environment without those that are broken, and what is wrong with these.

    A mistake moves no more jobs than asked: a broken ``v2_flag`` or ``api_version`` has the
    rollout's share count as 0.
    """
    given = {variable: environ.get(variable, "") for variable in VARIABLES.values()}
    complaints: dict[str, str] = {}
    for name, variable in VARIABLES.items():
        try:
            Settings.from_env({variable: given[variable]})
        except ConfigurationError as error:
            complaints[name] = str(error)
            given[variable] = ""
    if complaints.keys() & {"v2_flag", "api_version"}:
        given[VARIABLES["v2_rollout"]] = ""
    return Settings.from_env(given), complaints
