"""Format plain data as lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zoo.errors import clean

LONG = 40  # characters; a list with a longer item has one item per line
SENTENCES = frozenset({"notes", "known_issues"})  # lists that always have one item per line


def table_lines(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of plain text. perf: without a library, so that a list of 1,300 models is instant."""
    if not items:
        return []
    columns = list(dict.fromkeys(name for item in items for name in item if name != "title"))
    if any(item.get("title") for item in items):
        columns.append("title")
    cells = [[cell(item.get(column)) for column in columns] for item in items]
    widths = [min(40, max(len(column), *(len(row[i]) for row in cells))) for i, column in enumerate(columns)]
    rows = [columns, *cells]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return (
            ", ".join(map(clean, value))
            if len(value) <= 4
            else f"{', '.join(map(clean, value[:3]))} and {len(value) - 3} more"
        )
    return clean(value)


def to_text(described: Mapping[str, Any], indent: str = "") -> str:
    """Format a mapping as `name: value` lines, nested by indentation."""
    lines = []
    for key, value in described.items():
        name = clean(key)
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", to_text(value, indent + "  ")] if value else []
        elif isinstance(value, list | tuple) and value and all(isinstance(part, Mapping) for part in value):
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  - " + "; ".join(f"{k} {cell(v)}" for k, v in item.items()) for item in value]
        elif isinstance(value, list | tuple) and (key in SENTENCES or any(len(str(part)) > LONG for part in value)):
            lines += [f"{indent}{name}:", *(f"{indent}  - {clean(part)}" for part in value)]
        elif isinstance(value, list | tuple):
            lines.append(f"{indent}{name}: {', '.join(clean(part) for part in value)}")
        else:
            lines.append(f"{indent}{name}: {'-' if value is None else clean(value)}")
    return "\n".join(lines)


def join_names(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
