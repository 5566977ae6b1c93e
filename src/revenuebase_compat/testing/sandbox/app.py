"""The vendor's operations on both versions, as a FastAPI app made of the table of endpoints.

Names are the vendor's throughout: FastAPI makes the vendor's OpenAPI document out of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Annotated, Any
from urllib.parse import quote

import python_multipart  # noqa: F401 (FastAPI needs it, and would say so less clearly)
from fastapi import Depends, FastAPI, Query, Request, Security, UploadFile
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BaseModel, Field, create_model
from pydantic_core import PydanticCustomError

from revenuebase_compat.core.endpoints import ENDPOINTS

from .jobs import ACTIVE, CANCELLED, ENDED, MEDIA_TYPES, Job, extension, result_file


def _valid(address: str) -> str:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s.]+", address):
        reason = {"reason": "It has no form such as name@example.com."}
        raise PydanticCustomError("value_error", "value is not a valid email address", reason)
    return address


EmailAddress = Annotated[str, AfterValidator(_valid), Field(json_schema_extra={"format": "email"})]
Metadata = Annotated[bool, Query(description="Include detailed metadata")]


class RealTimeEmailRequest(BaseModel):
    email: EmailAddress


class BatchEmailRequest(BaseModel):
    filename: str


class BatchEmailStatusRequest(BaseModel):
    process_id: int


class Process(BaseModel):
    process_id: int
    filename: str
    status: str
    message: str
    last_updated: datetime


def _answer(name: str, **fields: Any) -> Any:
    required: Any = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, **required)


_NAMES: dict[str, Any] = {"process_id": int, "filename": str}
UPLOADED = _answer("BatchEmailResponse", **_NAMES, status=str)
STATUS = _answer("BatchEmailStatusResponse", **_NAMES, current_status=str, message=str)

#: By the names of the table of endpoints: the vendor's name on v2, and what it answers.
OPERATIONS: dict[str, tuple[str, Any]] = {
    "credits": ("get_usage", _answer("UsageResponse", credits=int)),
    "rotate_key": ("rotate_api_key", _answer("NewKeyResponse", api_key=str)),
    "verify": ("verify_email", Any),
    "upload": ("verify_email_batch", UPLOADED),
    "start": ("batch_process_email", UPLOADED),
    "list": ("list_jobs", _answer("QueuedProcessesResponse", processes=list[Process])),
    "status": ("get_job", STATUS),
    "cancel": ("cancel_job", STATUS),
    "download": ("download_job", Any),
}
#: The one answer that v1 has by another name.
V1_MODELS: dict[str, Any] = {"credits": _answer("CreditsResponse", credits=int)}


#: Where the code of a 400 stands is not published: forms that were seen or are plausible, by name.
#: ``vendor``, that of the vendor's SDK's tests, is ``message-prose`` on v1 and ``message`` on v2.
ENVELOPES: dict[str, Callable[[str, str], Any]] = {
    "detail-error": lambda code, message: {"detail": {"error": code, "message": message}},
    "detail-code": lambda code, message: {"detail": {"code": code, "message": message}},
    "detail": lambda code, message: {"detail": code},
    "detail-prose": lambda code, message: {"detail": message},
    "error": lambda code, message: {"error": code, "message": message},
    "code": lambda code, message: {"detail": message, "code": code},
    "message": lambda code, message: {"message": code or message},
    "message-prose": lambda code, message: {"message": message},
    "problem": lambda code, message: {  # RFC 9457
        "type": f"https://api.revenuebase.ai/errors/{code}",
        "title": "Bad Request",
        "status": 400,
        "detail": message,
    },
}
ENVELOPE_NAMES = (*ENVELOPES, "vendor")


class Refused(Exception):
    """An error answer: its status, its code or ``""``, and words."""


class Api:
    """What the operations do with a ``Sandbox``, each by the vendor's name of it on v2.

    Those that read whole files are no coroutines: FastAPI gives each a thread.
    """

    def __init__(self, sandbox: Any) -> None:
        self.sandbox = sandbox

    def find(self, process_id: int) -> Job:
        job: Job | None = self.sandbox.jobs.get(process_id)
        if job is None:
            raise Refused(400, "", "Invalid process_id or job does not belong to your account.")
        return job

    async def get_usage(self) -> Any:
        _ = self.sandbox.jobs  # those that have ended meanwhile are charged for
        return {"credits": self.sandbox.credits}

    async def rotate_api_key(self) -> Any:
        return {"api_key": self.sandbox.rotate_key()}

    async def verify_email(self, body: RealTimeEmailRequest, metadata: Metadata = False) -> Any:
        if self.sandbox.credits < 1:
            raise Refused(402, "", "Insufficient credits. Recharge your account before retrying.")
        verdict = self.sandbox.judge(body.email, metadata)
        self.sandbox.credits -= verdict["status"] != "Unknown"
        return {"email": body.email, **verdict}

    def verify_email_batch(self, requested_file: UploadFile, metadata: Metadata = False) -> Any:
        name = requested_file.filename or ""
        if not extension(name):
            raise Refused(400, "invalid_extension", "File must be `.csv` or `.json`.")
        if not requested_file.size:
            raise Refused(400, "upload_error", "File upload failed. Contact support.")
        job = self.sandbox.upload(name, requested_file.file, metadata)
        return _facts(job) | {"status": "PROCESSING QUEUED"}

    def batch_process_email(self, body: BatchEmailRequest, metadata: Metadata = False) -> Any:
        known = {job.filename: job.content for job in [*self.sandbox.jobs.values()]}
        if body.filename not in known:
            raise Refused(400, "", "File not found.")
        job = self.sandbox.start(body.filename, known[body.filename], metadata)
        return _facts(job) | {"status": "PROCESSING QUEUED"}

    async def list_jobs(self) -> Any:
        jobs = [*self.sandbox.jobs.values()]
        return {"processes": [_facts(job) for job in jobs if job.status in ACTIVE]}

    async def get_job(self, process_id: int) -> Any:
        return _facts(self.find(process_id))

    async def cancel_job(self, process_id: int) -> Any:
        job = self.find(process_id)
        if job.status in CANCELLED:
            raise Refused(400, "already_cancelled", "Job is already cancelled.")
        if job.status in ENDED:
            message = f"Job has status {job.status} and cannot be cancelled."
            raise Refused(400, "not_cancellable", message)
        return _facts(self.sandbox.cancel(job))

    async def download_job(self, process_id: int) -> Any:
        job = self.find(process_id)
        if job.status == "ERROR":
            raise Refused(400, "process_error", "Job ended with an error.")
        if job.status not in ("COMPLETED", "CANCELLED"):
            message = f"Job must be COMPLETED or CANCELLED before downloading, and is {job.status}"
            raise Refused(400, "not_completed", message)
        # RFC 6266: a name that needs quoting is given in its encoded form.
        quoted = quote(job.filename, safe=" ")
        name = f'="{quoted}"' if quoted == job.filename else f"*=utf-8''{quote(job.filename)}"
        return StreamingResponse(
            result_file(job, self.sandbox.judge),
            media_type=MEDIA_TYPES[extension(job.filename) or ".csv"],
            headers={"content-disposition": f"attachment; filename{name}"},
        )


Key = Annotated[str | None, Security(APIKeyHeader(name="x-key", auto_error=False))]


def build_app(sandbox: Any) -> FastAPI:
    """The app before a sandbox's account; the sunset, faults and limits come before it."""

    async def authenticate(key: Key) -> None:
        if key != sandbox.api_key:
            raise Refused(401, "", "Not authenticated")

    app = FastAPI(title="RevenueBase sandbox", dependencies=[Depends(authenticate)])
    api = Api(sandbox)

    @app.exception_handler(Refused)
    async def refuse(request: Request, refused: Any) -> JSONResponse:
        status, code, message = refused.args
        envelope = sandbox.envelope
        if envelope == "vendor":
            envelope = "message-prose" if request.url.path.startswith("/v1/") else "message"
        # Only those in "message" hold errors that have no code, too.
        coded = code or envelope in ("message", "message-prose")
        body = ENVELOPES[envelope](code, message) if coded else {"detail": message}
        problem = "application/problem+json" if envelope == "problem" else None
        return JSONResponse(body, status, media_type=problem)

    for endpoint in ENDPOINTS:
        name, model = OPERATIONS[endpoint.name]
        operation = getattr(api, name)
        app.add_api_route(
            endpoint.path,
            _by_body(operation) if endpoint.names_job else operation,
            methods=[endpoint.method],
            name=endpoint.path.removeprefix("/v1/").replace("-", "_"),
            response_model=V1_MODELS.get(endpoint.name, model),
            deprecated=True,
        )
        if endpoint.v2_path and endpoint.v2_method:
            methods = [endpoint.v2_method]
            app.add_api_route(endpoint.v2_path, operation, methods=methods, response_model=model)
    return app


def _by_body(operation: Callable[[int], Any]) -> Callable[..., Any]:
    async def by_body(body: BatchEmailStatusRequest) -> Any:
        return await operation(body.process_id)

    return by_body


def _facts(job: Job) -> dict[str, Any]:
    """All that any answer says of a job; FastAPI keeps what the operation's answer has."""
    return {
        "process_id": job.process_id,
        "filename": job.filename,
        "status": job.status,
        "current_status": job.status,
        "message": f"Job is {job.status.lower()}.",
        "last_updated": job.since.astimezone(timezone.utc).replace(tzinfo=None, microsecond=0),
    }
