"""``revenuebase-compat run``: a process that does not know us starts with us.

``run`` puts the boot folder on PYTHONPATH and becomes the command. Where Python ignores PYTHONPATH,
the ``.pth`` file does the same, once it is installed.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import sys
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from revenuebase_compat.client.process import write_stderr

from . import report as reports
from .environment import IGNORED, REHEARSED_SUNSET, WITHOUT, lenient_settings
from .pth import pth_file
from .start import ACTIVE, FLAG

BOOT = str(Path(__file__).resolve().parent / "boot")


def run(
    argv: list[str], *, strict: bool = False, rehearse: bool = False, report: str | None = None
) -> NoReturn:
    """Become the command ``argv``, in whose Python processes v1 requests are moved.

    Settings come from the environment. A broken one is one line on stderr, and its default holds;
    under ``strict`` the command does not run: exit code 2. A command that is not there is exit
    code 127, one that cannot be executed 126.

    Args:
        strict: have processes raise where a request cannot be moved.
        rehearse: strict, and v1 counts as gone.
        report: a file to which each v1 request is appended (``report`` shows it).

    Raises:
        ConfigurationError: ``report`` cannot be written.
    """
    around = os.environ.get(FLAG)  # a run whose promise holds in here, too
    rehearse = rehearse or around == "rehearse"
    strict = strict or rehearse or around == "strict"
    # What that one has told its own processes.
    environ = {name: text for name, text in os.environ.items() if name not in (ACTIVE, IGNORED)}
    with suppress(OSError):  # PEP 538: where there is no locale, Python gives itself one
        given = b"\0" + Path("/proc/self/environ").read_bytes()
        if b"\0LC_CTYPE=" not in given and environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8"):
            del environ["LC_CTYPE"]
    environ[FLAG] = "rehearse" if rehearse else "strict" if strict else "1"
    paths = environ["PYTHONPATH"].split(os.pathsep) if environ.get("PYTHONPATH") else []
    environ["PYTHONPATH"] = os.pathsep.join([BOOT, *(path for path in paths if path != BOOT)])
    if rehearse:
        environ["REVENUEBASE_V1_SUNSET"] = REHEARSED_SUNSET
        if environ.get("REVENUEBASE_AFTER_SUNSET", "").strip() == "try":
            # Who tries v1 after its end is refused there; the real one would still obey.
            environ["REVENUEBASE_AFTER_SUNSET"] = "raise"
    if report is not None:
        environ[reports.VARIABLE] = reports.prepare(report)
    complaints = lenient_settings(environ)[1]
    if complaints:
        environ[IGNORED] = ",".join(complaints)
    unsupported = None
    with suppress(Exception):  # a look ahead keeps no command from its start
        unsupported = unsupported_option(argv)
    wrong = [*complaints.values(), *filter(None, [unsupported])]
    if strict and wrong:
        write_stderr(f"{'; '.join(wrong)}; {argv[0]} was not started")
        sys.exit(2)
    for complaint in complaints.values():
        write_stderr(complaint + WITHOUT)
    if unsupported:
        write_stderr(f"{unsupported}; {argv[0]} runs without us")
    for name in {"SIGPIPE", "SIGXFZ", "SIGXFSZ"} & vars(signal).keys():
        # Python ignores these, and what is ignored stays so beyond exec.
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    try:
        _become(argv, environ)
    except OSError as error:
        hint = f": give python {argv[0]}" * argv[0].endswith(".py")
        write_stderr(f"{argv[0]}: {error.strerror or error}{hint}")
        sys.exit(127 if isinstance(error, FileNotFoundError | NotADirectoryError) else 126)


def _become(argv: list[str], environ: dict[str, str]) -> NoReturn:
    try:
        os.execvpe(argv[0], argv, environ)  # noqa: S606 (what the user asked for)
    except OSError as error:
        script = shutil.which(argv[0])
        if error.errno != errno.ENOEXEC or script is None:
            raise
    # A script without a first line is a shell's, as for execvp() and env.
    os.execve("/bin/sh", ["/bin/sh", script, *argv[1:]], environ)  # noqa: S606 (the same)


#: Commands that start another one: how many words of their own come before it, and their options
#: that take the next word.
_WRAPPERS = {
    **dict.fromkeys(["nohup", "setsid"], (0, "")),
    **dict.fromkeys(["gosu", "su-exec", "taskset"], (1, "")),
    "chrt": (1, "-D -P -T --sched-deadline --sched-period --sched-runtime"),
    "dumb-init": (0, "-r --rewrite"),
    "flock": (1, "-E -w --conflict-exit-code --timeout --wait"),
    "ionice": (0, "-c -n --class --classdata"),
    "nice": (0, "-n --adjustment"),
    "runuser": (0, "-G -g -u --group --supp-group --user"),
    "setpriv": (0, "--egid --euid --groups --pdeathsig --regid --reuid --rgid --ruid"),
    "stdbuf": (0, "-e -i -o --error --input --output"),
    "strace": (0, "-E -O -P -S -X -a -b -e -o -p -s -u"),
    "tini": (0, "-e -p"),
    "time": (0, "-f -o --format --output"),
    "timeout": (1, "-k -s --kill-after --signal"),
    "xargs": (
        *(0, "-E -I -L -P -a -d -n -s --arg-file --delimiter --max-args --max-chars --max-procs"),
    ),
}
#: Those with options too many to know; of the second kind, a sitecustomize comes before ours.
_RUNNERS = frozenset(["uv", "uvx", "poetry", "pipenv", "hatch", "pdm", "conda", "pixi", "rye"])
_SHADOWING = frozenset(["opentelemetry-instrument", "elasticapm-run"])
#: Their own words before the program, and options of theirs that take no word.
_COMMANDS = frozenset(["exec", "run", "tool", "x"])
_FLAGS = frozenset(
    [
        *("--", "-m", "-q", "-v", "--active", "--all-extras", "--all-groups", "--dev", "--exact"),
        *("--frozen", "--isolated", "--locked", "--no-cache", "--no-config", "--no-dev"),
        *("--no-default-groups", "--no-project", "--no-sync", "--offline", "--quiet", "--verbose"),
        *("--module", "--refresh"),
    ]
)

_PTH = "`revenuebase-compat pth install` once in its environment"
_LOST = f"env takes our PYTHONPATH away: {_PTH}"
_DROPPING = {
    "tox": (
        "put `revenuebase-compat run --` before what its `commands` start, this package into its "
        "`deps` and `REVENUEBASE_*` into its `pass_env`"
    ),
    **dict.fromkeys(
        ["doas", "docker", "kubectl", "podman", "runuser", "ssh", "su", "sudo"],
        "put `revenuebase-compat run --` behind it",
    ),
}
#: Those that drop them only where they log in.
_LOGINS = frozenset(["runuser", "su"])


def unsupported_option(argv: list[str], scripts: int = 4, *, lost: bool = False) -> str | None:
    """Why a Python that the command starts would not hear of us, as far as its words tell.

    Of scripts that start each other by their first lines it looks at four, as Linux does. ``lost``:
    our PYTHONPATH was taken away.
    """
    name, rest = Path(argv[0]).name, argv[1:]
    if name == "env":
        return _unsupported_by_env(rest, scripts, lost)
    logs_in = {"-", "-l", "--login"} & {*takewhile("--".__ne__, rest)}
    if name in _DROPPING and (logs_in or name not in _LOGINS):
        return f"{name} drops our variables: {_DROPPING[name]}"
    if name in _RUNNERS | _SHADOWING:
        behind = _program(rest)
        if name in _RUNNERS and behind:  # as a rule, they take it from the project's environment
            if behind[0].endswith(".py"):  # by that Python, whatever its first line says
                behind = ["python", *behind]
            behind[0] = shutil.which(behind[0], path=Path(sys.prefix, "bin")) or behind[0]
        if name in _SHADOWING and not _reads_pth((behind or argv)[0]):
            return (
                f"{name} starts Python with a sitecustomize of its own: put "
                f"`revenuebase-compat run --` behind it, or {_PTH}"
            )
        if lost and behind and shutil.which(behind[0]) is None:  # it may be a Python's
            return _LOST
        return unsupported_option(behind, scripts, lost=lost) if behind else None
    if _is_python(name):
        options, program = _python_options(rest)
        if "S" in options:
            return f"-S has {name} start without site, and so without us"
        ignoring = options & {"I", "E"}
        if (ignoring or lost) and not _reads_pth(argv[0]):
            return f"-{min(ignoring)} has {name} ignore PYTHONPATH: {_PTH}" if ignoring else _LOST
        if program and _leads_to_python(program[0]):  # of other scripts the first line is idle
            return unsupported_option(program, scripts, lost=lost)
        return None
    if name in _WRAPPERS:
        before, valued = _WRAPPERS[name]
        words = iter(rest)
        for word in words:
            if word in valued.split():
                next(words, None)
            elif word[:1] != "-" and not before:
                return unsupported_option([word, *words], scripts, lost=lost)
            elif word[:1] != "-":
                before -= 1
        return None
    line = _first_line(argv[0]) if scripts else ""
    shebang = line[2:].strip().split(None, 1) if line.startswith("#!") else []
    starts = [*shebang, argv[0], *rest]
    return unsupported_option(starts, scripts - 1, lost=lost) if shebang else None


_is_python = re.compile(r"(python|pypy)[0-9.]*t?(-dbg)?(\.exe)?").fullmatch


def _program(words: list[str]) -> list[str]:
    """Of a runner's words, those from the program on that it starts."""
    before = ""
    for place, word in enumerate(words):
        hatchs = words[place : place + 2] == ["env", "run"]
        if word[:1] != "-" and word not in _COMMANDS and not hatchs:
            # Behind another option it may be its value, but for a Python.
            surely = before[:1] != "-" or before in _FLAGS
            if surely or (word not in _DROPPING and _leads_to_python(word)):
                return words[place:]
        before = word
    return []


