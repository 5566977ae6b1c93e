"""Runs a program in a context where api.revenuebase.ai is a port of this machine.

    at_home.py PORT PROGRAM ARGUMENT…

The program's own code is left as it is: names resolve to loopback, and port 443 is another.
"""

import runpy
import socket
import sys
from typing import Any

PORT, PROGRAM = int(sys.argv[1]), sys.argv[2]
resolve, connect = socket.getaddrinfo, socket.socket.connect


def resolve_at_home(host: Any, *rest: Any, **options: Any) -> Any:
    known = host in ("api.revenuebase.ai", b"api.revenuebase.ai")
    return resolve("127.0.0.1" if known else host, *rest, **options)


def connect_at_home(self: socket.socket, address: Any) -> None:
    connect(self, ("127.0.0.1", PORT) if address == ("127.0.0.1", 443) else address)


socket.getaddrinfo = resolve_at_home
socket.socket.connect = connect_at_home  # type: ignore
sys.argv[:] = sys.argv[2:]
runpy.run_path(PROGRAM, run_name="__main__")
