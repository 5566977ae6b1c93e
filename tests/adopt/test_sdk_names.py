"""The vendor's SDK under us: each release that speaks v1, and code for one run on a later one."""

from __future__ import annotations

import json
import os
import subprocess
import textwrap
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from revenuebase_compat.adopt import sdk_names
from revenuebase_compat.adopt.report import read
from revenuebase_compat.core.endpoints import ENDPOINTS, START
from revenuebase_compat.core.routing import bucket
from revenuebase_compat.testing.sandbox import Sandbox
from tests.support import AFTER, BEFORE, SUNSET, thinned
from tests.support.environments import environment
from tests.support.programs import GONE, Retiring, lines

pytestmark = pytest.mark.slow

KEY = "rb_test_sandbox"
PROGRAM = str(Path(__file__).parents[1] / "programs" / "vendor" / "sdk.py")

#: What the code was written for, the release it runs on, and what comes of it without us.
PAIRS = [
    ("0.1.0", "0.1.0", '"status": 410'),
    ("0.2.0", "0.2.0", '"status": 410'),
    ("0.2.1", "0.2.1", '"status": 410'),
    ("0.1.0", "0.2.1", "no attribute 'user_operations'"),
    ("0.1.0", "0.3.0", "cannot import name 'CreditsResponse'"),
    ("0.2.0", "0.3.0", "cannot import name 'CreditsResponse'"),
    ("0.2.1", "0.3.0", "cannot import name 'CreditsResponse'"),
]
every_pair = pytest.mark.parametrize(("written_for", "installed"), [pair[:2] for pair in PAIRS])
either_way = pytest.mark.parametrize("use_async", [False, True], ids=["sync", "async"])

#: The workflow of the vendor's README, with job 7 worked off and job 8 not, and the calls of v1.
STEPS = {
    "credits": "credits",
    "verify=ann@acme.com": "verify",
    "upload=emails.csv": "upload",
    "status=@": "status",
    "list": "list",
    "cancel=@": "cancel",
    "cancel=@ again": "cancel",
    "cancel=7": "cancel",
    "download=7": "download",
    "download=8": "download",
    "verify=nonsense": "verify",
    "rotate": "rotate_key",
    "status=7": "status",
}
BY_NAME = {one.name: one for one in ENDPOINTS}


def sandbox(kind: type[Sandbox] = Sandbox, **options: Any) -> Sandbox:
    jobs = {job: "COMPLETED" if job == 7 else "QUEUED" for job in (7, 8, 42, 43, 44)}
    return kind(**{"api_key": KEY, "jobs": jobs, "sunset": SUNSET, **options})


def python(installed: str) -> Path:
    return environment(f"revenuebase-sdk=={installed}", with_library=True)


