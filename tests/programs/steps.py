"""The work of a v1 integration as arguments, for the programs beside this file.

    workflow_requests.py credits verify=a@acme.com upload status=@ list cancel=@ download=7 rotate

``@`` is the job uploaded last, ``verify+`` asks for metadata, and an argument that is a JSON object
is a request as it stands. Each answer is printed as a JSON line; a new key is used, never printed.
"""

import json
import os
import sys
from collections.abc import Awaitable, Callable, Generator
from typing import Any, NamedTuple

KEY = os.environ.get("JOBS_KEY", "rb_test_sandbox")
CSV = b"email\nann@acme.com\nbob@acme.com\n"
BOUNDARY = "--programs-own--"


class Request(NamedTuple):
    """One request, as its library is to send it; ``file`` is (part, name, content, type)."""

    method: str
    url: str
    headers: dict[str, str]
    params: dict[str, str] | None = None
    json: Any = None
    file: tuple[str, str, bytes, str] | None = None


class Answer(NamedTuple):
    """One answer; ``seen`` is the request's method and URL as the library shows them."""

    status: int
    seen: list[str]
    headers: Any
    content: bytes


def parsed(arguments: list[str]) -> Generator[dict[str, Any], Any, None]:
    """Each step as the fields of a ``Request``; what is sent back is the answer's JSON."""
    uploaded = None
    for argument in arguments:
        name, _, value = argument.partition("=")
        job = {"process_id": uploaded if value == "@" else int(value) if value.isdigit() else value}
        if argument.startswith("{"):
            yield json.loads(argument)
        elif name in ("verify", "verify+"):
            metadata = {"params": {"metadata": "true"}} if name == "verify+" else {}
            yield {"path": "/v1/process-email", "json": {"email": value}, **metadata}
        elif name == "upload":
            file = ("requested_file", value or "emails.csv", CSV, "text/csv")
            answer = yield {"path": "/v1/batch-upload", "file": file}
            uploaded = answer.get("process_id")
        elif name == "start":
            yield {"path": "/v1/batch-process-email", "json": {"filename": value}}
        else:
            calls: dict[str, dict[str, Any]] = {
                "credits": {"method": "GET", "path": "/v1/credits"},
                "rotate": {"method": "GET", "path": "/v1/new-api-key"},
                "list": {"method": "GET", "path": "/v1/queued-process"},
                "status": {"path": "/v1/batch-process-email-status", "json": job},
                "cancel": {"path": "/v1/cancel-process", "json": job},
                "download": {"path": "/v1/batch-download", "json": job},
            }
            yield calls[name]


def workflow(arguments: list[str]) -> Generator[Request, Answer, None]:
    """The requests of these steps, one after the other; what is sent back is each one's answer."""
    if os.environ.get("JOBS_DEBUG"):
        import logging

        logging.basicConfig(level=logging.DEBUG)
    base, key = os.environ.get("JOBS_API", "https://api.revenuebase.ai"), KEY
    steps = parsed(arguments)
    found: Any = None
    for argument in arguments:
        fields = {"method": "POST", **steps.send(found)}
        if "file" in fields:
            part, name, content, kind = fields["file"]
            content = content.encode() if isinstance(content, str) else content
            fields["file"] = (part, name, content, kind)
        url = base + fields.pop("path")
        answer = yield Request(url=url, headers={"x-key": key}, **fields)
        try:
            found = json.loads(answer.content)
        except ValueError:
            found = answer.content.decode("latin-1")
        shown = found
        if isinstance(found, dict) and "api_key" in found:
            key, shown = found["api_key"], {"api_key": f"{len(found['api_key'])} characters"}
        elif not isinstance(found, dict):
            found = {}
        named = answer.headers.get("content-disposition")
        kind = answer.headers.get("content-type")
        print(json.dumps([argument, answer.status, answer.seen, kind, named, shown]), flush=True)


def run(send: Callable[[Request], Answer], arguments: list[str] | None = None) -> None:
    steps = workflow(sys.argv[1:] if arguments is None else arguments)
    request = next(steps, None)
    while request is not None:
        try:
            request = steps.send(send(request))
        except StopIteration:
            break


async def run_async(
    send: Callable[[Request], Awaitable[Answer]], arguments: list[str] | None = None
) -> None:
    steps = workflow(sys.argv[1:] if arguments is None else arguments)
    request = next(steps, None)
    while request is not None:
        try:
            request = steps.send(await send(request))
        except StopIteration:
            break


def target(request: Request) -> str:
    """The URL with its query, for libraries that take no parameters."""
    query = "&".join(f"{name}={value}" for name, value in (request.params or {}).items())
    return request.url + ("?" + query if query else "")


def body(request: Request) -> tuple[bytes | None, dict[str, str]]:
    """The body and all headers, for libraries that know of neither JSON nor forms."""
    if request.file is not None:
        part, name, content, kind = request.file
        head = f'Content-Disposition: form-data; name="{part}"; filename="{name}"\r\n'
        head = f"--{BOUNDARY}\r\n{head}Content-Type: {kind}\r\n\r\n"
        form = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
        return form, {
            **request.headers,
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        }
    if request.json is None:
        return None, request.headers
    return json.dumps(request.json).encode(), {
        **request.headers,
        "Content-Type": "application/json",
    }
