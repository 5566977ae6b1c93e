"""Cancels each job in a process of its own, on urllib: ``pool.py fork|spawn|forkserver ID…``."""

import json
import multiprocessing
import os
import sys
from urllib.request import Request, urlopen

URL = os.environ["JOBS_API"] + "/v1/cancel-process"
HEADERS = {"x-key": "rb_test_sandbox", "Content-Type": "application/json"}


def cancel(process_id: int) -> str:
    body = json.dumps({"process_id": process_id}).encode()
    with urlopen(Request(URL, body, HEADERS), timeout=30) as answer:
        return f"{process_id} {answer.status} {json.load(answer)['current_status']}"


if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(*pool.map(cancel, map(int, sys.argv[2:])), sep="\n")
