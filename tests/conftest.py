"""A clean process for every test: environment, memories, signals, and nothing that waits.

The suite as a whole runs in a process more than there are cores, as its tests wait half the time.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest

if "COVERAGE_RUN" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
    # ``coverage run`` measures the process it starts, which under xdist runs no test itself.
    import atexit

    import coverage

    measured = coverage.Coverage(data_suffix=True)
    measured.start()
    atexit.register(measured.save)
    atexit.register(measured.stop)

from revenuebase_compat.client.memory import memory

#: Looks like a test key, and is looked for in everything that could show it.
TEST_KEY = "rb_test_sandbox"


#: Seconds for a slow test, which may have to fill an environment from the package index.
SLOW_TIMEOUT = 1200

# What a background job (`pytest &`) or `nohup` ignores, every child would ignore as well: a signal
# that has a handler here is a default one again in whatever is executed.
for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
    if signal.getsignal(number) is signal.SIG_IGN:
        ours = signal.default_int_handler if number is signal.SIGINT else lambda *_: None
        signal.signal(number, ours)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """In parallel where no path is given; ``-n 0`` is obeyed, a file stays on one worker."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    whole = config.args_source is not pytest.Config.ArgsSource.ARGS
    if whole and config.option.numprocesses is None:
        config.option.numprocesses = "auto"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))


def pytest_collection_finish() -> None:
    # Thousands of tests are much for the collector, which many of them call.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def clean_environment() -> Iterator[None]:
    """Before all else, as fixtures of whole modules make clients and servers, too."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in list(os.environ):
            if name.startswith("REVENUEBASE_") or name.lower().endswith("_proxy"):
                monkeypatch.delenv(name)
        yield


@pytest.fixture(autouse=True)
def clean_process() -> Iterator[None]:
    memory.reset()
    yield
    memory.reset()
