"""The error of a batch run that cannot begin or go on."""


class BatchError(Exception):
    """A batch run that cannot be done as given; the message says why. Partitions that are complete stay."""
