"""The gateway: a loopback reverse proxy for clients in any language (extra ``gateway``)."""

from revenuebase_compat.client.extras import missing_extra

try:
    from .app import Gateway
    from .server import Server, listen, serve
except ImportError as error:
    raise missing_extra("the gateway", "gateway", error) from error

__all__ = ["Gateway", "Server", "listen", "serve"]
