"""Programs in processes of their own: bare, under ``run``, or by the ``.pth`` file."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import revenuebase_compat

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
SOURCE = Path(revenuebase_compat.__file__).resolve().parents[1]
GONE = {"REVENUEBASE_V1_SUNSET": "2000-01-01"}
ALIVE = {"REVENUEBASE_V1_SUNSET": "2999-01-01"}
WAYS = ("bare", "run", "pth")


@functools.cache
def interpreter(way: str) -> Path:
    """A Python that holds what this one does, us included; by ``pth``, with the ``.pth`` file."""
    if way == "run":
        return interpreter("bare")
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(made, check=True, timeout=60)
    [site] = (folder / "lib").glob("python*/site-packages")
    # Underscore: before revenuebase-compat.pth, which is read in the order of names.
    (site / "_packages.pth").write_text(f"{SOURCE}\n{sysconfig.get_path('purelib')}\n", "utf-8")
    python = folder / "bin" / "python"
    if way == "pth":
        install = [str(python), "-m", "revenuebase_compat", "pth", "install"]
        subprocess.run(install, check=True, timeout=60, stdout=subprocess.DEVNULL)
    return python


def prefix(way: str, *options: str) -> list[str]:
    """What comes before the words of a command line; the options are those of ``run``."""
    return (
        [str(interpreter("bare")), "-m", "revenuebase_compat", "run", *options, "--"]
        if way == "run"
        else []
    )


def variables(way: str, base_url: str, **more: str) -> dict[str, str]:
    """All the variables that a program gets."""
    found = {"PATH": f"{interpreter(way).parent}:{os.defpath}", "PYTHONDONTWRITEBYTECODE": "1"}
    found |= {"REVENUEBASE_BASE_URL": base_url}
    if way == "pth":
        found["REVENUEBASE_COMPAT_RUN"] = "1"
    return found | more


def program(
    way: str, *words: str, base_url: str = "", timeout: float = 120, **more: str
) -> subprocess.CompletedProcess[str]:
    """A run of ``python WORDS...``; one that does not end is killed, and fails the test."""
    command = [*prefix(way), str(interpreter(way)), *words]
    return subprocess.run(
        command,
        env=variables(way, base_url, **more),
        cwd=PROGRAMS,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
