"""Flags of OpenFeature: opinions, failures that are none, and a flagd file that changes on disk."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode, GeneralError, ProviderFatalError
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider
from openfeature.provider.in_memory_provider import InMemoryFlag, InMemoryProvider

import revenuebase_compat as rc
from revenuebase_compat.contrib.openfeature import OpenFeatureFlag
from tests.conftest import TEST_KEY
from tests.support import BEFORE, FakeTime
from tests.support.fault_server import FaultServer

pytestmark = pytest.mark.filterwarnings("ignore::revenuebase_compat.ApiDeprecationWarning")

KEY = "cancel-on-v2"
JOB = 42
NO_OPINION = "v2 (ROLLOUT)"

#: Seconds after which what never comes fails a test; nothing takes as long.
LIMIT = 60

Route = Callable[[rc.Settings, int], str]

# Since openfeature-sdk 0.10, set_provider() no longer waits.
set_provider = getattr(api, "set_provider_and_wait", api.set_provider)


@pytest.fixture(autouse=True)
def no_provider() -> Iterator[None]:
    api.clear_providers()
    yield
    api.clear_providers()
    for thread in threading.enumerate():
        if thread.name == "FlagdFileWatcherWorkerThread":
            thread.join(LIMIT)
            assert not thread.is_alive()


def route_sync(settings: rc.Settings, job: int = JOB) -> str:
    with FakeTime(BEFORE).client(settings) as client:
        return str(client.route(job))


def route_async(settings: rc.Settings, job: int = JOB) -> str:
    async def main() -> str:
        async with FakeTime(BEFORE).async_client(settings) as client:
            return str(await client.route(job))

    return asyncio.run(main())


DRIVERS = pytest.mark.parametrize(
    "route", [pytest.param(route_sync, id="sync"), pytest.param(route_async, id="async")]
)


def settings(flag: Any = None, **more: Any) -> rc.Settings:
    """With everything in the share, so that no opinion is neither of the flag's two answers."""
    return rc.Settings(v2_flag=flag or OpenFeatureFlag(KEY), v2_rollout=100, **more)


def in_memory(variant: object, evaluator: Any = None) -> InMemoryProvider:
    flag: InMemoryFlag[Any] = InMemoryFlag("it", {"it": variant}, context_evaluator=evaluator)
    return InMemoryProvider({KEY: flag})


# --- opinions ---------------------------------------------------------------------------------