def run(
    installed: str,
    *arguments: str,
    sandbox: Sandbox,
    with_us: bool = True,
    options: tuple[str, ...] = ("--strict",),
    **more: str,
) -> subprocess.CompletedProcess[str]:
    executable = python(installed)
    command = [str(executable), *arguments]
    if with_us:
        command = [str(executable.with_name("revenuebase-compat")), "run", *options, "--"]
        command += [str(executable), *arguments]
    return subprocess.run(
        command,
        env={
            "PATH": os.defpath,
            "REVENUEBASE_API_KEY": KEY,
            "REVENUEBASE_BASE_URL": sandbox.base_url,
            **GONE,
            **more,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def program(written_for: str, use_async: bool = False) -> list[str]:
    return [PROGRAM, written_for, *(["--async"] if use_async else [])]


def steps(names: Sequence[str]) -> list[str]:
    return [name.partition(" ")[0] for name in names]


def served(sandbox: Sandbox) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in sandbox.requests]


def arrives(step: str, version: str, uploaded: int) -> tuple[str, str]:
    """Method and path that a step is to arrive with."""
    endpoint = BY_NAME[STEPS[step]]
    if version == "v1":
        return endpoint.method, endpoint.path
    assert endpoint.v2_method is not None
    assert endpoint.v2_path is not None
    return endpoint.v2_method, endpoint.v2_path.format(process_id=job_of(step, uploaded))


def job_of(step: str, uploaded: int) -> str:
    return step.partition("=")[2].partition(" ")[0].replace("@", str(uploaded))


@cache
def as_v1_answers(written_for: str) -> tuple[list[Any], int]:
    """What the code is told on its own release by a living v1, and the job that it uploads."""
    with sandbox(now=BEFORE) as living:
        done = run(
            written_for,
            *(*program(written_for), *steps([*STEPS])),
            sandbox=living,
            with_us=False,
        )
        found = lines(done)
        [uploaded] = [
            one["answer"]["process_id"] for one in found if one["step"] == "upload=emails.csv"
        ]
        assert served(living) == [arrives(step, "v1", uploaded) for step in STEPS]
    refused = [(one["step"], one["error"], one["status"]) for one in found if "error" in one]
    assert refused == [
        ("cancel=@", "BadRequestError", 400),
        ("cancel=7", "BadRequestError", 400),
        ("download=8", "BadRequestError", 400),
        ("verify=nonsense", "UnprocessableEntityError", 422),
    ]
    return found, uploaded


@either_way
@pytest.mark.parametrize(("written_for", "installed", "failure"), PAIRS)
def test_code_for_one_release_does_all_its_work_on_another(
    written_for: str, installed: str, failure: str, use_async: bool
) -> None:
    expected, uploaded = as_v1_answers(written_for)
    arguments = [*program(written_for, use_async), *steps([*STEPS])]
    with sandbox(now=AFTER) as retired:
        without = run(installed, *arguments, sandbox=retired, with_us=False)
        assert failure in without.stdout + without.stderr
        assert '"answer"' not in without.stdout
        retired.requests.clear()

        assert lines(run(installed, *arguments, sandbox=retired)) == expected
        assert served(retired) == [arrives(step, "v2", uploaded) for step in STEPS]


@either_way
@pytest.mark.parametrize(
    ("written_for", "installed", "share"),
    [(*pair[:2], share) for pair, share in [*product(PAIRS, [50]), *thinned(PAIRS, [0, 100])]],
)
def test_before_the_sunset_the_share_decides_as_long_as_the_release_speaks_v1(
    written_for: str, installed: str, use_async: bool, share: int
) -> None:
    expected, uploaded = as_v1_answers(written_for)
    with sandbox(now=BEFORE) as living:
        done = run(
            installed,
            *(*program(written_for, use_async), *steps([*STEPS])),
            sandbox=living,
            REVENUEBASE_V1_SUNSET="2999-01-01",
            REVENUEBASE_V2_ROLLOUT=str(share),
        )
        assert lines(done) == expected
        v2_only = installed == "0.3.0"
        moved = [
            bucket("", int(job_of(step, uploaded))) < share
            if BY_NAME[name].names_job
            else share == 100
            for step, name in STEPS.items()
        ]
        assert served(living) == [
            arrives(step, "v2" if yes or v2_only else "v1", uploaded)
            for step, yes in zip(STEPS, moved, strict=True)
        ]


@pytest.mark.parametrize("after", [1, 3, 6, 11])
@pytest.mark.parametrize(("written_for", "installed"), [pair[:2] for pair in PAIRS[:4]])
def test_v1_ends_in_the_middle_of_the_work(written_for: str, installed: str, after: int) -> None:
    expected, uploaded = as_v1_answers(written_for)
    with sandbox(Retiring, now=BEFORE) as retiring:
        assert isinstance(retiring, Retiring)
        retiring.ends_after = after
        arguments = [*program(written_for), *steps([*STEPS])]
        done = run(installed, *arguments, sandbox=retiring, REVENUEBASE_V1_SUNSET="2999-01-01")
        assert lines(done) == expected
        names = [*STEPS]
        assert served(retiring) == [
            *(arrives(step, "v1", uploaded) for step in names[: after + 1]),
            *(arrives(step, "v2", uploaded) for step in names[after:]),
        ]


@either_way
@pytest.mark.parametrize("installed", ["0.2.1", "0.3.0"])
def test_each_call_is_in_the_report_once_at_the_callers_line(
    installed: str, use_async: bool, tmp_path: Path
) -> None:
    """Where the forwarded call is one of v1 itself, and where nothing of v1 is sent."""
    report = str(tmp_path / "report")
    arguments = [*program("0.1.0", use_async), *steps([*STEPS])]
    with sandbox(now=AFTER) as retired:
        options = ("--strict", "--report", report)
        done = run(installed, *arguments, sandbox=retired, options=options)
        assert len(lines(done)) == len(STEPS)
    found, _ = read(report)
    called = Counter(BY_NAME[name].call for name in STEPS.values())
    assert Counter({call: number for (call, _, _), number in found.items()}) == called
    assert {fate for _, fate, _ in found} == {"moved"}
    [where] = {site.rpartition(":")[0] for *_, site in found}
    assert PROGRAM.endswith(where)


@pytest.mark.parametrize(
    ("call", "error", "reported"),
    [
        (
            "batch_start(filename='a')",
            "AttributeError: client.v1.batch_start()",
            {("POST /v1/batch-process-email", "left", "<string>:1"): 1},
        ),
        ("get_credits(nonsense=1)", "got an unexpected keyword argument 'nonsense'", {}),
    ],
)
def test_of_calls_that_send_nothing_the_report_has_what_v2_cannot_do(
    tmp_path: Path, call: str, error: str, reported: dict[tuple[str, str, str], int]
) -> None:
    report = str(tmp_path / "report")
    code = f"import revenuebase_sdk as r; r.RevenuebaseClient().v1.{call}"
    with sandbox(now=AFTER) as retired:
        done = run("0.3.0", "-c", code, sandbox=retired, options=("--report", report))
    assert error in done.stderr
    assert retired.requests == []
    assert read(report)[0] == reported


@either_way
@every_pair
def test_what_v2_cannot_do_says_so_at_the_callers_line(
    written_for: str, installed: str, use_async: bool
) -> None:
    arguments = [*program(written_for, use_async), "credits", "start=emails.csv"]
    with sandbox(now=AFTER) as retired:
        done = run(installed, *arguments, sandbox=retired, options=())
        credits, *failure = [json.loads(line) for line in done.stdout.splitlines()]
    assert credits["answer"].keys() == {"credits"}
    if written_for[:3] == installed[:3]:  # its own release sends it, and v1 has ended
        assert failure[0]["status"] == 410
        [warned] = [one for one in done.stderr.splitlines() if "ApiDeprecationWarning" in one]
        assert warned.startswith(f"{PROGRAM}:")
        assert "POST /v1/batch-process-email is left to it" in warned
    else:
        assert failure == []
        said = done.stderr.splitlines()[-1]
        assert said.startswith("AttributeError: client.")
        assert "API v2 takes no file by its name" in said
    assert "upload" in done.stderr


PRELUDE = """
import inspect, json, sys, warnings
from importlib import import_module
import revenuebase_sdk
from revenuebase_compat import ApiDeprecationWarning, adopt
from revenuebase_compat.adopt import sdk_names
from packaging.version import Version

sync, asynchronous = revenuebase_sdk.RevenuebaseClient, revenuebase_sdk.AsyncRevenuebaseClient
installed = Version(revenuebase_sdk.__version__)
resources = {name.partition(".")[0] for name in sdk_names.covered(installed) if "." in name}
def error_of(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def code(text: str, installed: str, with_us: bool = True) -> list[Any]:
    """What that Python prints; it needs no server."""
    with sandbox(now=AFTER) as retired:
        text = PRELUDE + textwrap.dedent(text)
        return lines(run(installed, "-c", text, sandbox=retired, with_us=with_us))


@pytest.mark.parametrize("installed", ["0.2.0", "0.2.1", "0.3.0"])
def test_every_call_gives_one_notice_and_warns_at_the_callers_line(installed: str) -> None:
    text = """
        client, said = sync(), {}
        for name, target in sdk_names.covered(installed).items():
            if target is None or "." not in name:
                continue
            resource, _, method = name.partition(".")
            given = {"process_id": 7}
            if method in ("get_credits", "rotate_api_key", "list_queued"):
                given = {}
            elif method == "batch_upload":
                given = {"file": b"email\\n", "filename": "emails.csv"}
            elif "email" in method:
                given = {"email": "ann@acme.com"}
            for _ in range(2):
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", ApiDeprecationWarning)
                    call = getattr(getattr(client, resource), method)
                    try:
                        found = call(**given)  # here
                    except revenuebase_sdk.BadRequestError:
                        pass  # job 7 is not to be cancelled
                    else:
                        if method == "rotate_api_key":
                            client = client.with_options(api_key=found.api_key)
                here = [one for one in caught if "is gone from" in str(one.message)]
                said[name] = [str(one.message) for one in here]
                assert [one.filename for one in here] == ["<string>"], caught
                assert {one.category for one in here} == {ApiDeprecationWarning}
            assert "takes 1 positional argument" in error_of(lambda: call(7))
        print(json.dumps(said))
        """
    with sandbox(now=AFTER) as retired:
        done = run(installed, "-c", PRELUDE + textwrap.dedent(text), sandbox=retired)
    [said] = lines(done)
    covered = sdk_names.covered(Version(installed))
    assert [*said] == [name for name, target in covered.items() if target and "." in name]
    for name, [message] in said.items():
        assert message.startswith(f"client.{name}() is gone from revenuebase-sdk {installed}: ")
        assert f"client.{covered[name]}()" in message
        assert done.stderr.count(f"client.{name}() is gone") == 1


@pytest.mark.parametrize("installed", ["0.2.1", "0.3.0"])
def test_names_look_as_they_did(installed: str) -> None:
    text = """
        for client in (sync(), asynchronous()):
            for name in resources - {"company_resolver"}:
                resource = getattr(client, name)
                assert resource is getattr(client, name)
                assert resource is not getattr(client.with_options(timeout=5.0), name)
                assert type(resource).__name__.endswith("Resource")
                assert not hasattr(type(client), name)
                assert not hasattr(resource, "batch_start")
                assert not hasattr(resource, "whatever")
                # A test double stays.
                setattr(resource, "get_credits", lambda: 12)
                assert getattr(client, name).get_credits() == 12
                setattr(client, name, "the application's own")
                assert getattr(client, name) == "the application's own"
            assert not hasattr(client, "company_resolver")
        print(json.dumps(error_of(lambda: sync().company_resolver)))
        """
    [refused] = code(text, installed)
    assert refused.startswith(
        "AttributeError: client.company_resolver is gone from revenuebase-sdk"
    )
    assert "client.organization" in refused


EXPORTS = """
import importlib, json, pkgutil, revenuebase_sdk
found = {}
for one in pkgutil.walk_packages(revenuebase_sdk.__path__, "revenuebase_sdk."):
    if not any(part.startswith("_") for part in one.name.split(".")):
        try:
            module = importlib.import_module(one.name)
        except ImportError:  # an extra of theirs
            continue
        found[one.name] = [*getattr(module, "__all__", [])] or [
            name for name, value in vars(module).items()
            if name[0] != "_" and getattr(value, "__module__", "").startswith("revenuebase_sdk")
        ]
found["revenuebase_sdk"] = revenuebase_sdk.__all__
print(json.dumps(found))
"""


@pytest.mark.parametrize("installed", ["0.2.0", "0.2.1", "0.3.0"])
@pytest.mark.parametrize("written_for", ["0.1.0", "0.2.0", "0.2.1"])
def test_what_a_release_exported_can_be_imported(written_for: str, installed: str) -> None:
    with sandbox(now=AFTER) as retired:
        [exported] = lines(run(written_for, "-c", EXPORTS, sandbox=retired, with_us=False))
    assert len(exported) > 4
    text = """
        missing = []
        for module, names in EXPORTED.items():
            for name in names:
                if error_of(lambda: exec(f"from {module} import {name}")):
                    missing.append(name)
        exec("from revenuebase_sdk import *")
        print(json.dumps([missing, "CreditsResponse" in dir()]))
        """
    text = text.replace("EXPORTED", repr(exported))
    [[missing, starred]] = code(text, installed)
    assert (missing, starred) == ([], True)
    [[missing, starred]] = code(text, installed, with_us=False)
    assert bool(missing) == (written_for[:3] != installed[:3])
    assert starred == (installed != "0.3.0")


@pytest.mark.parametrize("installed", ["0.1.0", "0.2.1", "0.3.0"])
def test_uninstall_leaves_everything_as_it_was(installed: str) -> None:
    text = """
        def state():
            modules = {n: m for n, m in sys.modules.items() if n.startswith("revenuebase_sdk")}
            kinds = {"sync": sync, "asynchronous": asynchronous}
            return {name: dict(vars(owner)) for name, owner in {**modules, **kinds}.items()}
        import revenuebase_sdk.resources, revenuebase_sdk.types
        before = state()
        for _ in range(2):
            adopt.install()
            adopt.install()
            assert (state() == before) == (installed < Version("0.2")), installed
            adopt.uninstall()
            assert state() == before
        print(json.dumps(True))
        """
    assert code(text, installed, with_us=False) == [True]


@pytest.mark.parametrize("installed", ["0.2.1", "0.3.0"])
def test_a_warning_made_an_error_comes_before_anything_is_sent(installed: str) -> None:
    with sandbox(now=AFTER) as retired:
        arguments = ["-W", "error", *program("0.1.0"), "rotate"]
        done = run(installed, *arguments, sandbox=retired)
        assert served(retired) == []
    assert done.returncode == 1
    assert "ApiDeprecationWarning: client.user_operations.rotate_api_key()" in done.stderr


def test_covered_tells_what_a_release_lacks_and_what_stands_in() -> None:
    assert sdk_names.covered(Version("0.1.0")) == {}
    of_0_2, of_0_3 = (sdk_names.covered(Version(one)) for one in ("0.2.1", "0.3.0"))
    assert of_0_2["email_processing.validate_email"] == "v1.process_email"
    assert of_0_3["email_processing.validate_email"] == of_0_3["v1.process_email"] == "email.verify"
    assert of_0_3["CreditsResponse"] == "UsageResponse"
    refused = {name for name, target in of_0_3.items() if target is None}
    assert refused == {
        *("company_resolver.resolve", "company_resolver.discover"),
        *("email_processing.batch_start", "v1.batch_start"),
    }
    assert sdk_names.CALLS.keys() == {*ENDPOINTS}
    assert sdk_names.CALLS[START][2] is None
