"""First on PYTHONPATH under ``revenuebase-compat run``: starts us, then the next in line.

Every Python that the command starts finds this file, however old it is; in one that is not ours
it only hands on, and says so where it is the command itself. Hence the plain syntax.
"""

import os
import sys

ours = "%d.%d:%s" % (sys.version_info[0], sys.version_info[1], os.path.realpath(sys.prefix))  # noqa: UP031

if os.environ.get("REVENUEBASE_COMPAT_PYTHON") == ours:
    try:
        from revenuebase_compat.adopt.start import start

        start()
    except Exception as error:
        if sys.stderr:
            sys.stderr.write("revenuebase-compat: is not in force: %r\n" % error)  # noqa: UP031
        if os.environ.get("REVENUEBASE_COMPAT_RUN") in ("strict", "rehearse"):
            os._exit(2)
elif os.environ.get("REVENUEBASE_COMPAT_PID") == str(os.getpid()):
    if sys.stderr:
        sys.stderr.write(
            "revenuebase-compat: nothing is moved here: it is not installed in %s\n" % sys.prefix  # noqa: UP031
        )
    if os.environ.get("REVENUEBASE_COMPAT_RUN") in ("strict", "rehearse"):
        os._exit(2)

# Off sys.path for good, which then is what it would have been; children read PYTHONPATH.
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry) != here]
this = sys.modules.pop("sitecustomize", None)
try:
    __import__("sitecustomize")
except ImportError as error:
    if getattr(error, "name", "sitecustomize") != "sitecustomize":
        raise
    if this is not None:  # the import system looks for it where it put it
        sys.modules["sitecustomize"] = this