@DRIVERS
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (True, "v2 (FLAG)"),
        (False, "v1 (FLAG)"),
        ("v2", "v2 (FLAG)"),
        ("v1", "v1 (FLAG)"),
        ("v3", NO_OPINION),
        ("V2", NO_OPINION),
        ("true", NO_OPINION),
        ("", NO_OPINION),
    ],
)
def test_open_feature_flag_reads_boolean_and_text_variants(
    route: Route, variant: object, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    set_provider(in_memory(variant))
    made = settings()
    assert [route(made, JOB) for _ in range(3)] == [expected] * 3
    assert caplog.records == []


@DRIVERS
def test_open_feature_flag_may_change_its_type(route: Route) -> None:
    made = settings()
    routes = []
    for variant in (True, "v1", True, False, "v2"):
        set_provider(in_memory(variant))
        routes.append(route(made, JOB))
    assert routes == [f"{version} (FLAG)" for version in ("v2", "v1", "v2", "v1", "v2")]


@DRIVERS
def test_open_feature_flag_is_told_of_the_job(route: Route) -> None:
    told: list[EvaluationContext] = []

    def evaluate(flag: InMemoryFlag[str], context: EvaluationContext) -> Any:
        told.append(context)
        return FlagResolutionDetails("v2" if context.targeting_key == "42" else "v1")

    set_provider(in_memory("v1", evaluator=evaluate))
    made = rc.Settings(v2_flag=OpenFeatureFlag(KEY), v2_rollout="2026-05-01=12.5")
    assert route(made, 42) == "v2 (FLAG)"
    assert route(made, 43) == "v1 (FLAG)"
    assert {context.targeting_key for context in told} == {"42", "43"}
    assert {tuple(sorted(context.attributes.items())) for context in told} == {
        (("phase", "sunsetting"), ("share", 12.5))
    }


@DRIVERS
def test_open_feature_flag_with_a_client_of_the_callers_own(route: Route) -> None:
    set_provider(in_memory(False))
    set_provider(in_memory(True), "cancels")
    assert route(settings(), JOB) == "v1 (FLAG)"
    own = OpenFeatureFlag(KEY, client=api.get_client("cancels"))
    assert route(settings(own), JOB) == "v2 (FLAG)"


@pytest.mark.parametrize("variant", [True, "v2"])
def test_open_feature_flag_evaluates_asynchronously_for_the_async_client(variant: object) -> None:
    class Remote(InMemoryProvider):
        """Answers once somebody else on the event loop has had a turn."""

        def resolve_boolean_details(self, *arguments: Any, **more: Any) -> Any:
            raise AssertionError("the event loop would be blocked")

        async def resolve_boolean_details_async(self, *arguments: Any, **more: Any) -> Any:
            await asyncio.wait_for(has_turned.wait(), LIMIT)
            return FlagResolutionDetails(variant)

        resolve_string_details = resolve_boolean_details
        resolve_string_details_async = resolve_boolean_details_async

    set_provider(Remote({}))
    has_turned = asyncio.Event()

    async def main() -> str:
        async with FakeTime(BEFORE).async_client(settings()) as client:
            deciding = asyncio.create_task(client.route(JOB))
            asyncio.get_running_loop().call_later(0.01, has_turned.set)
            return str(await deciding)

    assert asyncio.run(main()) == "v2 (FLAG)"


def test_open_feature_flag_learns_its_type_from_many_threads() -> None:
    """All ask for a boolean first, and are told together that it is a text."""
    together = threading.Barrier(8)
    asked: list[str] = []

    class Texts(InMemoryProvider):
        def resolve_boolean_details(self, *arguments: Any, **more: Any) -> Any:
            asked.append("boolean")
            together.wait(LIMIT)
            return super().resolve_boolean_details(*arguments, **more)

    set_provider(Texts({KEY: InMemoryFlag("new", {"new": "v2"})}))
    with FakeTime(BEFORE).client(settings()) as client, ThreadPoolExecutor(8) as pool:
        routes = [str(found) for found in pool.map(client.route, range(1, 201))]
    assert routes == ["v2 (FLAG)"] * 200
    assert len(asked) == 8, "what was learnt is asked for from then on"


# --- no opinion -------------------------------------------------------------------------------


def answering(*details: Any, **more: Any) -> InMemoryProvider:
    return in_memory(True, evaluator=lambda flag, context: FlagResolutionDetails(*details, **more))


def raising(error: Exception) -> InMemoryProvider:
    def evaluate(flag: object, context: object) -> Any:
        raise error

    return in_memory(True, evaluator=evaluate)


@DRIVERS
@pytest.mark.parametrize(
    ("provider", "words"),
    [
        (lambda: InMemoryProvider({}), "FLAG_NOT_FOUND"),
        (lambda: in_memory(2), "TYPE_MISMATCH"),
        (lambda: in_memory({"version": "v2"}), "TYPE_MISMATCH"),
        (lambda: raising(ValueError("no database")), "GENERAL: no database"),
        (lambda: raising(GeneralError("no network")), "GENERAL: no network"),
        (lambda: answering(False, ErrorCode.PARSE_ERROR, "line 3"), "PARSE_ERROR: line 3"),
        (lambda: answering(False, reason=Reason.ERROR), "ERROR: no reason given"),
        (lambda: answering(True, ErrorCode.GENERAL, reason=Reason.ERROR), "GENERAL"),
    ],
)
def test_open_feature_flag_that_fails_has_no_opinion_and_says_so_once(
    route: Route,
    provider: Callable[[], AbstractProvider],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    set_provider(provider())
    made = settings()
    assert [route(made, JOB) for _ in range(3)] == [NO_OPINION] * 3
    (said,) = [record for record in caplog.records if record.name == "revenuebase_compat"]
    assert said.levelno == logging.WARNING
    assert "OpenFeatureFlag gave no opinion (LookupError: " in said.getMessage()
    assert words in said.getMessage()


class Starting(InMemoryProvider):
    """Takes its time, and then fails or answers false."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__({KEY: InMemoryFlag("off", {"off": False})})
        self.failure = failure
        self.has_begun, self.may_end = threading.Event(), threading.Event()

    def initialize(self, evaluation_context: EvaluationContext) -> None:
        self.has_begun.set()
        assert self.may_end.wait(LIMIT)
        if self.failure:
            raise self.failure


@DRIVERS
def test_open_feature_flag_has_no_opinion_until_its_provider_is_ready(
    route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Starting()
    starting = threading.Thread(target=set_provider, args=(provider,))
    starting.start()
    assert provider.has_begun.wait(LIMIT)
    assert route(settings(), JOB) == NO_OPINION
    assert "PROVIDER_NOT_READY" in caplog.text
    provider.may_end.set()
    starting.join(LIMIT)
    assert route(settings(), JOB) == "v1 (FLAG)"


@DRIVERS
def test_open_feature_flag_has_no_opinion_where_its_provider_failed_for_good(
    route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    provider = Starting(ProviderFatalError("wrong credentials"))
    provider.may_end.set()
    with suppress(ProviderFatalError):  # raised here too, by some releases of the SDK
        set_provider(provider)
    assert route(settings(), JOB) == NO_OPINION
    assert "PROVIDER_FATAL" in caplog.text


@DRIVERS
@pytest.mark.parametrize(
    "provider",
    [
        lambda: answering(False, reason=Reason.DISABLED),
        lambda: answering(True, reason=Reason.DISABLED),
        # A flag without a variant for this job: the value is the default that was passed in.
        lambda: answering(False, reason=Reason.DEFAULT),
    ],
)
def test_open_feature_flag_that_stands_aside_has_no_opinion(
    route: Route, provider: Callable[[], AbstractProvider], caplog: pytest.LogCaptureFixture
) -> None:
    set_provider(provider())
    assert route(settings(), JOB) == NO_OPINION
    assert caplog.records == []


@DRIVERS
def test_open_feature_flag_without_a_provider_has_no_opinion(
    route: Route, caplog: pytest.LogCaptureFixture
) -> None:
    assert api.get_provider_metadata().name == "No-op Provider"
    assert route(settings(), JOB) == NO_OPINION
    assert caplog.records == []


@DRIVERS
@pytest.mark.parametrize(
    ("value", "variant", "expected"),
    [
        (False, "off", "v1 (FLAG)"),
        (True, None, "v2 (FLAG)"),
        ("v1", None, "v1 (FLAG)"),
    ],
)
def test_open_feature_flag_with_a_default_of_its_own_has_an_opinion(
    route: Route, value: object, variant: str | None, expected: str
) -> None:
    set_provider(answering(value, reason=Reason.DEFAULT, variant=variant))
    assert route(settings(), JOB) == expected


# --- flagd ------------------------------------------------------------------------------------

POLL_MS = 10
BOOLEAN = {"on": True, "off": False}
TEXTS = {"old": "v1", "new": "v2"}


class FlagFile:
    """A flagd file as an operator edits it, and the provider that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "flags.json"
        self._clock = count(time.time())

    def write(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text, "utf-8")
        # The provider looks at the time of the last change, which is coarse on some systems.
        later = next(self._clock)
        os.utime(new, (later, later))
        new.replace(self.path)

    def flag(self, variants: dict[str, Any], default: str | None, **more: Any) -> None:
        flag = {"state": "ENABLED", "variants": variants, "defaultVariant": default, **more}
        self.write(
            json.dumps({"$schema": "https://flagd.dev/schema/v0/flags.json", "flags": {KEY: flag}})
        )

    def provider(self) -> FlagdProvider:
        # In file mode the deadline is the poll interval.
        return FlagdProvider(
            resolver_type=ResolverType.FILE,
            offline_flag_source_path=str(self.path),
            deadline_ms=POLL_MS,
        )


@pytest.fixture
def file(tmp_path: Path) -> FlagFile:
    return FlagFile(tmp_path)


def soon(holds: Callable[[], bool]) -> None:
    """At the provider's next poll, every 10 ms; the limit is for a provider that never follows."""
    until = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


@DRIVERS
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ({"variants": BOOLEAN, "default": "on"}, "v2 (FLAG)"),
        ({"variants": BOOLEAN, "default": "off"}, "v1 (FLAG)"),
        ({"variants": TEXTS, "default": "new"}, "v2 (FLAG)"),
        ({"variants": TEXTS, "default": "old"}, "v1 (FLAG)"),
        ({"variants": {"new": "two"}, "default": "new"}, NO_OPINION),
        ({"variants": {"new": 2}, "default": "new"}, NO_OPINION),
        ({"variants": BOOLEAN, "default": "off", "state": "DISABLED"}, NO_OPINION),
        ({"variants": TEXTS, "default": "old", "state": "DISABLED"}, NO_OPINION),
        ({"variants": BOOLEAN, "default": None}, NO_OPINION),
        ({"variants": TEXTS, "default": None}, NO_OPINION),
    ],
)
def test_open_feature_flag_reads_variants_of_flagd(
    file: FlagFile, route: Route, flag: dict[str, Any], expected: str
) -> None:
    file.flag(**flag)
    set_provider(file.provider())
    assert route(settings(), JOB) == expected


