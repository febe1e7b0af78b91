"""Named choices of protocols: what the specs of losses, samplings and transforms share, and how they are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import UsageError

CHOICE_TEXT = re.compile(r"[^,()]+(?:\([^()]*\))?")
CHOICE_LIST = re.compile(rf"{CHOICE_TEXT.pattern}(?:,{CHOICE_TEXT.pattern})*")
CALL = re.compile(r"([^()\s]+)(?:\(([^()]*)\))?")


@dataclass(frozen=True, kw_only=True)
class ChoiceSpec:
    """A part of a recipe that a protocol names in one of its fields, such as `loss="focal"` or `"focal(gamma=1)"`.

    The identity of a run has the plugin, name, version and options of each choice that is not the default: raise
    `version` when an outcome changes.
    """

    name: str
    title: str = ""
    version: int = 1
    citation: str = ""
    options: Mapping[str, float] = field(default_factory=dict)  # its numbers, with their defaults
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # least and greatest value of an option
    tasks: tuple[str, ...] = ()  # the names of the tasks that it serves; (): all


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A spec with the options that a protocol gives it. Choices of one identity are equal."""

    spec: Any  # a ChoiceSpec
    plugin: str = ""  # the distribution that registers it
    options: Mapping[str, float] = field(default_factory=dict)  # all of the spec's

    @property
    def identity(self) -> str:
        """`zoo-bench:focal@1(gamma=2)`: what determines the outcome."""
        return format_choice(f"{self.plugin}:{self.spec.name}@{self.spec.version}", self.options)

    def describe(self) -> dict[str, Any]:
        """The choice as plain data, for the card of a model."""
        return {
            "plugin": self.plugin,
            "name": self.spec.name,
            "version": self.spec.version,
            "options": dict(self.options),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Choice) and other.identity == self.identity

    def __hash__(self) -> int:
        return hash(self.identity)


def format_choice(name: str, options: Mapping[str, float]) -> str:
    """`focal(gamma=2)`: options by name, each number in its shortest form."""
    texts = ",".join(f"{option}={float(value)!r}".removesuffix(".0") for option, value in sorted(options.items()))
    return f"{name}({texts})" if texts else name


def split_choices(text: str) -> tuple[str, ...]:
    """Split `clahe(clip=2,tiles=4),cutout` at the commas outside parentheses; an invalid text stays whole."""
    return tuple(part.strip() for part in CHOICE_TEXT.findall(text)) if CHOICE_LIST.fullmatch(text) else (text,)


def parse_choice(text: str) -> tuple[str, dict[str, float]]:
    """Parse `NAME` or `NAME(option=number,...)`. Raises UsageError."""
    match = CALL.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        pairs = [part.split("=") for part in (match[2] or "").split(",") if part.strip()]
        options = {name.strip(): float(number) for name, number in pairs}
        if len(options) < len(pairs) or not all(map(math.isfinite, options.values())):
            raise ValueError
        return match[1], options
    except ValueError:
        raise UsageError(
            f"{text!r}: expected a name, or a name with numbers, each given once, such as focal(gamma=1)",
            fix="correct the protocol or --set",
            code="bad-protocol",
        ) from None
