"""The error of item vectors that cannot be learnt with the given options."""


class VectorsError(ValueError):
    """An option of the command that does not fit the data; the message names it."""
