"""Describe the registry and stored results as plain data, for `list`, `info` and `why`."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import DataError, UsageError, clean, unknown
from zoo.files import cache_root
from zoo.progress import Console
from zoo.registry import WILDCARDS, Kind, Registry
from zoo.specs import DatasetSpec, MetricSpec, ModelSpec
from zoo.suites import MODEL_SETS, list_suites, load_suite

SINGULAR: dict[str, Kind] = {
    "models": "model",
    "datasets": "dataset",
    "metrics": "metric",
    "protocols": "protocol",
    "executors": "executor",
}

LONG = 40  # characters of an item that gets a line of its own
NOT_HERE = ("offline", "data-missing")  # codes of data that are on no disk of this machine
SENTENCES = frozenset({"notes", "known_issues"})  # one a line, however short


# --- list ------------------------------------------------------------------------------------------------------------
def list_items(kind: str, pattern: str | None, registry: Registry) -> list[dict[str, Any]]:
    """What there is of a kind, in the order of names; a pattern is a glob, or a part of a name."""
    if kind == "suites":
        items = [summarize_suite(name) for name in list_suites()]
    else:
        singular = SINGULAR[kind]
        specs = registry.specs(singular)
        items = [summarize(name, specs[name], registry.qualified(singular, name)) for name in sorted(specs)]
    if not pattern:
        return items
    if kind == "models" and pattern in MODEL_SETS:
        return [item for item in items if item["name"] in MODEL_SETS[pattern]]
    glob = pattern if any(character in pattern for character in WILDCARDS) else f"*{pattern}*"
    return [item for item in items if any(fnmatch.fnmatchcase(name, glob) for name in names_of(item))]


def names_of(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """What a pattern may mean: the name as it stands, without its distribution, and with it."""
    plain = item["name"].rpartition(":")[2]
    return item["name"], plain, f"{item['plugin']}:{plain}"


def summarize(name: str, spec: Any, qualified: str) -> dict[str, Any]:
    """One line of a list."""
    owner = qualified.partition(":")[0] if ":" in qualified else ""
    item: dict[str, Any] = {"name": name, "plugin": owner}
    if isinstance(spec, ModelSpec):
        item |= {"family": spec.family, "image_size": spec.image_size, "weights": [w.tag for w in spec.weights]}
    elif isinstance(spec, DatasetSpec):
        kind = {} if spec.find else {"task": spec.task.name, "labels": len(spec.labels)}  # a family is of no one task
        item |= {**kind, "modality": spec.modality, "license": spec.license}
    elif isinstance(spec, MetricSpec):
        item |= {"tasks": list(spec.tasks), "higher_is_better": spec.higher_is_better}
    return {**item, "title": spec.title}


def summarize_suite(name: str) -> dict[str, Any]:
    suite = load_suite(name)
    return {
        "name": suite.name,
        "plugin": "zoo-bench",
        "version": suite.version,
        "datasets": list(suite.datasets),
        "models": list(suite.models),
        "protocol": suite.protocol,
        "title": suite.title,
    }


def list_plugins(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "version": plugin.version,
            "status": plugin.status,
            "reason": plugin.reason or None,
            **{f"{kind}s": count for kind, count in plugin.counts.items() if count},
        }
        for plugin in registry.plugins
    ]


def to_lines(items: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of plain text, its columns as wide as they must be; no library, so that a list of 1,300 is instant."""
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


# --- info ------------------------------------------------------------------------------------------------------------
def describe_item(
    kind: str, name: str, registry: Registry, *, console: Console | None = None, sheet: Path | None = None
) -> dict[str, Any]:
    """All that is known of one thing. A dataset is opened, its images are decoded, and its splits are drawn."""
    if kind == "suites":
        return dataclasses.asdict(load_suite(name))
    if kind == "models":
        if name in MODEL_SETS:
            return {"name": name, "models": list(MODEL_SETS[name])}
        choice = registry.find_model(name)
        default = choice.weights.tag if choice.weights else None
        return {**describe_spec(choice.spec), "default_weights": default, "plugin": choice.name}
    if kind == "datasets":
        return describe_dataset(name, registry, console or Console(), sheet)
    spec, plugin = registry.find(SINGULAR[kind], name), registry.qualified(SINGULAR[kind], name)
    return {**describe_spec(spec), "plugin": plugin, **formula_of(spec)}


def formula_of(spec: Any) -> dict[str, str]:
    from zoo.metrics import describe_formula

    formula = describe_formula(spec) if isinstance(spec, MetricSpec) else ""
    return {"formula": formula} if formula else {}


def describe_dataset(name: str, registry: Registry, console: Console, sheet: Path | None) -> dict[str, Any]:
    """A card and, where its data are on this machine, what they hold: those must be readable."""
    from zoo.planning import find_datasets, is_path

    if registry.find_family(name) or is_path(name, registry):
        with console.counting(f"reading {name}") as progress:
            (spec,) = find_datasets(name, registry, cache_root(), offline=True, progress=progress)
        return describe_data(spec, console, sheet)
    spec = registry.find("dataset", name)
    plugin = {"plugin": registry.qualified("dataset", name)}
    if spec.find:  # it stands for sets that are found when they are asked for
        return describe_spec(spec) | plugin
    try:
        return describe_data(spec, console, sheet) | plugin
    except DataError as error:
        if sheet or error.code not in NOT_HERE:
            raise
        return {**describe_spec(spec), **plugin, "data": f"not shown: {error}"}


