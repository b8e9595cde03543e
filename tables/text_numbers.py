"""Reads numbers from the text of a CSV."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE | re.ASCII)
_WITH_COMMA = re.compile(r"[+-]?[\d.,' ]*,[\d.,]+", re.ASCII)


class NoNumberError(ValueError):
    """A text that is no number: its place, and advice on how to write it (or nothing)."""

    def __init__(self, place: int, text: str) -> None:
        super().__init__(text)
        self.place = place
        self.text = text
        comma = _WITH_COMMA.fullmatch(text)
        self.advice = "; numbers are written with a point and without separators, as in 1234.5" if comma else ""


def numbers_of_text(values: pa.Array) -> np.ndarray:
    """Text as float64 `[n]`, the float nearest to it; NaN where missing. Raises NoNumberError for the first other."""
    trimmed = pc.utf8_trim_whitespace(values)
    try:
        return np.asarray(trimmed.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        texts = trimmed.to_pylist()
    for place, text in enumerate(texts):
        if text is not None and not _NUMBER.fullmatch(text):
            raise NoNumberError(place, text)
    return np.array([np.nan if text is None else float(text) for text in texts], dtype=np.float64)
