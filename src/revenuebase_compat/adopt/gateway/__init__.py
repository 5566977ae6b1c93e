"""The gateway: a loopback reverse proxy for clients in any language (extra ``gateway``)."""

try:
    from .app import Gateway
    from .server import Server, listen, serve
except ImportError as error:
    if (error.name or "").partition(".")[0] not in ("h11", "prometheus_client", "uvicorn"):
        raise
    sentence = "the gateway needs an extra: pip install 'revenuebase-compat[gateway]'"
    raise ImportError(sentence) from error

__all__ = ["Gateway", "Server", "listen", "serve"]
