"""What a call costs, beside what else could make it: ``python -m tests.benchmarks``.

Prints Markdown; ``--svg PATH`` also draws it. All contenders run in one fresh environment, each
in a process of its own, in random order within each round: client on one core, server on another,
over loopback. A ratio is taken within each round, so that a busy moment of the machine is in both
of its terms; what is shown is the median of the rounds, with its quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.environments import environment

from .plot import Panel, draw

HERE = Path(__file__).parent
REQUIREMENTS = ("httpx==0.28.1", "revenuebase-sdk==0.3.0", "requests==2.34.2")

RAW, OURS = "httpx.Client.post", "Client.cancel_job"
SYNC = (
    RAW,
    OURS,
    "Client.cancel_job, v1",
    "revenuebase-sdk 0.3.0",
    "requests.Session.post",
    "requests.post",
    "http.client",
    "bare socket",
)
LAYERS = (
    "bare socket",
    "httpcore.ConnectionPool",
    "httpx.HTTPTransport, one request made before",
    "httpx.HTTPTransport",
    OURS,
    RAW,
)
ASYNC = ("httpx.AsyncClient.post", "AsyncClient.cancel_job", "revenuebase-sdk 0.3.0")


class Spread(NamedTuple):
    """A median and its quartiles."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low, middle, high)

    def text(self, scale: float = 1.0, digits: int = 0) -> str:
        low, middle, high = (f"{value * scale:,.{digits}f}" for value in self)
        return f"{middle} ({low} to {high})"


class Goal(NamedTuple):
    """One line of the table of goals."""

    what: str
    goal: str
    measured: str
    met: bool


class Report:
    """What was measured so far, as Markdown, goals and panels of the plot."""

    def __init__(self) -> None:
        self.sections: list[str] = []
        self.goals: list[Goal] = []
        self.panels: list[Panel] = []

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        lines = [f"### {title}", "", _row(head), _row(["---"] + ["--:"] * (len(head) - 1))]
        self.sections.append("\n".join(lines + [_row(row) for row in rows]))

    def at_most(
        self, what: str, limit: float, value: float, unit: str = "", note: str = ""
    ) -> None:
        met = value <= limit
        self.goals.append(Goal(what, f"≤ {limit:g}{unit}", f"{value:.2f}{unit}{note}", met))

    def at_least(self, what: str, limit: float, value: float, unit: str) -> None:
        self.goals.append(Goal(what, f"≥ {limit:g}{unit}", f"{value:.2f}{unit}", value >= limit))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


