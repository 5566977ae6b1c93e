"""Other people's v1 requests, moved: for integrations that were written against v1 and stay so.

.. code-block:: python

    from revenuebase_compat import adopt

    adopt.install()  # or, with no line changed:  revenuebase-compat run -- python app.py

``rewrite`` is the pure part: what is recognised, what becomes of it. ``patches`` lays it under
the HTTP libraries of this process, ``gateway`` before the API for clients elsewhere, ``runner``
and ``start`` switch it on from outside. For applications, not for libraries.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing would cost 3 ms of every start-up under `run`
if TYPE_CHECKING:
    from .interceptor import install, uninstall

__all__ = ["install", "uninstall"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import interceptor

        return getattr(interceptor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
