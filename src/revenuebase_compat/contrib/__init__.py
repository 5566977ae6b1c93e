"""Room: other people's platforms, one module each, each an extra: OpenFeature, OpenTelemetry.

May import: ``client``, ``core``, and the platform. Nothing here is imported by another room.
"""
