"""Room: the command ``revenuebase-compat``, its commands by what they are for.

May import: every other room. What a command needs is imported when it runs.
"""
