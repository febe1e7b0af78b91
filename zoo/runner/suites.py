"""Suites: the models, datasets, protocol and metrics of a bench, from a TOML file or flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_type_hints

from zoo.errors import UsageError, clean, nearest, unknown
from zoo.specs.suite import Suite, suite_keys
from zoo.system.toml import parse_toml

MAX_SEEDS = 10_000
TUNING_SEED = 10_007  # no published suite uses it as a seed


NO_SUITES: Mapping[str, Suite] = {}


def list_suites(registered: Mapping[str, Suite] = NO_SUITES) -> list[str]:
    """The names of the suites that are part of zoo, and of those that plugins register."""
    folder = resources.files("zoo.runner") / "suite_files"
    files = [file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")]
    return sorted({*files, *registered})


def load_suite(name: str, registered: Mapping[str, Suite] = NO_SUITES) -> Suite:
    """Read a suite by name or from a TOML file. Raises UsageError that lists all errors in the file."""
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(
                f"suite {name}: no such file",
                fix="correct the path, or list zoo's own suites with `zoo list suites`",
                code="bad-suite",
            )
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # Windows editors add a byte order mark
    elif name in list_suites():  # before those of plugins, which must not change the meaning of a published suite
        text = (resources.files("zoo.runner") / "suite_files" / f"{name}.toml").read_text(encoding="utf-8")
    elif name in registered:
        return registered[name]
    else:
        raise unknown("suite", name, list_suites(registered))
    try:
        document = parse_toml(text)
    except ValueError as error:
        raise UsageError(f"suite {name}: {error}", fix="correct that line", code="bad-suite") from error
    return parse_suite(document, name)


FILE_TYPES = {tuple[str, ...]: list[str], tuple[tuple[str, str], ...]: dict[str, str], int | None: int}


def file_fields() -> dict[str, Any]:
    """The keys of a suite's file for pydantic: name of the field -> (type, its limits and key)."""
    from pydantic import Field

    types = get_type_hints(Suite)
    schema = (Literal[1], Field(alias="schema"))
    fields: dict[str, Any] = {"schema_version": schema}
    for name, key in suite_keys().items():
        if key.key is not None:
            kind = key.file_type or FILE_TYPES.get(types[name], types[name])
            default = ... if key.required else None
            fields[name] = (kind, Field(default=default, alias=key.key or name, **key.limits))
    return fields


def parse_suite(document: Mapping[str, Any], origin: str) -> Suite:
    from pydantic import ConfigDict, ValidationError, create_model

    fields = file_fields()
    model = create_model("SuiteFile", __config__=ConfigDict(extra="forbid", strict=True), **fields)
    try:
        parsed = model.model_validate(dict(document))
    except ValidationError as error:
        names = [part.alias for _, part in fields.values()]
        messages = []
        for detail in error.errors():
            place = ".".join(str(part) for part in detail["loc"])
            hint = nearest(place, names) if detail["type"] == "extra_forbidden" else ""
            messages.append(f"{place}: {detail['msg']} {hint}".strip())
        raise UsageError(
            f"suite {clean(origin)}: {'; '.join(messages)}", fix="correct these fields", code="bad-suite"
        ) from error
    given = {name: getattr(parsed, name) for name in parsed.model_fields_set - {"schema_version"}}
    return Suite(**{name: from_file(name, value) for name, value in given.items()})


def from_file(name: str, value: Any) -> Any:
    """Convert a value of a suite's file to that of the field."""
    if name == "seeds":
        return parse_seeds(value)
    if name == "settings":  # sorted, because their order does not matter
        return tuple((field, str(text)) for field, text in sorted(value.items()))
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else value


def parse_seeds(seeds: int | Sequence[int] | str) -> tuple[int, ...]:
    """Parse `--seeds`: 3 means seeds 0, 1 and 2; "4,7" means seeds 4 and 7. Raises UsageError if invalid."""
    if isinstance(seeds, str):
        try:
            numbers = [int(part) for part in seeds.split(",")]
        except ValueError:
            raise UsageError(f"--seeds {seeds}: expected a number, or seeds separated by commas") from None
        seeds = numbers if "," in seeds else numbers[0]
    if isinstance(seeds, int) and seeds > MAX_SEEDS:
        raise UsageError(
            f"seeds {str(seeds)[:40]}: expected at most {MAX_SEEDS}", fix="for a single seed use `--seeds 7,`"
        )
    parsed = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    if len(parsed) > MAX_SEEDS or any(seed >= 2**63 for seed in parsed):
        raise UsageError(
            f"seeds {str(seeds)[:40]}: expected at most {MAX_SEEDS}, each below 2**63", fix="use smaller seeds"
        )
    if not parsed or min(parsed) < 0 or len(set(parsed)) != len(parsed) or TUNING_SEED in parsed:
        raise UsageError(
            f"seeds {seeds!r}: expected at least one, each different, not negative, and not {TUNING_SEED} (of tuning)"
        )
    return parsed