def _leads_to_python(word: str) -> bool:
    name = Path(word).name
    return word in _DROPPING or name in _RUNNERS | _SHADOWING or _is_python(name) is not None


def _reads_pth(command: str) -> bool:
    """Whether a command is of this environment, as its folder tells, with the ``.pth`` file in."""
    path = shutil.which(command)
    home = path and Path(path).parent.resolve().parent
    return home == Path(sys.prefix).resolve() and pth_file().exists()


def _first_line(command: str) -> str:
    """Of a script, which names the Python that the kernel starts for it."""
    path = Path(shutil.which(command) or command)
    with suppress(OSError):
        if path.is_file():  # opening a pipe would wait for its writer
            with path.open("rb") as file:
                return file.readline(256).decode("utf-8", "replace")
    return ""


#: The options of env that matter, or take the next word, by their short names.
_ENV = {"--ignore-environment": "-i", "--unset": "-u", "--chdir": "-C", "--split-string": "-S"}


def _unsupported_by_env(words: list[str], scripts: int, lost: bool) -> str | None:
    words = [*words]
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if word[:1] == "-":
            for long in _ENV:  # which may be cut short
                word = _ENV[long] + value if name[2:] and long.startswith(name) else word
            # The kernel hands over all behind a script's `#!/usr/bin/env` as one word.
            [(flags, letter, value)] = re.findall(r"(?s)^-([0iv]*)([CPSau]?)(.*)", word)
            if "i" in flags or word == "-":
                return f"env {word} takes all variables away, and so us"
            if letter and not value:
                value = words.pop(0) if words else ""
            if letter == "S":
                words[:0] = shlex.split(value)
            lost = lost or (letter == "u" and value == "PYTHONPATH")
        elif equals:
            lost = lost or (name == "PYTHONPATH" and BOOT not in value)
        else:
            return unsupported_option([word, *words], scripts, lost=lost)
    return None


def _python_options(words: list[str]) -> tuple[set[str], list[str]]:
    """One-letter options without a value, and from the script's, or module's, name on the rest."""
    found: set[str] = set()
    rest = iter(words)
    for word in rest:
        option = re.match(r"-([^-cmXW]*)([-cmXW]?)(.*)", word, re.DOTALL)
        if option is None:
            return found, [word, *rest]
        letters, last, value = option.groups()
        found.update(letters)
        if last == "m":
            return found, [*filter(None, [value]), *rest]
        if last == "c" or word in ("-", "--"):
            break
        if word == "--check-hash-based-pycs" or (last in ("X", "W") and not value):
            next(rest, None)
    return found, []
