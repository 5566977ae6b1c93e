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


Table = dict[tuple[str, int], list[Measured]]


def run(delay: float, numbers: Sequence[int], rounds: int, seconds: float) -> Table:
    """All contenders with each number of clients, in random order within a round."""
    available = sorted(os.sched_getaffinity(0))
    cores = available[0], available[-1]
    found: Table = {}
    with contenders(delay, cores) as running:
        python = str(environment("h11", "prometheus-client", "uvicorn", with_library=True))
        for turn in range(rounds):
            for number in numbers:
                for name in random.sample([*running], len(running)):
                    one = measure(python, cores[1], running[name], number, seconds)
                    found.setdefault((name, number), []).append(one)
            print(f"round {turn + 1} of {rounds}, {delay:g} s", flush=True, file=sys.stderr)
    return found


def middle(found: Table, name: str, number: int, what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in found[name, number]))


def ratio(found: Table, name: str, other: str, number: int) -> float:
    """Of their rates within each round, so that a busy moment is in both."""
    pairs = zip(found[name, number], found[other, number], strict=True)
    return float(statistics.median(one.rate / two.rate for one, two in pairs))


def show(found: Table, title: str) -> None:
    names = list(dict.fromkeys(name for name, _ in found))
    numbers = list(dict.fromkeys(number for _, number in found))
    print(f"\n### {title}\n")
    print("| clients | " + " | ".join(f"{name}" for name in names) + " |")
    print("| --: |" + " --: |" * len(names))
    for number in numbers:
        cells = []
        for name in names:
            rate, cpu, memory = (middle(found, name, number, what) for what in Measured._fields[:3])
            more = f", {cpu * 1e3:.2f} ms CPU, {memory:.0f} MiB" if cpu else ""
            failures = sum(one.failures for one in found[name, number])
            cells.append(f"{rate:,.0f}/s{more}" + (f", {failures} FAILED" if failures else ""))
        print(f"| {number} | " + " | ".join(cells) + " |")


def goals(fast: Table, slow: Table) -> None:
    print("\n| | goal | measured | |")
    print("| --- | --: | --: | --- |")

    def goal(what: str, limit: float, value: float, sign: str) -> None:
        met = value <= limit if sign == "≤" else value >= limit
        print(f"| {what} | {sign} {limit:g} | {value:.2f} | {'met' if met else 'missed'} |")

    cpu = middle(fast, "gateway", 500, "cpu") / middle(fast, "gateway", 1, "cpu")
    goal("CPU a request with 500 clients, over that with one", 1.3, cpu, "≤")
    for number in CLIENTS:
        limit = 1.2 if number == 1 else 1.5
        value = ratio(fast, "gateway", "mitmproxy", number)
        goal(f"requests a second over mitmproxy's, {number} clients", limit, value, "≥")
    best = max(middle(fast, "gateway", number, "rate") for number in CLIENTS)
    for number in SLOW_CLIENTS:
        value = middle(slow, "gateway", number, "rate") / min(best, number / SLOW)
        goal(f"upstream of 100 ms, {number} clients: share of what is possible", 0.8, value, "≥")
    ours = [
        one for key, many in [*fast.items(), *slow.items()] if key[0] == "gateway" for one in many
    ]
    goal("requests that failed", 0, sum(one.failures for one in ours), "≤")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each; default: 3")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    fast = run(0.0, CLIENTS, options.rounds, options.seconds)
    slow = run(SLOW, SLOW_CLIENTS, options.rounds, options.seconds)
    goals(fast, slow)
    show(fast, "Requests a second, CPU of the proxy for one, and its memory at the end")
    show(slow, "With an upstream that takes 100 ms")
    print(
        f"\nPython {platform.python_version()}; {os.cpu_count()} cores; {options.rounds} rounds of "
        f"{options.seconds:g} s; medians; load average {load:.1f} at the start."
    )


if __name__ == "__main__":
    main()
