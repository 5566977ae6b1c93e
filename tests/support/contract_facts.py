"""What RevenueBase publishes about the cancel API, restated so that the tests need nothing else.

Types are written short: `[string|integer]` is an array of either, `any` says nothing, and the name
of another schema stands for itself.
"""

from typing import NamedTuple

API_KEY_HEADER = "x-key"
SECURITY_SCHEMES = {"APIKeyHeader": ("apiKey", "header", API_KEY_HEADER)}
RATE_LIMIT_A_MINUTE = 60
JOB_STATUSES = ("QUEUED", "PROCESSING", "COMPLETED", "ERROR", "CANCELLING", "CANCELLED")


class Operation(NamedTuple):
    operation_id: str
    deprecated: bool
    parameters: tuple[tuple[str, str, str, bool], ...]  # name, place, type, required
    body: str | None  # of a required JSON body
    answers: dict[str, str]
    security: tuple[str, ...]


class Schema(NamedTuple):
    properties: dict[str, str]
    required: frozenset[str]


PROCESS_ID_IN_PATH = (("process_id", "path", "integer", True),)
ANSWERS = {"200": "BatchEmailStatusResponse", "422": "HTTPValidationError"}

OPERATIONS = {
    ("post", "/v1/cancel-process"): Operation(
        operation_id="cancel_process_v1_cancel_process_post",
        deprecated=True,
        parameters=(),
        body="BatchEmailStatusRequest",
        answers=ANSWERS,
        security=("APIKeyHeader",),
    ),
    ("get", "/v2/jobs/{process_id}"): Operation(
        operation_id="get_job_v2_jobs__process_id__get",
        deprecated=False,
        parameters=PROCESS_ID_IN_PATH,
        body=None,
        answers=ANSWERS,
        security=("APIKeyHeader",),
    ),
    ("post", "/v2/jobs/{process_id}/cancel"): Operation(
        operation_id="cancel_job_v2_jobs__process_id__cancel_post",
        deprecated=False,
        parameters=PROCESS_ID_IN_PATH,
        body=None,
        answers=ANSWERS,
        security=("APIKeyHeader",),
    ),
}

# Real clients call it, but no published document describes it.
UNDOCUMENTED = {("post", "/v1/batch-process-email-status")}

FOUR_FIELDS = {
    "process_id": "integer",
    "filename": "string",
    "current_status": "string",
    "message": "string",
}

SCHEMAS = {
    "BatchEmailStatusRequest": Schema({"process_id": "integer"}, frozenset({"process_id"})),
    "BatchEmailStatusResponse": Schema(FOUR_FIELDS, frozenset(FOUR_FIELDS)),
    "HTTPValidationError": Schema({"detail": "[ValidationError]"}, frozenset()),
    "ValidationError": Schema(
        {
            "loc": "[string|integer]",
            "msg": "string",
            "type": "string",
            "input": "any",
            "ctx": "object",
        },
        frozenset({"loc", "msg", "type"}),
    ),
}

# Older FastAPIs send these two just the same, but leave them out of the document.
UNTOLD_BY_OLD_FASTAPI = {"input", "ctx"}
