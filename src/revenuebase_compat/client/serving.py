"""What the gateway and the sandbox share: a listening socket, and uvicorn in front of an app."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; ``port`` 0 takes a free one.

    Raises:
        OSError: the port is taken, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.create_server((host, port), family=family)
    # asyncio overlooks a socket made this way, and Nagle then delays every answer by 40 ms.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def make_config(app: Callable[..., Any], http: Any = "h11", **options: Any) -> uvicorn.Config:
    """For a server that writes nothing by itself and adds no headers; ``options`` are uvicorn's."""
    return uvicorn.Config(
        app,
        interface="asgi3",
        http=http,  # h11 refuses more than httptools
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,  # X-Forwarded-For would hide who is connected
        server_header=False,
        date_header=False,
        **options,
    )
