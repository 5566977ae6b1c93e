"""``revenuebase-compat pth``: the start-up file for Pythons that ignore PYTHONPATH.

It acts only where ``REVENUEBASE_COMPAT_RUN`` is set, as ``run`` sets it.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Literal

from revenuebase_compat.client.process import write_stderr

from .start import FLAG

# Where the package was removed and the file was not, every Python still reads it.
_CODE = """\
try:
    from revenuebase_compat.adopt.start import start
except ImportError as error:
    import sys
    if sys.stderr:
        sys.stderr.write(f"revenuebase-compat: not in force: {error!r}; if it is uninstalled, "
                         "delete revenuebase-compat.pth\\n")
else:
    start()
"""
_PTH = f"""\
# `revenuebase-compat pth uninstall` removes this file.
import os; os.environ.get({FLAG!r}) and exec({_CODE!r})
"""


def pth_file() -> Path:
    """Where the ``.pth`` file of this environment is, if it is installed."""
    return Path(sysconfig.get_path("purelib")) / "revenuebase-compat.pth"


def pth(action: Literal["install", "uninstall", "status"]) -> int:
    """Install, remove or look for the ``.pth`` file; prints what came of it.

    Returns the exit code: 1 where the file could not be changed, or ``status`` did not find it.
    """
    path = pth_file()
    there = path.exists()
    try:
        if action == "install":
            fresh = path.with_suffix(".new")  # a Python that starts now shall not read half a line
            fresh.write_text(_PTH, "ascii")
            fresh.replace(path)
        elif action == "uninstall":
            path.unlink(missing_ok=True)
    except OSError as error:
        write_stderr(f"{path}: {error.strerror or error}")
        return 1
    if action == "uninstall":
        print(f"removed {path}" if there else f"nothing to remove at {path}")
        return 0
    if action == "status" and not there:
        print(f"not installed at {path}")
        return 1
    print(f"installed at {path}: works in processes where {FLAG}=1 is set")
    return 0
