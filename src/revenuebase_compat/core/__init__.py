"""Room: decides and understands. Pure: no sockets, clock, environment or httpx.

May import: the standard library, ``packaging``, ``dateutil``; no other room.
"""
