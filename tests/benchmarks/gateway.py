"""What the gateway costs beside other reverse proxies: ``python -m tests.benchmarks.gateway``.

Prints Markdown. One upstream, once as fast as it can and once with 100 ms a request; each
contender in turn, in random order within each round, with 1 to 500 clients that keep a connection
each. The contender has a core for itself; upstream and clients share the other. nginx takes part
where it is installed (or named by ``NGINX``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.environments import environment

HERE = Path(__file__).parent
CLIENTS = (1, 10, 100, 500)
SLOW_CLIENTS = (10, 100, 400)
SLOW = 0.1

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 8192;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    keepalive_requests 1000000;
    upstream api {{ server 127.0.0.1:{upstream}; keepalive 500; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection "";
        }}
    }}
}}
"""


class Measured(NamedTuple):
    """One contender with so many clients, for a few seconds."""

    rate: float
    cpu: float
    memory: float
    failures: int


class Contender(NamedTuple):
    """Where it listens, and its process (``None``: the upstream itself)."""

    port: int
    pid: int | None


def measure(python: str, core: int, contender: Contender, clients: int, seconds: float) -> Measured:
    """Requests a second, CPU seconds a request, and MiB held at the end."""
    command = [python, str(HERE / "load.py"), *map(str, (contender.port, clients, seconds))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: _pin(core)
    ) as load:
        assert load.stdout is not None
        assert load.stdout.readline() == "ready\n"
        before = _cpu(contender.pid)
        found = json.loads(load.stdout.readline())
        cpu = _cpu(contender.pid) - before
        memory = _memory(contender.pid)
    answers = max(1, found["answers"])
    return Measured(answers / found["seconds"], cpu / answers, memory, found["failures"])


def _cpu(pid: int | None) -> float:
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int | None) -> float:
    if pid is None:
        return 0.0
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _pin(core: int) -> None:
    os.sched_setaffinity(0, {core})
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def process(command: Sequence[str], core: int, port: int = 0) -> Iterator[Contender]:
    """A server that prints its port, or that listens at the given one after a while."""
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    started = subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.DEVNULL if port else subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: _pin(core),
    )
    try:
        if started.stdout is not None:
            with started.stdout:
                port = int(started.stdout.readline().rpartition(":")[2])
        _wait_for(port)
        yield Contender(port, started.pid)
    finally:
        started.terminate()
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextmanager
def contenders(delay: float, cores: tuple[int, int]) -> Iterator[dict[str, Contender]]:
    """The upstream itself, the gateway, mitmproxy, and nginx where there is one."""
    ours = environment("h11", "prometheus-client", "uvicorn", with_library=True)
    theirs = environment("mitmproxy")
    with ExitStack() as opened:
        command = [str(ours), str(HERE / "server.py"), str(delay)]
        upstream = opened.enter_context(process(command, cores[1])).port
        found = {"direct": Contender(upstream, None)}
        url = f"http://127.0.0.1:{upstream}"
        gateway = [str(ours), "-m", "revenuebase_compat", "gateway", "--upstream", url]
        started = process([*gateway, "--port", "0"], cores[0])
        found["gateway"] = opened.enter_context(started)
        port = _free_port()
        mitmdump = [str(theirs.with_name("mitmdump")), "--quiet", "--mode", f"reverse:{url}"]
        listen = ["--listen-host", "127.0.0.1", "--listen-port", str(port)]
        found["mitmproxy"] = opened.enter_context(process([*mitmdump, *listen], cores[0], port))
        nginx = os.environ.get("NGINX") or shutil.which("nginx")
        if nginx:
            folder, port = opened.enter_context(tempfile.TemporaryDirectory()), _free_port()
            configuration = Path(folder, "nginx.conf")
            configuration.write_text(_NGINX.format(folder=folder, port=port, upstream=upstream))
            command = [nginx, "-p", folder, "-c", str(configuration)]
            found["nginx"] = opened.enter_context(process(command, cores[0], port))
        yield found


