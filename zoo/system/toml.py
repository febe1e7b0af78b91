"""Parse TOML with the place of a repeated key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from zoo.system.files import REPEATED

MAX_NESTING = 50  # no card and no suite is deeper than five; pydantic gives up at some hundreds


def parse_toml(text: str) -> dict[str, Any]:
    """A TOML document. ValueError where it is none, is nested too deep, or has a number of thousands of digits."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        if REPEATED.search(str(error)) and (repeated := find_repeated_key(text)):
            key, first, second = repeated
            raise ValueError(f"line {second}: {key!r} is given twice, first in line {first}") from error
        raise
    level: list[Any] = [document]
    for _ in range(MAX_NESTING):
        level = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise ValueError("nested too deep")
    return document


def find_repeated_key(text: str) -> tuple[str, int, int] | None:
    """The first key or section that a TOML text gives twice, and both lines; the parser's own error may name none."""
    section, seen = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]", line):  # one more table of a list: its keys are new
            section = table[1]
            seen = {key: first for key, first in seen.items() if not key.startswith(f"{section}.")}
            continue
        found = re.match(r"\s*(?:\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$|([A-Za-z0-9_.\-]+|\"[^\"]*\")\s*=)", line)
        if not found:
            continue
        section = found[1] or section
        key = found[1] or (f"{section}.{found[2]}" if section else found[2])
        if key in seen:
            return key, seen[key], number
        seen[key] = number
    return None
