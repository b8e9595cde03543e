"""Defines the error of rules that cannot be used."""

from service.errors import DocumentError


class RulesError(DocumentError):
    """Rules that cannot be used, or do not fit a model. `field` is their place in the document."""

    code = "rules_mismatch"

    def __init__(self, message: str, field: str = "rules") -> None:
        super().__init__(message, field)

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"
