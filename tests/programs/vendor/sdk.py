"""An integration on the vendor's SDK, as code for one of its releases would have it.

    sdk.py RELEASE [--async] credits verify=a@acme.com upload status=@ list cancel=@ download=7

``@`` is the job uploaded last, ``verify+`` asks for metadata. Each answer is printed as a JSON
line, and so is what the SDK raised; a new key is used, never printed.
"""

import asyncio
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Generator
from functools import partial
from operator import attrgetter
from typing import Any

import revenuebase_sdk as sdk  # type: ignore[import-not-found]

OF_0_2 = {
    "credits": "v1.get_credits",
    "rotate": "v1.rotate_api_key",
    "verify": "v1.process_email",
    "upload": "v1.batch_upload",
    "start": "v1.batch_start",
    "status": "v1.get_batch_status",
    "list": "v1.list_queued",
    "cancel": "v1.cancel_batch",
    "download": "v1.download_batch",
}
CALLS = {
    "0.1.0": {
        "credits": "user_operations.get_credits",
        "rotate": "user_operations.rotate_api_key",
        "verify": "email_processing.validate_email",
        "upload": "email_processing.batch_upload",
        "start": "email_processing.batch_start",
        "status": "email_processing.get_batch_status",
        "list": "email_processing.list_queued",
        "cancel": "email_processing.cancel_batch",
        "download": "email_processing.download_batch",
    },
    "0.2.0": OF_0_2,
    "0.2.1": OF_0_2,
    "0.3.0": {
        "credits": "account.balance",
        "rotate": "account.rotate_api_key",
        "verify": "email.verify",
        "upload": "email.batch_upload",
        "status": "jobs.get",
        "list": "jobs.list",
        "cancel": "jobs.cancel",
        "download": "jobs.download",
    },
}
CSV = b"email\nann@acme.com\nbob@acme.com\n"

release, use_async = sys.argv[1], sys.argv[2] == "--async"
steps = sys.argv[3 if use_async else 2 :]
if release < "0.3":
    from revenuebase_sdk import CreditsResponse as Credits
else:
    from revenuebase_sdk import UsageResponse as Credits
uploaded = 0
if os.environ.get("JOBS_DEBUG"):
    logging.basicConfig(level=logging.DEBUG)


def arguments(name: str, value: str) -> dict[str, Any]:
    if name.startswith("verify"):
        return {"email": value, **({"metadata": True} if name == "verify+" else {})}
    if name == "upload":
        return {"file": io.BytesIO(CSV), "filename": value or "emails.csv"}
    if name == "start":
        return {"filename": value}
    if name in ("status", "cancel", "download"):
        return {"process_id": uploaded if value == "@" else int(value)}
    return {}


def show(step: str, found: Any) -> None:
    global uploaded
    if isinstance(found, sdk.APIError):
        status, body = getattr(found, "status_code", None), getattr(found, "body", None)
        told = {"error": type(found).__name__, "status": status, "body": body}
        print(json.dumps({"step": step, **told}), flush=True)
        return
    if isinstance(found, bytes):
        shown = found.decode()
    elif isinstance(found, sdk.NewKeyResponse):
        shown = f"a key of {len(found.api_key)} characters"
    else:
        shown = json.loads(found.model_dump_json())
    if step.startswith("upload"):
        uploaded = found.process_id
    kind = "CreditsResponse" if isinstance(found, Credits) else type(found).__name__
    print(json.dumps({"step": step, "kind": kind, "answer": shown}), flush=True)


def work(client: Any) -> Generator[Callable[[], Any], Any, None]:
    for step in steps:
        name, _, value = step.partition("=")
        call = attrgetter(CALLS[release][name.rstrip("+")])(client)
        found = yield partial(call, **arguments(name, value))
        show(step, found)
        if isinstance(found, sdk.NewKeyResponse):
            client = client.with_options(api_key=found.api_key)


def main() -> None:
    with sdk.RevenuebaseClient(max_retries=0) as client:
        calls = work(client)
        call = next(calls, None)
        while call is not None:
            try:
                found = call()
            except sdk.APIError as error:
                found = error
            call = sent(calls, found)


async def main_async() -> None:
    async with sdk.AsyncRevenuebaseClient(max_retries=0) as client:
        calls = work(client)
        call = next(calls, None)
        while call is not None:
            try:
                found = await call()
            except sdk.APIError as error:
                found = error
            call = sent(calls, found)


def sent(calls: Generator[Callable[[], Any], Any, None], found: Any) -> Callable[[], Any] | None:
    try:
        return calls.send(found)
    except StopIteration:
        return None


if use_async:
    asyncio.run(main_async())
else:
    main()
