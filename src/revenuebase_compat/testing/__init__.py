"""Room: for tests and for trying out: the vendor's API on loopback, and a pytest plugin.

May import: ``client``, ``core``, and what the extra ``sandbox`` brings.
"""
