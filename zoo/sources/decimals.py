"""Parse numbers in tables, with a decimal point or a decimal comma."""

from __future__ import annotations

import re
from collections.abc import Iterable

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
MAYBE_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # 0,123 is a decimal comma


def to_number(text: str) -> float | None:
    """Return the number in a cell, or None if it is not a number."""
    try:
        return float(text.replace(",", ".") if DECIMAL_COMMA.fullmatch(text) else text)
    except ValueError:
        return None


def find_ambiguous_comma(texts: Iterable[str]) -> str:
    """Return the first cell of a column whose comma may separate thousands; "" if another cell rules that out."""
    with_comma = [text for text in texts if DECIMAL_COMMA.fullmatch(text)]
    return with_comma[0] if with_comma and all(map(MAYBE_THOUSANDS.fullmatch, with_comma)) else ""
