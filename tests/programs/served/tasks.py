"""A celery application whose worker, once it is up, is asked to cancel job 42, on requests."""

import os

import requests
from celery import Celery  # type: ignore[import-not-found]
from celery.signals import worker_ready  # type: ignore[import-not-found]

URL = os.environ["JOBS_API"] + "/v1/cancel-process"
HEADERS = {"x-key": "rb_test_sandbox"}

app = Celery("tasks", broker="memory://")


@app.task  # type: ignore[untyped-decorator]
def cancel_job(process_id: int) -> None:
    answer = requests.post(URL, json={"process_id": process_id}, headers=HEADERS, timeout=30)
    status = answer.json().get("current_status")
    os.write(2, f"done by {os.getpid()}: {process_id} {answer.status_code} {status}\n".encode())


@worker_ready.connect  # type: ignore[untyped-decorator]
def ask(**_: object) -> None:
    cancel_job.delay(42)
