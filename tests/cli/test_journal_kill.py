"""`kill -9` at random moments: every job's fate in the journal against the server's record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.conftest import TEST_KEY
from tests.support.fault_server import FaultServer, late

KILLS = 50
JOBS = 48


class Batch:
    """One file of jobs, cancelled by as many runs as it takes; all but the last are killed."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = Random(seed)  # noqa: S311
        self.ids = self.random.sample(range(1, 10**6), JOBS)
        self.kills = 0
        (folder / "ids.txt").write_text("\n".join(map(str, self.ids)))

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    def start(self, server: FaultServer) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "revenuebase_compat", "cancel", "--json", "--from-file"]
        command += [str(self.folder / "ids.txt"), "--resume", str(self.journal)]
        environ = {"REVENUEBASE_API_KEY": TEST_KEY, "REVENUEBASE_BASE_URL": server.base_url}
        return subprocess.Popen(
            command, env=os.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def done(self) -> dict[int, bool]:
        """The jobs that the journal calls done, and whether they count as cancelled."""
        if not self.journal.exists():
            return {}
        *lines, _ = self.journal.read_bytes().split(b"\n")
        found = [json.loads(line) for line in lines]
        return {one["process_id"]: one["row"]["ok"] for one in found if one["event"] == "done"}

    def run(self) -> None:
        with FaultServer() as server:
            server.always(late(0.004))
            while True:
                begun, done = len(server.seen), self.done()
                process = self.start(server)
                if not self.killed(process, server, begun):
                    break
                # Nothing that was done was sent again, and nothing unknown was called done.
                assert not {one.process_id for one in server.seen[begun:]} & set(done)
                assert set(self.done()) <= set(server.applied)
                assert all(self.done().values())
            self.check(process, server, begun, done)

    def killed(self, process: subprocess.Popen[bytes], server: FaultServer, begun: int) -> bool:
        """Kill the process some requests from now; false where it ended before that."""
        target = begun + self.random.randint(1, 14)
        while len(server.seen) < target:
            if process.poll() is not None:
                return False
            threading.Event().wait(0.0005)
        threading.Event().wait(self.random.uniform(0, 0.01))
        process.kill()
        process.communicate()
        self.kills += process.returncode == -9
        return process.returncode == -9

    def check(
        self,
        process: subprocess.Popen[bytes],
        server: FaultServer,
        begun: int,
        done: dict[int, bool],
    ) -> None:
        """The last run tells the truth, and the server's record agrees."""
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0, out
        assert not {one.process_id for one in server.seen[begun:]} & set(done)
        rows = [json.loads(line) for line in out.splitlines()]
        assert sorted(row["process_id"] for row in rows) == sorted(self.ids)
        assert all(row["ok"] for row in rows)
        assert sorted(server.applied) == sorted(self.ids)  # each once
        assert self.done() == dict.fromkeys(self.ids, True)
        # Repeated were at most those under way at a kill.
        cancels = sum(one.route == "cancel" for one in server.seen)
        assert cancels <= JOBS + 8 * self.kills


@pytest.mark.slow
def test_whenever_it_is_killed_no_job_is_lost_and_none_done_is_repeated(tmp_path: Path) -> None:
    kills = 0
    lock = threading.Lock()

    def work(first: int) -> None:
        nonlocal kills
        for seed in range(first, 10_000, 2):
            folder = tmp_path / str(seed)
            folder.mkdir()
            batch = Batch(folder, seed)
            batch.run()
            with lock:
                kills += batch.kills
                if kills >= KILLS:
                    return

    # Two at a time: most of it is the start of Python.
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2)))
    assert kills >= KILLS
