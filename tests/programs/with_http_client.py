"""An integration on http.client, over one connection: cancels jobs, and looks at them once more."""

import gzip
import http.client
import json
import ssl
import sys
from collections.abc import Iterator
from typing import Any

HEADERS = {"x-key": "rb_test_sandbox", "Content-Type": "application/json"}


def chunks(job: int) -> Iterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


def connect(insecure: bool = False) -> http.client.HTTPSConnection:
    context = ssl._create_unverified_context() if insecure else None  # noqa: S323
    return http.client.HTTPSConnection("api.revenuebase.ai", context=context, timeout=30)


def cancel(connection: http.client.HTTPSConnection, way: str, job: int) -> Any:
    body: Any = json.dumps({"process_id": job})
    headers = HEADERS
    if way == "chunks":
        body = chunks(job)
    elif way == "gzip":
        body, headers = gzip.compress(body.encode()), {**HEADERS, "Content-Encoding": "gzip"}
    connection.request("POST", "/v1/cancel-process", body, headers)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


connections = {False: connect(), True: connect(insecure=True)}
for argument in sys.argv[1:]:
    way, _, number = argument.partition("=")
    connection = connections[way == "insecure"]
    status, job = cancel(connection, way, int(number))
    body = json.dumps({"process_id": float(number)})
    connection.request("POST", "/v1/batch-process-email-status", body, HEADERS)
    looked = json.loads(connection.getresponse().read())
    print(json.dumps([status, "https://api.revenuebase.ai/v1/cancel-process", job, looked]))
