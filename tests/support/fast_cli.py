"""The command on a fast clock.

``python -m tests.support.fast_cli SPEED [without-rich] ARGUMENT...``
"""

from __future__ import annotations

import sys
import time
from datetime import datetime, timedelta

from revenuebase_compat.cli.main import main
from tests.support import AFTER


def run(speed: float, arguments: list[str]) -> int:
    began = time.monotonic()

    def monotonic() -> float:
        return (time.monotonic() - began) * speed

    def clock() -> datetime:
        return AFTER + timedelta(seconds=monotonic())

    def sleep(seconds: float) -> None:
        time.sleep(seconds / speed)

    if arguments[0] == "without-rich":
        del arguments[0]
        sys.modules["rich"] = None  # type: ignore[assignment]
    return main(arguments, clock=clock, monotonic=monotonic, sleep=sleep)


if __name__ == "__main__":
    sys.exit(run(float(sys.argv[1]), sys.argv[2:]))
