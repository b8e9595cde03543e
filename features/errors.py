"""Owns the one error that a raw feature value can cause."""


class FeatureError(ValueError):
    """A raw value that the schema does not allow.

    `field` names the feature, `message` says what is allowed; both are safe to show to a caller.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message
