"""The error tree: shape, attributes, copies; and what the package exports."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import pickle
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

import revenuebase_compat
from revenuebase_compat import CancelError
from revenuebase_compat.core import errors

TREE: dict[str, tuple[str, ...]] = {
    "CancelError": ("Exception",),
    "ConfigurationError": ("CancelError", "ValueError"),
    "InvalidProcessIdError": ("CancelError", "ValueError"),
    "ApiVersionRetiredError": ("CancelError",),
    "JobStateError": ("CancelError",),
    "AlreadyCancelledError": ("JobStateError",),
    "NotCancellableError": ("JobStateError",),
    "JobNotFoundError": ("CancelError",),
    "AuthenticationError": ("CancelError",),
    "InsufficientCreditsError": ("CancelError",),
    "PermissionDeniedError": ("CancelError",),
    "EndpointNotFoundError": ("CancelError",),
    "RequestValidationError": ("CancelError",),
    "RateLimitError": ("CancelError",),
    "ServerError": ("CancelError",),
    "UnexpectedResponseError": ("CancelError",),
    "TransportError": ("CancelError",),
    "CancelTimeoutError": ("TransportError", "TimeoutError"),
}
CLASSES: list[type[CancelError]] = [getattr(errors, name) for name in TREE]

FACTS: dict[str, Any] = {
    "process_id": 42,
    "api_version": Version("2"),
    "status_code": 429,
    "code": "too_fast",
    "body": '{"detail":"slow down"}',
    "attempts": 3,
    "outcome_unknown": True,
}
MORE_FACTS: dict[str, dict[str, Any]] = {
    "RateLimitError": {
        "reset_at": datetime(2026, 8, 1, tzinfo=timezone.utc),
        "retry_after": 12.5,
        "limit": 60,
        "remaining": 0,
    },
    "RequestValidationError": {"errors": [{"loc": ["path", "process_id"], "msg": "no"}]},
}


def everything_shown(error: BaseException) -> str:
    """All that an error reporter can get hold of: texts, attributes, pickle, local variables."""
    parts: list[object] = [error, vars(error), error.args, pickle.dumps(error), str(error)]
    for frame in our_frames(error):
        parts += frame.f_locals.values()
    shown = ""
    for part in parts:
        with contextlib.suppress(Exception):  # reporters live with a repr that fails
            shown += f"{part!r}\n"
    for linked in (error.__cause__, error.__context__):
        if linked is not None:
            shown += everything_shown(linked)
    return shown


def our_frames(error: BaseException) -> Iterator[Any]:
    """The frames of an error's traceback that run this package's code."""
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals["__name__"].split(".")[0] == "revenuebase_compat":
            yield step.tb_frame
        step = step.tb_next


def full(kind: type[CancelError]) -> CancelError:
    return kind("job 42: slow down", **FACTS, **MORE_FACTS.get(kind.__name__, {}))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_errors_have_the_published_tree(kind: type[CancelError]) -> None:
    assert tuple(base.__name__ for base in kind.__bases__) == TREE[kind.__name__]


def test_errors_all_stand_in_the_tree() -> None:
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__
    }
    assert defined == set(TREE)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_survive_a_pickle_with_all_they_know(kind: type[CancelError], protocol: int) -> None:
    error = full(kind)
    twin = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 (our own)
    assert_same(twin, error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_errors_survive_a_copy_with_all_they_know(kind: type[CancelError]) -> None:
    error = full(kind)
    assert_same(copy.copy(error), error)
    assert_same(copy.deepcopy(error), error)


def assert_same(twin: CancelError, error: CancelError) -> None:
    assert type(twin) is type(error)
    assert str(twin) == str(error) == "job 42: slow down"
    assert vars(twin) == vars(error) == {**FACTS, **MORE_FACTS.get(type(error).__name__, {})}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_errors_facts_default_to_not_known(kind: type[CancelError]) -> None:
    error = kind("no")
    assert (error.process_id, error.api_version, error.status_code) == (None, None, None)
    assert (error.code, error.body) == (None, None)
    assert (error.attempts, error.outcome_unknown) == (0, False)


def test_errors_particular_facts_default_to_not_known() -> None:
    limited = errors.RateLimitError("no")
    assert (limited.reset_at, limited.limit, limited.remaining) == (None, None, None)
    assert errors.RequestValidationError("no").errors == []


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.InvalidProcessIdError, ValueError),
        (errors.CancelTimeoutError, TimeoutError),
    ],
)
def test_errors_some_are_caught_as_the_builtin_too(
    kind: type[CancelError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin, match="job 42") as caught:
        raise full(kind)
    assert isinstance(caught.value, CancelError)
    assert caught.value.process_id == 42


def test_package_all_holds_every_public_name() -> None:
    assert set(revenuebase_compat.__all__) == {
        "cancel_job",
        "Client",
        "AsyncClient",
        "Settings",
        "CancelResult",
        "Job",
        "JobOutcome",
        "JobCancelled",
        "JobFailed",
        "JobStatus",
        "Route",
        "RouteContext",
        "RouteReason",
        "CancelEvent",
        "ApiDeprecationWarning",
        "__version__",
        *TREE,
    }
    assert len(set(revenuebase_compat.__all__)) == len(revenuebase_compat.__all__)


@pytest.mark.parametrize("name", revenuebase_compat.__all__)
def test_package_names_resolve_to_their_homes(name: str) -> None:
    value = getattr(revenuebase_compat, name)
    assert name in dir(revenuebase_compat)
    if name == "JobOutcome":
        assert value == revenuebase_compat.JobCancelled | revenuebase_compat.JobFailed
    elif name != "__version__":
        assert value.__name__ == name


def test_package_shows_type_checkers_the_names_that_programs_see() -> None:
    # The names stand twice, for type checkers and for __getattr__; they must not drift apart.
    assert revenuebase_compat.__file__ is not None
    tree = ast.parse(Path(revenuebase_compat.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: f"{revenuebase_compat.__name__}.{node.module}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {
        name: getattr(revenuebase_compat, name).__module__
        for name in revenuebase_compat.__all__
        if name not in ("__version__", "JobOutcome")
    }
    assert typed.pop("JobOutcome") == homes["JobCancelled"]
    assert typed == homes


def test_package_raises_attribute_error_for_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'revenuebase_compat' has no attribute 'cancel_jobs'"):
        _ = revenuebase_compat.cancel_jobs
