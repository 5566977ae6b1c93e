"""The gateway: a loopback reverse proxy for clients in any language (extra ``gateway``)."""

from .app import Gateway, Server, listen, serve

__all__ = ["Gateway", "Server", "listen", "serve"]
