"""Python environments for programs whose requirements conflict with ours, made once and cached."""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from uv import find_uv_bin

REPOSITORY = Path(__file__).resolve().parents[2]
# Read at import: the tests themselves run without REVENUEBASE_* variables.
CACHE = Path(
    os.environ.get("REVENUEBASE_COMPAT_TEST_CACHE") or REPOSITORY / ".cache" / "environments"
).absolute()


def environment(
    *requirements: str, python: str = sys.executable, with_library: bool = False
) -> Path:
    """The Python of a venv that holds exactly these requirements; console scripts lie beside it.

    `with_library` adds this repository as an editable install, so it is always current.
    """
    arguments = [*requirements]
    identity = [_version_of(python), *sorted(requirements)]
    if with_library:
        arguments += ["--editable", str(REPOSITORY)]
        identity += [str(REPOSITORY), (REPOSITORY / "pyproject.toml").read_text("utf-8")]
    key = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]

    folder = CACHE / key
    executable = folder / "bin" / "python"
    complete = folder / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    # A lock and a marker rather than a rename: scripts in a venv hold its absolute path.
    with (CACHE / f"{key}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (complete.exists() and executable.exists()):
            shutil.rmtree(folder, ignore_errors=True)
            made = _run([python, "-m", "venv", "--without-pip", str(folder)], timeout=300)
            assert made.returncode == 0, made.stdout
            if arguments:
                _install(executable, arguments)
            complete.touch()
    return executable


def _install(executable: Path, arguments: list[str]) -> None:
    """By uv, which needs a tenth of pip's time; by pip where uv finds no registry.

    Only pip reads what is configured for pip, such as a mirror.
    """
    # Bounded, so that a dead network is a failure within minutes.
    uv = [find_uv_bin(), "pip", "install", "--cache-dir", str(CACHE / "uv"), "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", str(executable), "install", "--quiet"]
    without_uv = CACHE / "without-uv"
    if not without_uv.exists():
        if _run([*uv, "--python", str(executable), *arguments], timeout=600).returncode == 0:
            return
        without_uv.touch()
    done = _run([*pip, "--timeout", "60", "--retries", "2", *arguments], timeout=600)
    if done.returncode != 0:
        last_words = "\n".join(done.stdout.splitlines()[-10:])
        pytest.fail(
            f"pip could not install {' '.join(arguments)}: the package registry could not be "
            f"reached, or it does not hold that. The last lines of pip:\n{last_words}",
            pytrace=False,
        )


@functools.cache
def _version_of(python: str) -> str:
    code = "import sys; print(sys.base_prefix, sys.version)"
    done = _run([python, "-c", code], timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def _run(command: list[str], *, timeout: float) -> subprocess.CompletedProcess[str]:
    strangers = ("PYTHON", "VIRTUAL_ENV", "REVENUEBASE_")
    return subprocess.run(
        command,
        env={name: value for name, value in os.environ.items() if not name.startswith(strangers)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
