"""The pure room: versions, wire forms, settings, routing, results, errors and the flow.

Nothing in here opens a socket, reads a clock or the environment, or imports httpx or
anything above this package. What the world has to say comes in as arguments, or is sent
into the generators. Change semantics here; change I/O in ``client`` and ``transport``.
"""
