"""A celery application whose worker, once it is up, is asked to work off a batch, on requests."""

import os

import requests
from celery import Celery  # type: ignore[import-not-found]
from celery.signals import worker_ready  # type: ignore[import-not-found]

API = os.environ["JOBS_API"]
CSV = b"email\nann@acme.com\nbob@acme.com\n"

# What a task delays must reach the worker's main process: not by its memory.
app = Celery("batches", broker="filesystem://")
folder = {"data_folder_in": os.environ["JOBS_QUEUE"], "data_folder_out": os.environ["JOBS_QUEUE"]}
app.conf.broker_transport_options = folder
session = requests.Session()
session.headers["x-key"] = "rb_test_sandbox"


def say(*words: object) -> None:
    os.write(2, f"batch: {' '.join(map(str, words))}\n".encode())


@app.task  # type: ignore[untyped-decorator]
def work_off() -> None:
    before = session.get(f"{API}/v1/credits", timeout=30)
    files = {"requested_file": ("emails.csv", CSV, "text/csv")}
    answer = session.post(f"{API}/v1/batch-upload", files=files, timeout=30)
    job = {"process_id": answer.json().get("process_id")}
    say(before.status_code, answer.status_code, answer.json().get("status"))
    poll.delay(job, 50)


@app.task  # type: ignore[untyped-decorator]
def poll(job: dict[str, int], left: int) -> None:
    answer = session.post(f"{API}/v1/batch-process-email-status", json=job, timeout=30)
    status = answer.json().get("current_status")
    if left and status in ("QUEUED", "PROCESSING"):
        poll.apply_async((job, left - 1), countdown=0.05)
        return
    found = session.post(f"{API}/v1/batch-download", json=job, timeout=30)
    say("done", answer.status_code, status, found.status_code, *found.text.split())


@worker_ready.connect  # type: ignore[untyped-decorator]
def ask(**_: object) -> None:
    work_off.delay()
