"""One gateway and one sandbox for the tests of a module."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from revenuebase_compat import Settings
from revenuebase_compat.adopt.gateway import Server, listen
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER
from tests.support.fault_server import FaultServer

from .support import (
    Running,
    Switch,
)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    switch = Switch(Settings())
    sock = listen("https://api.example", "127.0.0.1", 0)
    port = sock.getsockname()[1]
    ready = threading.Event()

    def take_requests() -> None:
        switch.loop = asyncio.get_running_loop()
        ready.set()

    server = Server(switch, take_requests)
    thread = threading.Thread(target=asyncio.run, args=(server.run_on(sock),))
    thread.start()
    assert ready.wait(10)
    yield Running(switch, port)
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def sandbox_service() -> Iterator[Sandbox]:
    with Sandbox() as service:
        yield service


@pytest.fixture
def sandbox(sandbox_service: Sandbox) -> Sandbox:
    sandbox_service.now = AFTER
    sandbox_service.jobs.clear()
    sandbox_service.requests.clear()
    for process_id in range(1, 101):
        sandbox_service.add_job(process_id)
    return sandbox_service


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer() as server:
        yield server
