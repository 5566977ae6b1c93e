"""The HTTP libraries whose requests are moved: the table, and one module for each.

A module holds a call class, which keeps to ``base.LibraryCall``, and the wrappers of the patch
points, each named as what it wraps. It imports nothing of the library: patching runs inside that
library's own import. httpx and httpx2 are reached through httpcore, requests through urllib3,
urllib.request through http.client, the vendor's SDK through all of them.
"""

_HTTPCORE = (
    ("ConnectionPool", "handle_request"),
    ("AsyncConnectionPool", "handle_async_request"),
)

#: Module that is patched → (distribution, supported versions, our module, ((class, attribute), …)).
#: Literals alone: every Python under ``run`` reads this, and most of them never speak HTTP.
LIBRARIES = {
    "httpcore": ("httpcore", ">=0.17,<2", "httpcore", _HTTPCORE),
    "httpcore2": ("httpcore2", ">=2,<3", "httpcore", _HTTPCORE),
    "urllib3.connectionpool": (
        *("urllib3", ">=1.26,<3", "urllib3"),
        (("HTTPConnectionPool", "urlopen"),),
    ),
    "http.client": (
        *("", "", "http_client"),
        (("HTTPConnection", "request"), ("HTTPConnection", "getresponse")),
    ),
    "aiohttp.client": ("aiohttp", ">=3.8,<4", "aiohttp", (("ClientSession", "_request"),)),
    # Names that a release has dropped, see ``sdk_names``.
    "revenuebase_sdk": ("revenuebase-sdk", ">=0.1,<0.4", "", ()),
}
