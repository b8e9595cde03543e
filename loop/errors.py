"""The error of the loop's commands."""


class LogError(RuntimeError):
    """A log that cannot be used as it was asked for; the message says why and what to do."""
