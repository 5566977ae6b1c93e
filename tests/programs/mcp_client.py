"""Starts an MCP server, and calls its tools by the protocol's own client.

    mcp_client.py '[["get_credits", {}], …]' COMMAND…

Prints the names of the tools, then a line for each call; whatever else came over stdout is raised.
"""

import asyncio
import json
import os
import sys
from typing import Any

from mcp import ClientSession, StdioServerParameters  # type: ignore[import-not-found]
from mcp.client.stdio import stdio_client  # type: ignore[import-not-found]

strange: list[str] = []


async def take(message: Any) -> None:
    """Of a line that is no message of the protocol, the client makes an exception."""
    if isinstance(message, Exception):
        strange.append(repr(message))


async def main(calls: list[Any], command: list[str]) -> None:
    server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    async with stdio_client(server) as (reading, writing):
        async with ClientSession(reading, writing, message_handler=take) as session:
            await session.initialize()
            tools = await session.list_tools()
            print(json.dumps(sorted(tool.name for tool in tools.tools)))
            for name, arguments in calls:
                result = await session.call_tool(name, arguments)
                print(json.dumps([name, result.isError, json.loads(result.content[0].text)]))
            await session.send_ping()
    if strange:
        raise SystemExit(f"not of the protocol: {strange}")


asyncio.run(asyncio.wait_for(main(json.loads(sys.argv[1]), sys.argv[2:]), 50))
