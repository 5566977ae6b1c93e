"""First on PYTHONPATH under ``revenuebase-compat run``: starts us, then the next in line.

Every Python that the command starts finds this file, however old it is. Where our package cannot
be imported it only hands on, and says so, but not to the children of one in which we are in force.
Hence the plain syntax.
"""

import os
import sys

strict = os.environ.get("REVENUEBASE_COMPAT_RUN") in ("strict", "rehearse")
try:
    from revenuebase_compat.adopt.start import start

    start()
except Exception as error:
    if strict or not os.environ.get("REVENUEBASE_COMPAT_ACTIVE"):
        try:  # noqa: SIM105 (old Pythons read this)
            sys.stderr.write(
                "revenuebase-compat: nothing is moved here: it is not installed in %s (%s)%s\n"  # noqa: UP031
                % (sys.prefix, error, "; so this was not started" if strict else "")
            )
        except Exception:  # noqa: S110 (there is no stderr)
            pass
    if strict:
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
