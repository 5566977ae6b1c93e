"""Room: decides and understands. Pure: no sockets, clock, environment or httpx.

May import: the standard library, ``packaging``, ``dateutil``; no other room. A version is chosen in
``routing``, the protocol of one call is the generator in ``cancellation``.
"""
