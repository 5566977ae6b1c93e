"""A uvicorn application: ``GET /42`` cancels job 42, on httpx."""

import os
from typing import Any

import httpx

URL = os.environ["JOBS_API"] + "/v1/cancel-process"
HEADERS = {"x-key": "rb_test_sandbox"}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    job = {"process_id": int(scope["path"][1:])}
    async with httpx.AsyncClient(headers=HEADERS, timeout=30) as client:
        answer = await client.post(URL, json=job)
    status = answer.json().get("current_status")
    text = f"{job['process_id']} {answer.status_code} {status}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