@DRIVERS
def test_open_feature_flag_shows_flagd_job_phase_and_share(file: FlagFile, route: Route) -> None:
    late = {"==": [{"var": "phase"}, "sunsetting"]}
    wide = {">=": [{"var": "share"}, 100]}
    named = {"in": [{"var": "targetingKey"}, ["42", "44"]]}
    file.flag(TEXTS, "old", targeting={"if": [{"and": [late, wide, named]}, "new", "old"]})
    set_provider(file.provider())
    made = settings()
    assert [route(made, job)[:2] for job in (41, 42, 43, 44)] == ["v1", "v2", "v1", "v2"]
    assert route(rc.Settings(v2_flag=OpenFeatureFlag(KEY), v2_rollout=99), 42) == "v1 (FLAG)"
    assert route(settings(v1_sunset="2099-01-01"), 42) == "v1 (FLAG)", "the phase is deprecated"


@DRIVERS
def test_open_feature_flag_of_flagd_may_speak_for_some_jobs_only(
    file: FlagFile, route: Route
) -> None:
    rule = {"if": [{"==": [{"var": "targetingKey"}, "42"]}, "off", None]}
    file.flag(BOOLEAN, None, targeting=rule)
    set_provider(file.provider())
    assert route(settings(), 42) == "v1 (FLAG)"
    assert route(settings(), 43) == NO_OPINION


