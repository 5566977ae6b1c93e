"""Room: other people's v1 requests, moved: for integrations that were written against v1.

.. code-block:: python

    from revenuebase_compat import adopt

    adopt.install()  # or, with no line changed:  revenuebase-compat run -- python app.py

May import: ``client``, ``core``. ``rewrite`` is the pure part, ``interceptor`` applies it to one
request, ``libraries`` know how each library sends, ``patching`` lays them over this process,
``runner``, ``start`` and ``boot`` switch it on from outside; ``gateway`` is a proxy.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing would cost 3 ms of every start-up under `run`
if TYPE_CHECKING:
    from .patching import install, uninstall

__all__ = ["install", "uninstall"]


def __getattr__(name: str) -> object:
    if name in __all__:
        from . import patching

        return getattr(patching, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