def describe_data(spec: DatasetSpec, console: Console, sheet: Path | None) -> dict[str, Any]:
    """What the images are, decoded once, and where their contact sheet lies."""
    from zoo.datasheet import describe_source, draw_sheet
    from zoo.fingerprints import take_fingerprints
    from zoo.planning import open_cache
    from zoo.samples import failures_told, open_source
    from zoo.splits import draw_split

    cache = cache_root()
    open_cache(cache)
    with failures_told():
        with console.counting(f"reading {spec.name}") as progress:
            source = open_source(spec, cache, offline=True, progress=progress)
        with console.counting(f"decoding {spec.name}", "images") as progress:
            prints = take_fingerprints(source, cache, progress)
        split = draw_split(source, prints=prints)
        path = sheet or cache / "sheets" / f"{spec.name}-{source.content_hash[:8]}.png"
        facts = describe_source(source, split, prints) | draw_sheet(source, split, prints, path)
        return describe_spec(source.spec) | facts


def describe_spec(spec: Any) -> dict[str, Any]:
    """The plain fields of a spec; what is callable or empty is left out."""
    described: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if callable(value) or value in ("", (), None) or value == {}:
            continue
        if field.name == "weights" and isinstance(value, tuple):
            value = [{k: v for k, v in dataclasses.asdict(w).items() if v not in ("", (), False)} for w in value]
        elif field.name == "task":
            value = value.name
        elif isinstance(value, Mapping):
            value = dict(value)
        described[field.name] = value
    return described


def to_text(described: Mapping[str, Any], indent: str = "") -> str:
    """`name: value` lines, nested by indentation."""
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


# --- runs ------------------------------------------------------------------------------------------------------------
def describe_run(run_id: str, root: Path, registry: Registry) -> dict[str, Any]:
    """A stored run with its inputs, hashes, versions, and how each score and interval was computed."""
    from zoo.tracing import trace_run

    return trace_run(find_run(run_id, stored_results(root)), registry.metrics)


def stored_results(root: Path) -> list[Any]:
    """Every readable result; a damaged one is a warning."""
    from zoo.results import load_result, load_results

    # Not tried as a whole: of the one that is asked for, what is wrong with its predictions is told.
    results, damaged = load_results(root, load_result) if root.is_dir() else ([], [])
    for line in damaged:
        Console().warn(f"left out: {line}")
    return results


def find_run(run_id: str, results: Sequence[Any]) -> Any:
    """The one run whose id begins with `run_id`."""
    # By id: one run is stored twice where `--set` asked for what is the protocol's own value.
    found = {r.id: r for r in results if r.id.startswith(run_id)} if len(run_id) >= 4 else {}
    if len(found) != 1:
        raise unknown_run(run_id, list(found), [result.id[:8] for result in results])
    return next(iter(found.values()))


def unknown_run(run_id: str, found: Sequence[str], known: Sequence[str]) -> UsageError:
    if len(found) > 1:
        return UsageError(f"run {run_id!r} is the beginning of {len(found)} ids", fix="give more of it")
    if len(run_id) < 4:
        return UsageError(f"run {run_id!r}: too short", fix="give at least 4 characters of the id")
    error = unknown("run", run_id, known)
    return UsageError(
        error.message, fix=error.fix.partition("`")[0] + "`zoo bench --dry-run` prints ids", code="unknown-run"
    )


def explain_run(run_id: str, root: Path) -> dict[str, Any]:
    """Whether a planned or stored run is done already, and else what keeps it apart from the nearest that is."""
    from zoo.planning import load_plan

    results = stored_results(root)
    identities = {**load_plan(root), **{result.id: dict(result.identity) for result in results}}
    found = [known for known in identities if known.startswith(run_id)] if len(run_id) >= 4 else []
    if len(found) != 1:
        raise unknown_run(run_id, found, [known[:8] for known in identities])
    full, identity = found[0], identities[found[0]]
    own = next((result for result in results if result.id == full), None)
    explained: dict[str, Any] = {"id": full, "status": own.status if own else "not run"}
    if own and own.ok:
        explained["answer"] = f"done on {own.created}: the same command reuses it"
    elif own:
        explained["answer"] = f"ended as {own.status}: only a run that is ok is reused, so it is tried again"
    else:
        explained["answer"] = "no stored run has this identity, so it is carried out"
    others = [
        (compare_identities(identity, result.identity), result)
        for result in results
        if result.id != full and result.ok and result.identity["dataset"] == identity["dataset"]
    ]
    others.sort(key=lambda pair: (len(pair[0]), pair[1].id))
    explained["nearest"] = [
        {
            "id": result.id[:8],
            "differs in": "; ".join(f"{k}: {mine} here, {theirs} there" for k, (mine, theirs) in d.items()),
        }
        for d, result in others[:3]
    ]
    explained["identity"] = identity
    return explained


def compare_identities(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, those of the protocol one by one."""
    left = {**mine, **{f"protocol.{k}": v for k, v in mine["protocol"].items()}}
    right = {**theirs, **{f"protocol.{k}": v for k, v in theirs["protocol"].items()}}
    names = [name for name in {**left, **right} if name != "protocol"]
    return {n: (short(left.get(n)), short(right.get(n))) for n in names if left.get(n) != right.get(n)}


def short(value: Any) -> Any:
    return value[:8] if isinstance(value, str) and len(value) == 64 else value
