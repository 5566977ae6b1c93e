"""Room: the command ``revenuebase-compat``, one module per command.

May import: every other room. What a command needs is imported when it runs.
"""
