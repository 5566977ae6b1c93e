"""An integration on requests: cancels jobs, and looks at them once more."""

import gzip
import json
import sys
from collections.abc import Iterator

import requests

URL = "https://api.revenuebase.ai/v1/cancel-process"
STATUS_URL = "https://api.revenuebase.ai/v1/batch-process-email-status"
HEADERS = {"x-key": "rb_test_sandbox"}
JSON_HEADERS = {**HEADERS, "Content-Type": "application/json"}


def chunks(job: int) -> Iterator[bytes]:
    yield b'{"process_id":'
    yield b"%d}" % job


def cancel(way: str, job: int) -> requests.Response:
    if way == "json":
        return requests.post(URL, json={"process_id": job}, headers=HEADERS, timeout=30)
    if way == "insecure":
        job_named = {"process_id": job}
        return requests.post(URL, json=job_named, headers=HEADERS, verify=False, timeout=30)  # noqa: S501
    if way == "text":
        text = json.dumps({"process_id": job})
        return requests.post(URL, data=text, headers=JSON_HEADERS, timeout=30)
    if way == "chunks":
        return requests.post(URL, data=chunks(job), headers=JSON_HEADERS, timeout=30)
    packed = gzip.compress(json.dumps({"process_id": job}).encode())
    headers = {**JSON_HEADERS, "Content-Encoding": "gzip"}
    return requests.post(URL, data=packed, headers=headers, timeout=30)


for argument in sys.argv[1:]:
    way, _, number = argument.partition("=")
    answer = cancel(way, int(number))
    looked = requests.post(
        STATUS_URL, json={"process_id": int(number)}, headers=HEADERS, timeout=30
    )
    print(json.dumps([answer.status_code, answer.url, answer.json(), looked.json()]))
