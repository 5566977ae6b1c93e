"""Draws ``tests/demo.svg`` for the README from what ``revenuebase-compat demo`` really prints.

``python -m tests.tools.picture``
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).parents[1] / "demo.svg"


def main() -> None:
    """Run the demo, and draw its lines."""
    command = [sys.executable, "-m", "revenuebase_compat", "demo"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    console = Console(record=True, width=80, file=io.StringIO(), legacy_windows=False)
    console.print(Text("$ revenuebase-compat demo", style="bold green"))
    for line in said.splitlines():
        on_v1 = re.match(r"  .*(GET|POST) /v1/", line) is not None
        style = "bold" if line.startswith("20") else "yellow" if on_v1 else ""
        console.print(Text(line, style=style))
    drawn = console.export_svg(title="revenuebase-compat demo")
    # rich would fetch its fonts from elsewhere; the reader's own will do.
    drawn = re.sub(r"@font-face\s*\{.*?\}", "", drawn, flags=re.DOTALL)
    PICTURE.write_text("\n".join(line.rstrip() for line in drawn.splitlines()) + "\n", "utf-8")


if __name__ == "__main__":
    main()
