"""The gateway: a loopback reverse proxy for clients in any language (extra ``gateway``)."""

try:
    import h11  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as error:
    from revenuebase_compat.client.extras import missing_extra

    raise missing_extra("the gateway", "gateway", error) from error

from .app import Gateway
from .server import Server, listen, serve

__all__ = ["Gateway", "Server", "listen", "serve"]
