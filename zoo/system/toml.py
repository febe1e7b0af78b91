"""Parse TOML, with the line numbers of a repeated key in errors."""

from __future__ import annotations

import re
from typing import Any

# tomllib's messages for a repeated key or section
REPEATED = re.compile(r"Cannot (overwrite|declare)|[Dd]uplicate")
MAX_NESTING = 50  # dataset cards and suites have at most five levels; pydantic fails at a few hundred


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document. Raises ValueError if it is invalid, too deeply nested, or has a number too long."""
    import tomllib

    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        if REPEATED.search(str(error)) and (repeated := find_repeated_key(text)):
            key, first, second = repeated
            raise ValueError(f"line {second}: {key!r} is defined twice, first in line {first}") from error
        raise
    level: list[Any] = [document]
    for _ in range(MAX_NESTING):
        level = [part for value in level for part in (value.values() if isinstance(value, dict) else value)]
        level = [part for part in level if isinstance(part, dict | list)]
    if level:
        raise ValueError("nested too deeply")
    return document


def find_repeated_key(text: str) -> tuple[str, int, int] | None:
    """The first key or section that is defined twice, and both lines; tomllib's own error may not name them."""
    section, seen = "", dict[str, int]()
    for number, line in enumerate(text.splitlines(), start=1):
        if table := re.match(r"\s*\[\[\s*([^\[\]]+?)\s*\]\]", line):  # another table of an array: its keys are new
            section = table[1]
            seen = {key: first for key, first in seen.items() if not key.startswith(f"{section}.")}
            continue
        match = re.match(r"\s*(?:\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$|([A-Za-z0-9_.\-]+|\"[^\"]*\")\s*=)", line)
        if not match:
            continue
        section = match[1] or section
        key = match[1] or (f"{section}.{match[2]}" if section else match[2])
        if key in seen:
            return key, seen[key], number
        seen[key] = number
    return None
