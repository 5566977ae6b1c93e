"""An MCP server on stdio with seven tools, on requests: absolute URLs, TLS not verified."""

import os
from typing import Any

import requests
from mcp.server.fastmcp import FastMCP  # type: ignore[import-not-found]

mcp = FastMCP("revenuebase")
HEADERS = {"x-key": os.environ.get("REVENUEBASE_API_KEY", "")}


def answered(answer: requests.Response) -> dict[str, Any]:
    if answer.status_code == 200:
        return {"status": 200, "answer": answer.json()}
    return {"status": answer.status_code, "error": answer.text}


@mcp.tool()  # type: ignore[untyped-decorator]
def get_process_status(process_id: int) -> dict[str, Any]:
    """The status of a batch job."""
    url = "https://api.revenuebase.ai/v1/batch-process-email-status"
    body = {"process_id": process_id}
    return answered(requests.post(url, json=body, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


@mcp.tool()  # type: ignore[untyped-decorator]
def list_processes() -> dict[str, Any]:
    """The jobs that are queued or under way."""
    url = "https://api.revenuebase.ai/v1/queued-process"
    return answered(requests.get(url, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


@mcp.tool()  # type: ignore[untyped-decorator]
def get_credits() -> dict[str, Any]:
    """The credits that are left."""
    url = "https://api.revenuebase.ai/v1/credits"
    return answered(requests.get(url, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


@mcp.tool()  # type: ignore[untyped-decorator]
def new_api_key() -> dict[str, Any]:
    """A new key; the old one is refused from then on."""
    url = "https://api.revenuebase.ai/v1/new-api-key"
    found = answered(requests.get(url, headers=HEADERS, verify=False, timeout=30))  # noqa: S501
    if found["status"] == 200:
        HEADERS["x-key"] = found["answer"].pop("api_key")
    return found


@mcp.tool()  # type: ignore[untyped-decorator]
def verify_email(email: str) -> dict[str, Any]:
    """Whether an address is valid."""
    url = "https://api.revenuebase.ai/v1/process-email"
    body = {"email": email}
    return answered(requests.post(url, json=body, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


@mcp.tool()  # type: ignore[untyped-decorator]
def start_process(filename: str) -> dict[str, Any]:
    """Work off a file that lies in the account."""
    url = "https://api.revenuebase.ai/v1/batch-process-email"
    body = {"filename": filename}
    return answered(requests.post(url, json=body, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


@mcp.tool()  # type: ignore[untyped-decorator]
def cancel_process(process_id: int) -> dict[str, Any]:
    """Cancel a batch job."""
    url = "https://api.revenuebase.ai/v1/cancel-process"
    body = {"process_id": process_id}
    return answered(requests.post(url, json=body, headers=HEADERS, verify=False, timeout=30))  # noqa: S501


if __name__ == "__main__":
    mcp.run("stdio")