def test_open_feature_flag_follows_a_flagd_file_that_changes_on_disk(
    file: FlagFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.flag(BOOLEAN, "off")
    set_provider(file.provider())
    jobs = count(1)
    with FaultServer() as server:
        made = rc.Settings(
            TEST_KEY, base_url=server.base_url, v2_flag=OpenFeatureFlag(KEY), v2_rollout=100
        )
        with FakeTime(BEFORE).client(made) as client:

            def follows(expected: str) -> None:
                soon(lambda: str(client.route(1)) == expected)
                assert str(client.cancel_job(next(jobs)).route) == expected
                assert server.seen[-1].version == expected[:2]

            follows("v1 (FLAG)")
            file.flag(BOOLEAN, "on")
            follows("v2 (FLAG)")
            file.flag(TEXTS, "old")
            follows("v1 (FLAG)")
            file.flag(TEXTS, "old", state="DISABLED")
            follows(NO_OPINION)
            file.flag(BOOLEAN, "off")
            follows("v1 (FLAG)")

            # Half a file is an error of the provider's, which goes on with what it knew.
            file.write('{"flags": {')
            soon(lambda: "Could not parse JSON" in caplog.text)
            follows("v1 (FLAG)")
            file.flag(BOOLEAN, "on")
            follows("v2 (FLAG)")


def test_open_feature_flag_follows_a_flagd_file_under_asyncio(file: FlagFile) -> None:
    file.flag(TEXTS, "old")
    set_provider(file.provider())

    async def main() -> list[str]:
        made = rc.Settings(TEST_KEY, base_url=server.base_url, v2_flag=OpenFeatureFlag(KEY))
        async with FakeTime(BEFORE).async_client(made) as client:
            routes = [str((await client.cancel_job(1)).route)]
            file.flag(TEXTS, "new")
            until = time.monotonic() + LIMIT
            while str(await client.route(2)) != "v2 (FLAG)":
                assert time.monotonic() < until
                await asyncio.sleep(0.002)
            return [*routes, str((await client.cancel_job(2)).route)]

    with FaultServer() as server:
        assert asyncio.run(main()) == ["v1 (FLAG)", "v2 (FLAG)"]
        assert [seen.version for seen in server.seen] == ["v1", "v2"]


def test_open_feature_flag_of_a_flagd_file_that_is_not_there_yet(
    file: FlagFile, caplog: pytest.LogCaptureFixture
) -> None:
    """The process starts first; the file is mounted later."""
    starting = threading.Thread(target=api.set_provider, args=(file.provider(),))
    starting.start()
    starting.join(LIMIT)
    assert route_sync(settings()) == NO_OPINION
    assert "gave no opinion" in caplog.text
    file.flag(BOOLEAN, "off")
    soon(lambda: route_sync(settings()) == "v1 (FLAG)")


# --- plugged in by name, and the extra --------------------------------------------------------


def test_open_feature_flag_in_a_process_that_was_never_written_for_it(
    file: FlagFile, tmp_path: Path
) -> None:
    (tmp_path / "our_flags.py").write_text(
        "from openfeature import api\n"
        "from openfeature.contrib.provider.flagd import FlagdProvider\n"
        "from openfeature.contrib.provider.flagd.config import ResolverType\n"
        "from revenuebase_compat.contrib.openfeature import OpenFeatureFlag\n"
        "set_provider = getattr(api, 'set_provider_and_wait', api.set_provider)\n"
        f"set_provider(FlagdProvider(resolver_type=ResolverType.FILE,\n"
        f"    offline_flag_source_path={str(file.path)!r}))\n"
        f"flag = OpenFeatureFlag({KEY!r})\n",
        "utf-8",
    )
    file.flag(TEXTS, "new", targeting={"if": [{"==": [{"var": "targetingKey"}, "7"]}, "old"]})
    program = "from revenuebase_compat import cancel_job\nfor i in 7, 8: print(cancel_job(i).route)"
    with FaultServer() as server:
        environ = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
            "REVENUEBASE_API_KEY": TEST_KEY,
            "REVENUEBASE_BASE_URL": server.base_url,
            "REVENUEBASE_V1_SUNSET": "2999-01-01",
            "REVENUEBASE_V2_FLAG": "our_flags:flag",
        }
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environ,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert done.stdout.splitlines() == ["v1 (FLAG)", "v2 (FLAG)"], done.stderr
    assert TEST_KEY not in done.stderr


def test_open_feature_flag_without_its_extra_names_what_to_install() -> None:
    program = "import sys; sys.modules['openfeature'] = None; "
    program += "import revenuebase_compat.contrib.openfeature"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "MissingExtraError: OpenFeatureFlag needs what is not installed: "
        "pip install 'openfeature-sdk>=0.8.2'"
    )
