"""Room: sends. The clients, many jobs at once, notices, and what a process remembers.

May import: ``core``, httpx. Semantics are decided in ``core``; what stands here does I/O.
Nothing is imported from here on purpose: the public names are those of ``revenuebase_compat``.
"""