class Machine:
    """The environment, the server, and the two cores."""

    def __init__(self, python: Path, cores: tuple[int, int], base_url: str) -> None:
        self.python = str(python)
        self.cores = cores
        self.base_url = base_url
        self.environ = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "REVENUEBASE_")) and "proxy" not in name.lower()
        }

    def interleaved(
        self, names: Sequence[str], rounds: int, number: int, starts: int = 1
    ) -> dict[str, list[dict[str, float]]]:
        """Seconds of wall and CPU time for one call, per contender and round.

        ``starts`` is how often each contender's process is made anew: where objects come to lie
        in memory makes one process up to 10 µs a call slower than the next.
        """
        if starts > 1:
            parts = [
                self.interleaved(names, max(2, rounds // starts), number) for _ in range(starts)
            ]
            return {name: [one for part in parts for one in part[name]] for name in names}
        children = {name: self._child(name) for name in names}
        found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        try:
            for turn in range(rounds + 1):
                for name in random.sample(names, len(names)):
                    measured = _ask(children[name], number)
                    if turn:  # the first round only warms up
                        found[name].append(measured)
        finally:
            for child in children.values():
                child.communicate()
        return found

    def _child(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [self.python, str(HERE / "contenders.py"), name, self.base_url],
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def whole(self, code: str, environ: dict[str, str] | None = None) -> dict[str, Any]:
        """Wall and CPU time of a whole process, and the MiB it held at its end."""
        code += "\nimport sys; sys.stdout.write(open('/proc/self/statm').read())"
        begun = time.perf_counter()
        process = subprocess.Popen(
            [self.python, "-c", code],
            env=environ or self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None
        with process.stdout:
            printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, code
        *lines, memory = printed.splitlines()
        return {
            "wall": wall,
            "cpu": usage.ru_utime + usage.ru_stime,
            "rss": int(memory.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "lines": lines,
        }


def _ask(child: subprocess.Popen[str], number: int) -> dict[str, float]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{number}\n")
    child.stdin.flush()
    line = child.stdout.readline()
    assert line, f"{child.args!r} ended"
    measured: dict[str, float] = json.loads(line)
    return measured


@contextmanager
def machine() -> Iterator[Machine]:
    """Pins this process, whose children inherit it, to one core and the server to another."""
    python = environment(*REQUIREMENTS, with_library=True)
    available = sorted(os.sched_getaffinity(0))
    cores = available[0], available[-1]
    os.sched_setaffinity(0, {cores[1]})
    server = subprocess.Popen(
        [str(python), str(HERE / "server.py")], stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(0, {cores[0]})
    try:
        assert server.stdout is not None
        with server.stdout:
            yield Machine(python, cores, f"http://127.0.0.1:{server.stdout.readline().strip()}")
    finally:
        server.terminate()
        server.wait()
        os.sched_setaffinity(0, available)


def _ratios(
    found: dict[str, list[dict[str, float]]], name: str, raw: str, what: str = "wall"
) -> Spread:
    pairs = zip(found[name], found[raw], strict=True)
    return Spread.of([one[what] / other[what] for one, other in pairs])


def _differences(
    found: dict[str, list[dict[str, float]]], name: str, raw: str, what: str = "cpu"
) -> Spread:
    pairs = zip(found[name], found[raw], strict=True)
    return Spread.of([one[what] - other[what] for one, other in pairs])


def _spread(measured: Sequence[dict[str, float]], what: str) -> Spread:
    return Spread.of([one[what] for one in measured])


# --- the groups -------------------------------------------------------------------------------


def sync(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    found = here.interleaved(SYNC, rounds, 5 if quick else 100)
    rows, bars = [], []
    for name in SYNC:
        wall = _spread(found[name], "wall")
        ratio, cpu = _ratios(found, name, RAW), _ratios(found, name, RAW, "cpu")
        rows.append([f"`{name}`", wall.text(1e6), ratio.text(1, 2), cpu.text(1, 2)])
        low, middle, high = (value * 1e6 for value in wall)
        bars.append((name, low, middle, high))
    head = ["one call after the other", "µs a call", "ratio, wall", "ratio, client's CPU"]
    report.table("Synchronous", head, rows)
    report.panels.append(Panel("One call after the other: µs a call, less is better", bars, OURS))
    for name, goal in ((OURS, 0.78), (f"{OURS}, v1", 0.85)):
        cpu_ratio = _ratios(found, name, RAW, "cpu").middle
        report.at_most(
            f"`{name}`, wall, over `{RAW}`",
            goal,
            _ratios(found, name, RAW).middle,
            note=f" (CPU: {cpu_ratio:.2f})",
        )


def layers(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    found = here.interleaved(LAYERS, rounds, 5 if quick else 100)
    rows = []
    for name in LAYERS:
        cpu, ratio = _spread(found[name], "cpu"), _ratios(found, name, RAW, "cpu")
        rows.append([f"`{name}`", cpu.text(1e6), ratio.text(1, 2)])
    head = ["one call, from the socket up", "µs of the client's CPU", "ratio"]
    report.table("Layer by layer", head, rows)


def asynchronous(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    names = {at_once: [f"{name}, {at_once} at once" for name in ASYNC] for at_once in (10, 100)}
    found = here.interleaved(
        [name for group in names.values() for name in group],
        max(2, rounds // 4),
        100 if quick else 1000,
    )
    rows, bars = [], []
    for at_once, goal in ((10, 1.3), (100, 2.8)):
        raw, ours, _ = names[at_once]
        for name in names[at_once]:
            speed = Spread.of([1 / one["wall"] for one in found[name]])
            inverse = _ratios(found, raw, name)  # seconds of raw over seconds of this
            rows.append([f"`{name}`", speed.text(), inverse.text(1, 2)])
            bars.append((name, *speed))
        report.at_least(f"async, {at_once} at once", goal, _ratios(found, raw, ours).middle, " ×")
    report.table("Asynchronous", ["many at once", "requests/s", "ratio"], rows)
    title = "Many at once: requests/s, more is better"
    report.panels.append(Panel(title, bars, "AsyncClient.cancel_job"))


FIRST_CALL = {
    # httpx.Client makes a TLS context; so would ours, were the server not reached by plain http.
    "httpx: first call": "import httpx\n"
    "client = httpx.Client()\n"
    "client.post('{url}/v2/jobs/{job}/cancel', headers={{'x-key': 'rb_test_benchmark'}}).json()",
    "ours: first call": "from revenuebase_compat import Client, Settings\n"
    "import httpx; context = httpx.create_ssl_context()\n"
    "client = Client(Settings('rb_test_benchmark', base_url='{url}'))\n"
    "client.cancel_job({job})",
    "ours: first call, no TLS context": "from revenuebase_compat import Client, Settings\n"
    "client = Client(Settings('rb_test_benchmark', base_url='{url}'))\n"
    "client.cancel_job({job})",
    "revenuebase-sdk 0.3.0: first call": "from revenuebase_sdk import RevenuebaseClient\n"
    "client = RevenuebaseClient(api_key='rb_test_benchmark', base_url='{url}')\n"
    "client.jobs.cancel(process_id={job})",
}
IMPORTS = {
    "import httpx": "import httpx",
    "import requests": "import requests",
    "import revenuebase_sdk": "import revenuebase_sdk",
    "import revenuebase_compat": "import revenuebase_compat",
    "from revenuebase_compat import cancel_job": "from revenuebase_compat import cancel_job",
}


def cold(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    codes = {"bare Python": "", **IMPORTS, **FIRST_CALL}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in codes}
    for turn in range(rounds + 1):
        for name in random.sample([*codes], len(codes)):
            job = random.randrange(10**6, 10**9)  # noqa: S311
            measured = here.whole(codes[name].format(url=here.base_url, job=job))
            if turn:
                found[name].append(measured)
    over = {name: _over(found[name], found["bare Python"]) for name in codes}
    rows = []
    for name in [*IMPORTS, *FIRST_CALL]:
        raw = "import httpx" if name in IMPORTS else "httpx: first call"
        rows.append(
            [f"`{name}`" if name in IMPORTS else name]
            + [_spread(over[name], "wall").text(1e3, 1), _spread(over[name], "cpu").text(1e3, 1)]
            + [f"{_share(over, name, raw, what):.2f}" for what in ("wall", "cpu")]
            + [_spread(over[name], "rss").text(1, 1), f"{_share(over, name, raw, 'rss'):.2f}"]
        )
    head = ["cold, beyond bare Python", "ms wall", "ms CPU", "ratio, wall", "ratio, CPU"]
    report.table("Starting", [*head, "MiB", "ratio"], rows)
    mine, name = "import revenuebase_compat", "from revenuebase_compat import cancel_job"
    report.at_most(
        "`import revenuebase_compat`, CPU, over `import httpx`",
        0.30,
        _share(over, mine, "import httpx", "cpu"),
    )
    report.at_most(
        f"`{name}`, CPU, over `import httpx`", 0.60, _share(over, name, "import httpx", "cpu")
    )
    first = ("ours: first call", "httpx: first call")
    wall, cpu = (_share(over, *first, what) for what in ("wall", "cpu"))
    report.at_most("import, client and first call, wall", 1.05, wall, note=f" (CPU: {cpu:.2f})")
    wall = _share(over, "ours: first call, no TLS context", first[1], "wall")
    report.at_most("the same on plain http, for which ours makes no TLS context", 1.05, wall)
    report.at_most("memory after import, client and first call", 1.05, _share(over, *first, "rss"))


def _over(
    measured: Sequence[dict[str, Any]], bare: Sequence[dict[str, Any]]
) -> list[dict[str, float]]:
    pairs = zip(measured, bare, strict=True)
    return [{what: one[what] - two[what] for what in ("wall", "cpu", "rss")} for one, two in pairs]


def _share(over: dict[str, list[dict[str, float]]], name: str, raw: str, what: str) -> float:
    # Of medians: within one round, two starts are too far apart in time for their ratio.
    return _spread(over[name], what).middle / _spread(over[raw], what).middle


def routing(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    names = ["counting", "route, flag off", "route, 50 % share"]
    found = here.interleaved(names, rounds, 100 if quick else 5_000)
    rows = []
    for name, goal in zip(names[1:], (2, 4), strict=True):
        cost = _differences(found, name, "counting")
        rows.append([name, cost.text(1e6, 2)])
        report.at_most(f"`{name}`: the decision alone", goal, cost.middle * 1e6, " µs")
    report.table("Deciding", ["`Client.route()`", "µs CPU"], rows)


def adopt(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    rows = []
    for what, goals, number in (
        ("v1 cancel", (30, 40), 100),
        ("v1 credits", (15, 15), 100),
        ("unrelated", (0.5, 0.5), 5_000),
    ):
        names = [
            f"{library}, {what}, {state}"
            for library in ("httpx", "requests")
            for state in ("as it is", "patched")
        ]
        found = here.interleaved(names, rounds, 5 if quick else number, 1 if quick else 10)
        for (before, patched), goal in zip((names[:2], names[2:]), goals, strict=True):
            cost = _differences(found, patched, before)
            plain = _spread(found[before], "cpu").text(1e6, 2)
            rows.append([before.rpartition(",")[0], plain, cost.text(1e6, 2)])
            report.at_most(
                f"under `run`: {before.rpartition(',')[0]}", goal, cost.middle * 1e6, " µs"
            )
    report.table("Under `run`", ["request", "µs CPU as it is", "µs CPU more, patched"], rows)


def start(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    program = str(Path(here.python).with_name("revenuebase-compat"))
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    done = subprocess.run(
        [program, "run", "--", here.python, "-c", show],
        env=here.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    environs = {"bare": here.environ, "under `run`": json.loads(done.stdout)}
    rows = []
    for what, code, goal in (
        ("imports no HTTP library", "", 2),
        ("imports httpx", "import httpx", 40),
    ):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in environs}
        for turn in range(rounds * 2 + 1):
            for name in random.sample([*environs], 2):
                measured = here.whole(code, environs[name])
                if turn:
                    found[name].append(measured)
        pairs = zip(found["under `run`"], found["bare"], strict=True)
        more = Spread.of([one["cpu"] - two["cpu"] for one, two in pairs])
        cells = [_spread(found[name], "cpu").text(1e3, 1) for name in environs]
        rows.append([what, *cells, more.text(1e3, 1)])
        report.at_most(f"start under `run`, CPU: {what}", goal, more.middle * 1e3, " ms")
    head = ["a Python that …", "ms CPU, bare", "under `run`", "more"]
    report.table("Start-up of a child", head, rows)


MANY = """
import time
from revenuebase_compat import Client, Settings
rss = lambda: int(open('/proc/self/statm').read().split()[1])
client = Client(Settings('rb_test_benchmark', base_url='{url}'))
for job in range(1, 11):
    client.cancel_job(job)
job, held = 10, rss()
for block in range({blocks}):
    begun = time.thread_time()
    for job in range(job + 1, job + 1 + {size}):
        client.cancel_job(job)
    print((time.thread_time() - begun) / {size})
print(rss() - held)
"""


def many(here: Machine, report: Report, rounds: int, quick: bool) -> None:
    size, blocks = (10, 4) if quick else (111, 90)  # 10 + 90 × 111 = 10,000
    first, last, pages = [], [], []
    for _ in range(max(2, rounds // 8)):
        code = MANY.format(url=here.base_url, size=size, blocks=blocks)
        *costs, grown = map(float, here.whole(code)["lines"])
        first.append(statistics.median(costs[: blocks // 3]))
        last.append(statistics.median(costs[-(blocks // 3) :]))
        pages.append(grown)
    change = Spread.of([b / a for a, b in zip(first, last, strict=True)])
    memory = Spread.of([count * os.sysconf("SC_PAGE_SIZE") / 2**10 for count in pages])
    jobs = f"{10 + size * blocks:,}"
    head = [f"from 10 to {jobs} jobs", "µs CPU, first third", "last third", "ratio", "KiB more"]
    row = ["`Client.cancel_job`", Spread.of(first).text(1e6), Spread.of(last).text(1e6)]
    report.table("Many jobs", head, [[*row, change.text(1, 2), memory.text()]])
    report.goals.append(
        Goal(
            f"cost per job, 10 to {jobs} jobs; memory",
            "≤ +10 %; flat",
            f"{(change.middle - 1) * 100:+.0f} %; {memory.middle:+.0f} KiB",
            change.middle <= 1.10 and memory.middle < 1024,
        )
    )


GROUPS: dict[str, Callable[[Machine, Report, int, bool], None]] = {
    "sync": sync,
    "layers": layers,
    "async": asynchronous,
    "cold": cold,
    "routing": routing,
    "adopt": adopt,
    "run": start,
    "many": many,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="default: 40")
    parser.add_argument("--quick", action="store_true", help="shows that it works, measures little")
    parser.add_argument("--only", action="append", choices=[*GROUPS], help="may be repeated")
    parser.add_argument("--svg", type=Path, help="where to draw the plot")
    options = parser.parse_args()
    rounds = 2 if options.quick else max(2, options.rounds)
    report = Report()
    load = os.getloadavg()[0]
    with machine() as here:
        for name, measure in GROUPS.items():
            if not options.only or name in options.only:
                measure(here, report, rounds, options.quick)
        versions = f"Python {platform.python_version()}, {', '.join(REQUIREMENTS)}"
    rows = [_row([g.what, g.goal, g.measured, "met" if g.met else "missed"]) for g in report.goals]
    print(_row(["", "goal", "measured", ""]), _row(["---", "--:", "--:", "---"]), sep="\n")
    print(*rows, "", sep="\n")
    print(*report.sections, sep="\n\n")
    print(
        f"\n{versions}; {os.cpu_count()} cores; {rounds} rounds; medians (quartiles); load average "
        f"{load:.1f} at the start, {os.getloadavg()[0]:.1f} at the end."
    )
    if options.svg:
        options.svg.write_text(draw(report.panels), "utf-8")


if __name__ == "__main__":
    main()
