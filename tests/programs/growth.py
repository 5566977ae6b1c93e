"""What calls and decisions leave behind, in a process that does nothing else beside them.

Prints a JSON object: for a hundred calls, a thousand calls and a thousand decisions each the bytes
kept, their peak above what was held before, and how many objects the collector found.
"""

from __future__ import annotations

import gc
import json
import socket
import threading
import tracemalloc
from collections.abc import Callable

from revenuebase_compat import Client, Settings


def growth(call: Callable[[int], object], calls: int) -> tuple[int, int, int]:
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        for job in range(1, 1001):  # fills the free lists of the interpreter
            call(job)
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for job in range(1001, 1001 + calls):
            call(job)
        after, peak = tracemalloc.get_traced_memory()
        return after - before, peak - before, gc.collect()
    finally:
        tracemalloc.stop()
        gc.enable()


def serve(listener: socket.socket) -> None:
    """Answer on one connection after the other, and remember nothing: it is measured along."""
    while True:
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(2**16):
                job = request.split(b"/", 4)[3]
                body = b'{"process_id":%b,"filename":"a","current_status":"CANCELLING",' % job
                body += b'"message":"a"}'
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Client(Settings("rb_test_growth", base_url=url)) as client:
        client.cancel_job(1)  # what is imported and made once
        calls = growth(client.cancel_job, 100), growth(client.cancel_job, 1000)
    settings = Settings("rb_test_growth", v1_sunset="2999-01-01", v2_rollout=50)
    with Client(settings) as client:
        print(json.dumps([*calls, growth(client.route, 1000)]))


if __name__ == "__main__":
    main()
