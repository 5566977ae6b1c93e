"""An integration as they are: it cancels jobs by v1, on requests, and its key is in the code."""

import os
import sys

import requests

URL = os.environ["JOBS_API"] + "/v1/cancel-process"
HEADERS = {"x-key": "rb_test_sandbox"}


def cancel(process_id: int) -> str:
    answer = requests.post(URL, json={"process_id": process_id}, headers=HEADERS, timeout=30)
    return f"{process_id} {answer.status_code} {answer.json().get('current_status')}"


def main() -> None:
    for process_id in sys.argv[1:]:
        print(cancel(int(process_id)))


if __name__ == "__main__":
    main()