Key = tuple[str, float, int]
Table = dict[Key, list[Measured]]


def run(rounds: int, seconds: float) -> Table:
    """All contenders, with each upstream and number of clients, in random order within a round."""
    available = sorted(os.sched_getaffinity(0))
    cores = available[0], available[-1]
    loads = [(0.0, number) for number in CLIENTS] + [(SLOW, number) for number in SLOW_CLIENTS]
    found: Table = {}
    with contenders(0.0, cores) as fast, contenders(SLOW, cores) as slow:
        python = str(environment("h11", "prometheus-client", "uvicorn", with_library=True))
        running = {0.0: fast, SLOW: slow}
        for turn in range(rounds):
            for delay, number in random.sample(loads, len(loads)):
                for name in random.sample([*fast], len(fast)):
                    one = measure(python, cores[1], running[delay][name], number, seconds)
                    found.setdefault((name, delay, number), []).append(one)
            print(f"round {turn + 1} of {rounds}", flush=True, file=sys.stderr)
    return found


def middle(measured: list[Measured], what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in measured))


def show(found: Table, delay: float, numbers: Sequence[int], title: str) -> None:
    names = list(dict.fromkeys(name for name, _, _ in found))
    print(f"\n### {title}\n")
    print("| clients | " + " | ".join(names) + " |")
    print("| --: |" + " --: |" * len(names))
    for number in numbers:
        cells = []
        for name in names:
            measured = found[name, delay, number]
            rate, cpu, memory, _ = (middle(measured, what) for what in Measured._fields)
            more = f", {cpu * 1e3:.2f} ms CPU, {memory:.0f} MiB" if cpu else ""
            failures = sum(one.failures for one in measured)
            cells.append(f"{rate:,.0f}/s{more}" + (f", {failures} FAILED" if failures else ""))
        print(f"| {number} | " + " | ".join(cells) + " |")


def goals(found: Table, rounds: int) -> None:
    """Ratios are taken within each round, so that a busy moment is in both of their terms."""
    print("\n| | goal | measured | |")
    print("| --- | --: | --: | --- |")

    def goal(what: str, limit: float, value: float, sign: str) -> None:
        met = value <= limit if sign == "≤" else value >= limit
        print(f"| {what} | {sign} {limit:g} | {value:.2f} | {'met' if met else 'missed'} |")

    def ours(number: int, turn: int, delay: float = 0.0) -> Measured:
        return found["gateway", delay, number][turn]

    turns = range(rounds)
    cpu = statistics.median(ours(500, turn).cpu / ours(1, turn).cpu for turn in turns)
    goal("CPU a request with 500 clients, over that with one", 1.3, cpu, "≤")
    for number in CLIENTS:
        theirs = found["mitmproxy", 0.0, number]
        value = statistics.median(ours(number, turn).rate / theirs[turn].rate for turn in turns)
        limit = 1.2 if number == 1 else 1.5
        goal(f"requests a second over mitmproxy's, {number} clients", limit, value, "≥")
    for number in SLOW_CLIENTS:
        best = [max(ours(other, turn).rate for other in CLIENTS) for turn in turns]
        value = statistics.median(
            ours(number, turn, SLOW).rate / min(best[turn], number / SLOW) for turn in turns
        )
        goal(f"upstream of 100 ms, {number} clients: share of what is possible", 0.8, value, "≥")
    lost = sum(one.failures for key, many in found.items() if key[0] == "gateway" for one in many)
    goal("requests that failed", 0, lost, "≤")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each; default: 3")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    found = run(options.rounds, options.seconds)
    goals(found, options.rounds)
    title = "Requests a second, CPU of the proxy for one, and its memory at the end"
    show(found, 0.0, CLIENTS, title)
    show(found, SLOW, SLOW_CLIENTS, "With an upstream that takes 100 ms")
    print(
        f"\nPython {platform.python_version()}; {os.cpu_count()} cores; {options.rounds} rounds of "
        f"{options.seconds:g} s; medians; load average {load:.1f} at the start."
    )


if __name__ == "__main__":
    main()
