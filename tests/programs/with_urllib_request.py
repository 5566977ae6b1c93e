"""An integration on the standard library alone: cancels jobs, and looks at them once more."""

import gzip
import json
import ssl
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = "https://api.revenuebase.ai/v1/cancel-process"
STATUS_URL = "https://api.revenuebase.ai/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_sandbox", "Content-Type": "application/json"}


def chunks(job: int) -> Iterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


def post(url: str, body: Any, headers: dict[str, str], insecure: bool = False) -> Any:
    context = ssl._create_unverified_context() if insecure else None  # noqa: S323
    try:
        answer = urlopen(Request(url, body, headers), context=context, timeout=30)
    except HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.geturl(), json.loads(answer.read())


def cancel(way: str, job: int) -> Any:
    body: Any = json.dumps({"process_id": job}).encode()
    headers = HEADERS
    if way == "chunks":
        body = chunks(job)
    elif way == "gzip":
        body, headers = gzip.compress(body), {**HEADERS, "Content-Encoding": "gzip"}
    return post(URL, body, headers, way == "insecure")


for argument in sys.argv[1:]:
    way, _, number = argument.partition("=")
    status, url, job = cancel(way, int(number))
    looked = post(STATUS_URL, b'{"process_id": "%s"}' % number.encode(), HEADERS)[2]
    print(json.dumps([status, url, job, looked]))
