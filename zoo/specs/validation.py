"""Validate a plugin's spec and return the first invalid field."""

from __future__ import annotations

import dataclasses
import re
import reprlib
from collections.abc import Callable, Mapping
from functools import cache, partial
from math import inf
from types import FunctionType, SimpleNamespace, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from zoo.specs.dataset import DatasetSpec
from zoo.specs.model import Weights
from zoo.specs.protocol import MAX_VALUES, POSITIVE, Protocol

# Names that zoo.specs imports for type checkers only: no value is compared with these.
TYPE_CHECKING_NAMES = {"nn": SimpleNamespace(Module=object, Parameter=object), "Tensor": object, "Array": object}
HASH_START = re.compile("[0-9a-f]{0,64}")
# Conditions beyond the type of a field, and their wording.
RULES: dict[tuple[type, str], tuple[Callable[[Any], bool], str]] = {
    (DatasetSpec, "task"): (bool, " such as zoo.BINARY"),
    (DatasetSpec, "labels"): (lambda labels: len(set(labels)) == len(labels), ", each once"),
    (DatasetSpec, "channels"): ((1, 3).__contains__, ", 1 or 3"),
    (DatasetSpec, "intensity"): (lambda levels: levels is None or is_range(levels), ", finite, the lower one first"),
    (Weights, "sha256"): (lambda text: bool(HASH_START.fullmatch(text)), " of up to 64 lower-case hexadecimal digits"),
}


class Rule(NamedTuple):
    """The valid values of one field."""

    name: str
    default: Any
    plain: frozenset[type]  # values of these types are valid without further checks
    items: frozenset[type]  # and so are tuples of these
    fits: Callable[[Any], bool]
    expected: str


def find_spec_fault(record: Any, kind: type) -> str:
    """Describe the first invalid field of a record of class `kind`; return "" if all fields are valid."""
    values = vars(record)
    # perf: every command checks the 50,000 fields of 1,500 models: 7 ms
    for name, default, plain, items, fits, expected in rules_of(kind):
        value = values[name]
        if value is default or type(value) in plain or (type(value) is tuple and items.issuperset(map(type, value))):
            continue
        if not fits(value) and not (name == "channels" and has_volumes(record)):
            return f"{name} is {show_value(value)}, expected {expected}"
    return ""


def has_volumes(record: Any) -> bool:
    """Whether a record is a dataset of volumes, which may have any number of channels."""
    return isinstance(record, DatasetSpec) and record.dims == 3 and type(record.channels) is int and record.channels > 0


def show_value(value: object) -> str:
    """A shortened `repr` of a value, even if its own `repr` fails."""
    short = reprlib.Repr()
    short.maxstring = 60
    return short.repr(value)


@cache
def rules_of(kind: type) -> tuple[Rule, ...]:
    """The rules of a dataclass, from its annotations."""
    hints = get_type_hints(kind, localns=TYPE_CHECKING_NAMES)
    return tuple(rule_of(kind, part, hints[part.name]) for part in dataclasses.fields(kind))


def rule_of(kind: type, part: dataclasses.Field[Any], hint: Any) -> Rule:
    holds, condition = RULES.get((kind, part.name), (None, ""))
    if kind is Protocol and part.name in MAX_VALUES:  # the range of `--set`
        least = " above 0" if part.name in POSITIVE else ", 0 or more"
        holds, condition = partial(is_within, part.name), f"{least} and at most {MAX_VALUES[part.name]}"
    several = get_origin(hint) is tuple and get_args(hint)[-1] is ...
    item = get_args(hint)[0] if several else hint
    expected = f"{part.type}{condition}"
    if get_origin(item) is Literal:
        expected = f"{'tuple[str, ...] of' if several else 'one of'} {', '.join(map(str, get_args(item)))}"
    if holds:
        nothing = frozenset[type]()
        return Rule(
            part.name, part.default, nothing, nothing, lambda value: fits_type(hint, value) and holds(value), expected
        )
    items = plain_types(item) if several else frozenset()
    return Rule(part.name, part.default, plain_types(hint), items, partial(fits_type, hint), expected)


def is_range(levels: tuple[float, float]) -> bool:
    return -inf < levels[0] < levels[1] < inf


def is_within(name: str, value: float | tuple[float, ...] | None) -> bool:
    """Whether the number or numbers of a protocol's field are in its range."""
    numbers = value if isinstance(value, tuple) else () if value is None else (value,)
    return all(0 <= number <= MAX_VALUES[name] and (number > 0 or name not in POSITIVE) for number in numbers)


def plain_types(hint: Any) -> frozenset[type]:
    """The types all of whose values match an annotation."""
    if get_origin(hint) in (Union, UnionType):
        return frozenset().union(*map(plain_types, get_args(hint)))
    if get_origin(hint) is Callable:
        return frozenset({FunctionType, partial})
    return frozenset({float, int} if hint is float else {hint} if isinstance(hint, type) else ())


def fits_type(hint: Any, value: Any) -> bool:
    """Whether a value matches an annotation. Subclasses of `str` do not match, because they may override `repr`."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits_type(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if origin is tuple and isinstance(value, tuple):
        kinds = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(kinds) == len(value) and all(map(fits_type, kinds, value))
    if origin is Mapping and isinstance(value, Mapping):
        return all(fits_type(parts[0], key) and fits_type(parts[1], item) for key, item in value.items())
    if origin is Callable:
        return callable(value)
    if hint is float:
        return isinstance(value, float) or type(value) is int
    if hint in (str, int, bool):
        return type(value) is hint
    return hint is Any or (origin is None and isinstance(value, hint))
