"""``revenuebase-compat cancel``: jobs in, their fates out, each job once."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from revenuebase_compat.core.errors import ConfigurationError
from revenuebase_compat.core.settings import Settings

from .arguments import file_name, process_id, seconds
from .output import complain
from .sandbox import CANCELLING_FOR

#: More jobs than that are asked about once, on a terminal.
ASK_FROM = 20

#: Seconds that ``--wait`` waits.
WAIT = 600.0

_EXAMPLES = """\
examples:
  revenuebase-compat cancel 42 43 --wait
  revenuebase-compat cancel --from-file ids.csv --resume cancel.journal
  some-query | revenuebase-compat cancel --from-file - --json > fates.jsonl

exit codes: 0 all cancelled, 1 some job was not, 2 wrong usage or settings, 130 stopped
"""


def add_arguments(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "cancel",
        help="cancel jobs",
        description="Cancels jobs, each once, at the pace that the API's rate limit allows.",
        epilog=_EXAMPLES,
    )
    add, flag = parser.add_argument, {"action": "store_true"}
    file = "more ids: a line each, CSV with a process_id column, or JSON lines; - is stdin"
    journal = "write what is started and done to that file; given again, skip what is done"
    add("process_ids", metavar="ID", nargs="*", type=process_id, help="a job's process_id")
    add("--from-file", metavar="FILE", type=file_name, help=file)
    add("--wait", **flag, help=f"wait until each job has ended, at most {WAIT:g} s")
    add("--wait-timeout", metavar="SECONDS", type=seconds, help="wait, at most so long")
    add("--resume", metavar="JOURNAL", type=file_name, help=journal)
    add("--json", **flag, help="one JSON object a line, one per job")
    add("--quiet", **flag, help="no progress and no table: errors only")
    add("--yes", **flag, help=f"do not ask for more than {ASK_FROM} jobs")
    add("--sandbox", **flag, help="cancel in an embedded sandbox that holds them; needs no key")
    parser.set_defaults(run=run)


def run(arguments: Namespace) -> int:
    from revenuebase_compat.client.facade import Client
    from revenuebase_compat.client.notices import ApiDeprecationWarning

    from .batch import Batch
    from .journal import Journal

    # It says what the log says, and would point at whoever runs the command.
    warnings.simplefilter("ignore", ApiDeprecationWarning)
    if arguments.sandbox and arguments.resume:
        raise ConfigurationError("cancel: a journal (--resume) holds no jobs of a --sandbox")
    if arguments.wait and arguments.wait_timeout is None:
        arguments.wait_timeout = WAIT
    process_ids = _all_ids(arguments)
    with ExitStack() as stack:
        settings = None
        if arguments.sandbox:
            from revenuebase_compat.testing.sandbox import Sandbox

            service = Sandbox(jobs=process_ids, cancelling_for=CANCELLING_FOR)
            stack.enter_context(service)
            settings = Settings.from_env(api_key=service.api_key, base_url=service.base_url)
        client = stack.enter_context(Client(settings, **arguments.clocks))
        if client.settings.api_key is None:
            client.cancel_job(process_ids[0])  # says what is missing, and sends nothing
        journal = Journal(arguments.resume, client.settings.base_url)
        stack.callback(journal.close)
        batch = Batch(arguments, process_ids, client, journal)
        if not arguments.yes and len(batch.todo) > ASK_FROM and _declined(len(batch.todo)):
            complain("nothing was sent")
            return 1
        return batch.run()


def _all_ids(arguments: Namespace) -> list[int]:
    """Those named and those of the file, each once, in order."""
    from .ids import decode, read_ids

    found, file = list(arguments.process_ids), arguments.from_file
    name = "stdin" if file == "-" else file
    if file is not None:
        try:
            data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"--from-file {name}: {error.strerror}") from None
        found += read_ids(decode(data), name)
    if not found:
        right = f"{name} holds none" if name else "give some, or --from-file FILE"
        raise ConfigurationError(f"cancel: no ids: {right}")
    return list(dict.fromkeys(found))


def _declined(count: int) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"Cancel {count} jobs? [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):
        print(file=sys.stderr)
    return answer.strip().lower() not in ("y", "yes")
