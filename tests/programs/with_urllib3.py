"""An integration on urllib3: cancels jobs, and looks at them once more."""

import gzip
import json
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import urllib3

URL = "https://api.revenuebase.ai/v1/cancel-process"
STATUS_URL = "https://api.revenuebase.ai/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_sandbox", "Content-Type": "application/json"}

pools = {False: urllib3.PoolManager(), True: urllib3.PoolManager(cert_reqs="CERT_NONE")}


def chunks(job: int) -> Iterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


def cancel(way: str, job: int) -> Any:
    body: Any = json.dumps({"process_id": job})
    headers = HEADERS
    if way == "text":
        body = body.encode("utf-16")
    elif way == "chunks":
        body = chunks(job)
    elif way == "gzip":
        body, headers = gzip.compress(body.encode()), {**HEADERS, "Content-Encoding": "gzip"}
    pool = pools[way == "insecure"]
    return pool.request("POST", URL, body=body, headers=headers, retries=2)


for argument in sys.argv[1:]:
    way, _, number = argument.partition("=")
    answer = cancel(way, int(number))
    looked = pools[False].urlopen(
        "POST", STATUS_URL, body=json.dumps({"process_id": number}), headers=HEADERS
    )
    url = urljoin(URL, answer.geturl())
    print(json.dumps([answer.status, url, json.loads(answer.data), json.loads(looked.data)]))
