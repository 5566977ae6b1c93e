"""What RevenueBase publishes about its API, restated so that the tests need nothing else.

Types are written short: `[string|integer]` is an array of either, `any` says nothing, and the name
of another schema stands for itself.
"""

from typing import Any, NamedTuple

API_KEY_HEADER = "x-key"
SECURITY_SCHEMES = {"APIKeyHeader": ("apiKey", "header", API_KEY_HEADER)}
RATE_LIMIT_A_MINUTE = 60
JOB_STATUSES = ("QUEUED", "PROCESSING", "COMPLETED", "ERROR", "CANCELLING", "CANCELLED")


class Operation(NamedTuple):
    operation_id: str
    deprecated: bool
    parameters: tuple[tuple[str, str, str, bool], ...]  # name, place, type, required
    body: str | None  # of a required body; JSON unless it says otherwise
    answers: dict[str, str]
    security: tuple[str, ...]


class Schema(NamedTuple):
    properties: dict[str, str]
    required: frozenset[str]


PROCESS_ID = (("process_id", "path", "integer", True),)
METADATA = (("metadata", "query", "boolean", False),)
VALIDATED = {"422": "HTTPValidationError"}
ANSWERS = {"200": "BatchEmailStatusResponse", **VALIDATED}
UPLOAD_BODY = "Body_verify_email_batch_v2_email_verify_batch_post"


def _v2(
    name: str,
    answer: str,
    parameters: tuple[tuple[str, str, str, bool], ...] = (),
    body: str | None = None,
) -> Operation:
    answers = {"200": answer, **(VALIDATED if parameters else {})}
    return Operation(name, False, parameters, body, answers, ("APIKeyHeader",))


#: All of v2 that has to do with verifying, and of v1 what is published whole.
OPERATIONS = {
    ("get", "/v2/account/balance"): _v2("get_usage_v2_account_balance_get", "UsageResponse"),
    ("post", "/v2/account/api-keys/rotate"): _v2(
        "rotate_api_key_v2_account_api_keys_rotate_post", "NewKeyResponse"
    ),
    ("post", "/v2/email/verify"): _v2(
        "verify_email_v2_email_verify_post", "any", METADATA, "RealTimeEmailRequest"
    ),
    ("post", "/v2/email/verify/batch"): _v2(
        "verify_email_batch_v2_email_verify_batch_post",
        "BatchEmailResponse",
        METADATA,
        f"multipart/form-data {UPLOAD_BODY}",
    ),
    ("get", "/v2/jobs"): _v2("list_jobs_v2_jobs_get", "QueuedProcessesResponse"),
    ("get", "/v2/jobs/{process_id}"): _v2(
        "get_job_v2_jobs__process_id__get", "BatchEmailStatusResponse", PROCESS_ID
    ),
    ("post", "/v2/jobs/{process_id}/cancel"): _v2(
        "cancel_job_v2_jobs__process_id__cancel_post", "BatchEmailStatusResponse", PROCESS_ID
    ),
    ("get", "/v2/jobs/{process_id}/download"): _v2(
        "download_job_v2_jobs__process_id__download_get", "any", PROCESS_ID
    ),
    ("post", "/v1/cancel-process"): Operation(
        operation_id="cancel_process_v1_cancel_process_post",
        deprecated=True,
        parameters=(),
        body="BatchEmailStatusRequest",
        answers=ANSWERS,
        security=("APIKeyHeader",),
    ),
}

#: Of the rest of v1 only this is published; what the docs keep to themselves is left out.
PARTLY_PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("get", "/v1/credits"): {"parameters": (), "body": None, "answers": {"200": "CreditsResponse"}},
    ("get", "/v1/new-api-key"): {
        "parameters": (),
        "body": None,
        "answers": {"200": "NewKeyResponse"},
    },
    ("post", "/v1/process-email"): {"parameters": METADATA},
    ("post", "/v1/batch-process-email-status"): {
        "body": "BatchEmailStatusRequest",
        "answers": ANSWERS,
    },
    ("post", "/v1/batch-upload"): {},
    ("post", "/v1/batch-process-email"): {},
    ("get", "/v1/queued-process"): {},
    ("post", "/v1/batch-download"): {},
}

FOUR_FIELDS = {
    "process_id": "integer",
    "filename": "string",
    "current_status": "string",
    "message": "string",
}

SCHEMAS = {
    "BatchEmailStatusRequest": Schema({"process_id": "integer"}, frozenset({"process_id"})),
    "BatchEmailStatusResponse": Schema(FOUR_FIELDS, frozenset(FOUR_FIELDS)),
    "BatchEmailResponse": Schema(
        {"process_id": "integer", "filename": "string", "status": "string"},
        frozenset({"process_id", "filename", "status"}),
    ),
    UPLOAD_BODY: Schema({"requested_file": "string"}, frozenset({"requested_file"})),
    "NewKeyResponse": Schema({"api_key": "string"}, frozenset({"api_key"})),
    "Process": Schema(
        {
            "process_id": "integer",
            "filename": "string",
            "status": "string",
            "message": "string",
            "last_updated": "string",
        },
        frozenset({"process_id", "filename", "status", "message", "last_updated"}),
    ),
    "QueuedProcessesResponse": Schema({"processes": "[Process]"}, frozenset({"processes"})),
    "RealTimeEmailRequest": Schema({"email": "string"}, frozenset({"email"})),
    "UsageResponse": Schema({"credits": "integer"}, frozenset({"credits"})),
    "CreditsResponse": Schema({"credits": "integer"}, frozenset({"credits"})),
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

#: The document of v1 that would name these two is not published whole.
UNPUBLISHED_SCHEMAS = {"BatchEmailRequest", "Body_batch_upload_v1_batch_upload_post"}

#: Formats that the documents name, by schema and property.
FORMATS = {
    ("RealTimeEmailRequest", "email"): "email",
    ("Process", "last_updated"): "date-time",
}

EMAIL_STATUSES = ("Valid", "Invalid", "Unknown")
#: Of an answer with ``metadata=true``.
METADATA_FIELDS = (
    "email",
    "status",
    "domain",
    "timestamp",
    "mx_record_present",
    "mx_record_checked",
    "email_provider",
    "security_gateway",
    "reason",
)

# Older FastAPIs send these two just the same, but leave them out of the document.
UNTOLD_BY_OLD_FASTAPI = {"input", "ctx"}
