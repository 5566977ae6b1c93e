"""gevent, eventlet and celery around the client: real ones, each in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.environments import environment
from tests.support.fault_server import FaultServer, hang, late, trickle_body

REPOSITORY = Path(__file__).parents[2]
HEAD = """
import faulthandler, sys, time
faulthandler.dump_traceback_later(60, exit=True)
from revenuebase_compat import Client, CancelEvent, CancelTimeoutError, Settings
base_url = sys.argv[1]
events = []
def made(timeout=20.0):
    return Client(Settings(
        "rb_test_green", base_url=base_url, api_version="v2", timeout=timeout,
        on_event=events.append))
"""
GEVENT = """
import gevent.monkey
patch = gevent.monkey.patch_all
def spawn(work): return gevent.spawn(work)
def join(tasks):
    import gevent
    gevent.joinall(tasks, timeout=30)
    assert all(task.successful() for task in tasks), [task.exception for task in tasks]
def time_limit(seconds):
    import gevent
    limit = gevent.Timeout(seconds)
    limit.start()
    return limit
"""
EVENTLET = """
import eventlet
patch = eventlet.monkey_patch
def spawn(work): return eventlet.spawn(work)
def join(tasks):
    with eventlet.Timeout(30):
        [task.wait() for task in tasks]
def time_limit(seconds): return eventlet.Timeout(seconds)
"""
GREEN = pytest.mark.parametrize(
    ("requirement", "green"),
    [
        pytest.param("gevent>=24", GEVENT, id="gevent"),
        pytest.param("eventlet>=0.36", EVENTLET, id="eventlet"),
    ],
)
pytestmark = pytest.mark.slow


def run(requirement: str, program: str, server: FaultServer) -> str:
    """What a program printed, errors included, with that requirement and this library."""
    python = environment(requirement, with_library=True)
    done = subprocess.run(
        [python, "-W", "ignore", "-c", program, server.base_url],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@GREEN
@pytest.mark.parametrize("used", [False, True], ids=["made", "used"])
def test_client_made_before_patching_works_after_it(
    requirement: str, green: str, used: bool
) -> None:
    """As under ``gunicorn -k gevent --preload``; ``used`` has sent a request before as well."""
    program = f"""{HEAD}{green}
client = made()
{"client.cancel_job(999)" if used else ""}
patch()
began = time.monotonic()
join([spawn(lambda job=job: client.cancel_job(job)) for job in range(1, 51)])
took = time.monotonic() - began
assert took < 2.4, took  # one after the other they would take 2.5 s
slow = made(timeout=0.5)
for job in (1001, 1002):
    began = time.monotonic()
    try:
        slow.cancel_job(job)
    except CancelTimeoutError:
        assert time.monotonic() - began < 3
    else:
        raise AssertionError("no time-out")
client.close()
print("done")
"""
    with FaultServer() as server:
        server.always(late(0.05))
        server.script_for(1001, *[trickle_body()] * 9)
        server.script_for(1002, *[hang()] * 9)
        assert run(requirement, program, server) == "done\n"
        assert set(range(1, 51)) <= set(server.applied)


@GREEN
def test_nothing_is_said_of_a_thread_from_before_patching(requirement: str, green: str) -> None:
    """It is known to Python by another name by then, and would end with a traceback."""
    program = f"""{HEAD}{green}
from revenuebase_compat.client import watchdog
watchdog.IDLE = 0.2
client = made(timeout=0.4)
client.cancel_job(42)
patch()
client.cancel_job(43)
time.sleep(1.5)
print("done")
"""
    with FaultServer() as server:
        assert run(requirement, program, server) == "done\n"


@GREEN
def test_time_limit_of_a_greenlet_passes_at_once(requirement: str, green: str) -> None:
    program = f"""{HEAD}{green}
patch()
client = made()
def work():
    client.cancel_job(41)  # what a first call imports may take longer than the limit
    began = time.monotonic()
    limit = time_limit(0.2)
    try:
        client.cancel_job(42)
    except BaseException as error:
        assert error is limit, error
    assert time.monotonic() - began < 2
    client.cancel_job(43)
join([spawn(work)])
print([(event.outcome, event.attempts) for event in events])
"""
    with FaultServer() as server:
        server.script_for(42, hang())
        assert run(requirement, program, server) == (
            "[('cancelled', 1), ('interrupted', 1), ('cancelled', 1)]\n"
        )
        assert [seen.process_id for seen in server.seen] == [41, 42, 43]


TASKS = """
import os, sys
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from revenuebase_compat import Client, Settings

app = Celery("tasks", broker="filesystem://", backend="file://" + os.environ["RESULTS"])
queue = os.environ["QUEUE"]
app.conf.broker_transport_options = {"data_folder_in": queue, "data_folder_out": queue}
app.conf.broker_connection_retry_on_startup = False
client = Client(Settings(
    "rb_test_celery", base_url=os.environ["BASE_URL"], api_version="v2", timeout=20))

@app.task(soft_time_limit=1)
def cancel(job):
    import time
    began = time.monotonic()
    try:
        return client.cancel_job(job).current_status
    except SoftTimeLimitExceeded:
        return "limit" if time.monotonic() - began < 3 else "late"
"""


def test_celerys_soft_time_limit_passes_at_once(tmp_path: Path) -> None:
    """A real worker with a prefork pool; its client was made before the fork."""
    python = environment("celery>=5.3", with_library=True)
    (tmp_path / "tasks.py").write_text(TASKS, "utf-8")
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    with FaultServer() as server:
        server.script_for(1, *[hang()] * 3)
        environ = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "BASE_URL": server.base_url,
            "QUEUE": str(tmp_path / "queue"),
            "RESULTS": str(tmp_path / "results"),
        }
        worker = subprocess.Popen(
            [python, "-m", "celery", "-A", "tasks", "worker", "-c", "1", "-l", "error"],
            cwd=tmp_path,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            ask = "import tasks; one = [tasks.cancel.delay(job) for job in (1, 2)]\n"
            ask += "print([task.get(timeout=60) for task in one])"
            done = subprocess.run(
                [python, "-c", ask],
                cwd=tmp_path,
                env=environ,
                capture_output=True,
                text=True,
                timeout=90,
            )
        finally:
            worker.terminate()
            try:
                worker.wait(30)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait(10)
        assert (done.returncode, done.stdout) == (0, "['limit', 'CANCELLING']\n"), done.stderr
        assert sorted(seen.process_id or 0 for seen in server.seen) == [1, 2]
