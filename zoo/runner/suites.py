"""Suites: the models, datasets, protocol and metrics of a bench, from a TOML file or flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from zoo.errors import UsageError, clean, nearest, unknown
from zoo.specs.suite import Suite
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


def parse_suite(document: Mapping[str, Any], origin: str) -> Suite:
    from pydantic import BaseModel, ConfigDict, Field, ValidationError

    class SuiteFile(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)

        schema_version: Literal[1] = Field(alias="schema")
        name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
        version: int = Field(default=1, ge=1)
        title: str = ""
        models: list[str] = Field(default=["starter"], min_length=1)
        datasets: list[str] = Field(min_length=1)
        metrics: list[str] = []
        primary_metric: str = ""
        protocol: str = "finetune"
        seeds: int | list[int] = 3
        folds: int | None = Field(default=None, ge=1)
        weights: Literal["pretrained", "auto", "none"] = "pretrained"
        allow_leak: str = ""
        drop_leaks: bool = False
        resplit: bool = False
        test_on: list[str] = []
        label_map: dict[str, str] = {}
        distinct_patients: bool = False
        set: dict[str, str | int | float | bool] = {}

    try:
        parsed = SuiteFile.model_validate(dict(document))
    except ValidationError as error:
        names = [field.alias or name for name, field in SuiteFile.model_fields.items()]
        messages = []
        for detail in error.errors():
            place = ".".join(str(part) for part in detail["loc"])
            hint = nearest(place, names) if detail["type"] == "extra_forbidden" else ""
            messages.append(f"{place}: {detail['msg']} {hint}".strip())
        raise UsageError(
            f"suite {clean(origin)}: {'; '.join(messages)}", fix="correct these fields", code="bad-suite"
        ) from error
    return Suite(
        name=parsed.name,
        version=parsed.version,
        title=parsed.title,
        models=tuple(parsed.models),
        datasets=tuple(parsed.datasets),
        metrics=tuple(parsed.metrics),
        primary_metric=parsed.primary_metric,
        protocol=parsed.protocol,
        settings=tuple((name, str(value)) for name, value in sorted(parsed.set.items())),
        seeds=parse_seeds(parsed.seeds),
        folds=parsed.folds,
        weights=parsed.weights,
        allow_leak=parsed.allow_leak,
        drop_leaks=parsed.drop_leaks,
        resplit=parsed.resplit,
        test_on=tuple(parsed.test_on),
        label_map=tuple(parsed.label_map.items()),
        distinct_patients=parsed.distinct_patients,
    )


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
        raise UsageError(f"seeds {seeds!r}: expected at least one, each different and not negative")
    return parsed
