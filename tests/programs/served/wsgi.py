"""A gunicorn application: ``GET /42`` cancels job 42, on requests."""

import os
from collections.abc import Callable, Iterable
from typing import Any

import requests
from urllib3.util.ssl_ import create_urllib3_context

URL = os.environ["JOBS_API"] + "/v1/cancel-process"
HEADERS = {"x-key": "rb_test_sandbox"}


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # What every TLS call does; it recurses without end where gevent came too late to patch ssl.
    create_urllib3_context()
    job = {"process_id": int(environ["PATH_INFO"][1:])}
    answer = requests.post(URL, json=job, headers=HEADERS, timeout=30)
    start_response("200 OK", [("Content-Type", "text/plain")])
    status = answer.json().get("current_status")
    return [f"{job['process_id']} {answer.status_code} {status}".encode()]
