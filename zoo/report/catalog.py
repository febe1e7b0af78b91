"""Describe what is installed as plain data, for `zoo list` and `zoo info`."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.errors import DataError, plural_of
from zoo.registry.loading import CORE
from zoo.registry.lookup import WILDCARDS, Registry
from zoo.runner.suites import list_suites, load_suite
from zoo.specs.dataset import DatasetSpec
from zoo.specs.hooks import HOOKS, KIND_OF, KINDS
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec
from zoo.specs.reader import ReaderSpec
from zoo.system.files import cache_root
from zoo.system.progress import Console

DATA_TYPES = (str, int, float, tuple, list, Mapping)  # types of the fields of a spec that are data
PLUGIN_COLUMNS = ("name", "version", "status", "reason", "registers", "author", "url", "summary")
NOT_HERE = ("offline", "data-missing")  # codes of data that are not on this machine


def list_items(kind: str, pattern: str | None, registry: Registry) -> list[dict[str, Any]]:
    """The installed items of a kind, sorted by name; a pattern is a glob, or a part of a name."""
    singular = KIND_OF[kind]
    if kind == "suites":
        items = [summarize_suite(name, registry) for name in list_suites(registry.suites)]
    else:
        specs = registry.specs(singular)
        items = [summarize(name, specs[name], registry.qualified(singular, name)) for name in sorted(specs)]
    if not pattern:
        return items
    if kind == "models" and pattern in registry.suites:
        return [item for item in items if item["name"] in registry.suites[pattern].models]
    glob = pattern if any(character in pattern for character in WILDCARDS) else f"*{pattern}*"
    return [item for item in items if any(fnmatch.fnmatchcase(name, glob) for name in names_of(item))]


def names_of(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """The names a pattern is matched with: as listed, without the distribution, and with it."""
    plain = item["name"].rpartition(":")[2]
    return item["name"], plain, f"{item['plugin']}:{plain}"


def summarize(name: str, spec: Any, qualified: str) -> dict[str, Any]:
    """Describe a spec for one line of a list."""
    owner = qualified.partition(":")[0] if ":" in qualified else ""
    item: dict[str, Any] = {"name": name, "plugin": owner}
    if isinstance(spec, ModelSpec):
        item |= {"family": spec.family, "image_size": spec.image_size, "weights": [w.tag for w in spec.weights]}
    elif isinstance(spec, DatasetSpec):
        kind = {} if spec.find else {"task": spec.task.name, "labels": len(spec.labels)}  # a family has no single task
        item |= {**kind, "modality": spec.modality, "license": spec.license}
    elif isinstance(spec, MetricSpec):
        item |= {"tasks": list(spec.tasks), "higher_is_better": spec.higher_is_better}
    elif isinstance(spec, ReaderSpec):
        item |= {"suffixes": list(spec.suffixes), "dims": spec.dims}
    return {**item, "title": getattr(spec, "title", "")}


def summarize_suite(name: str, registry: Registry) -> dict[str, Any]:
    suite = load_suite(name, registry.suites)
    return {
        "name": suite.name,
        "plugin": registry.qualified("suite", name).partition(":")[0] if name in registry.suites else CORE,
        "version": suite.version,
        "datasets": list(suite.datasets),
        "models": list(suite.models),
        "protocol": ", ".join(suite.protocols),
        "title": suite.title,
    }


def list_plugins(registry: Registry) -> list[dict[str, Any]]:
    return [
        {
            "name": plugin.name,
            "version": plugin.version,
            "status": plugin.status,
            "reason": plugin.reason or None,
            **{plural_of(kind): count for kind, count in plugin.counts.items() if count},
            "hooks": [HOOKS[kind] for kind in plugin.counts],
            "author": plugin.author,
            "summary": plugin.summary,
            "url": plugin.url,
            "file": plugin.file or None,
        }
        for plugin in registry.plugins
    ]


def tabulate_plugins(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of plugins, without columns that are empty in all of them."""
    rows = []
    for item in items:
        counts = {kind: item.get(plural_of(kind), 0) for kind in KINDS}
        words = {kind: kind if count == 1 else plural_of(kind) for kind, count in counts.items()}
        registers = ", ".join(f"{count} {words[kind]}" for kind, count in counts.items() if count)
        version = item["version"][:15] if item["file"] else item["version"]  # that of a file is its hash
        row = {**item, "version": version, "registers": registers, "url": item["file"] or item["url"]}
        rows.append({name: row[name] for name in PLUGIN_COLUMNS})
    used = [name for name in PLUGIN_COLUMNS if any(row[name] for row in rows)]
    return [{name: row[name] for name in used} for row in rows]


def describe_item(
    kind: str, name: str, registry: Registry, *, console: Console | None = None, sheet: Path | None = None
) -> dict[str, Any]:
    """Describe one item in full. A dataset is opened, its images are decoded, and its splits are drawn."""
    if kind == "suites":
        return dataclasses.asdict(load_suite(name, registry.suites))
    if kind == "models":
        if name in registry.suites:
            return {"name": name, "models": list(registry.suites[name].models)}
        choice = registry.find_model(name)
        default = choice.weights.tag if choice.weights else None
        return {**describe_spec(choice.spec), "default_weights": default, "plugin": choice.name}
    if kind == "datasets":
        return describe_dataset(name, registry, console or Console(), sheet)
    singular = KIND_OF[kind]
    spec, plugin = registry.find(singular, name), registry.qualified(singular, name)
    return {**describe_spec(spec), "plugin": plugin, **formula_of(spec)}


def formula_of(spec: Any) -> dict[str, str]:
    from zoo.evaluation.metrics.labels import describe_formula

    formula = describe_formula(spec) if isinstance(spec, MetricSpec) else ""
    return {"formula": formula} if formula else {}


def describe_dataset(name: str, registry: Registry, console: Console, sheet: Path | None) -> dict[str, Any]:
    """Describe a dataset: its card and, if its data are on this machine, their contents."""
    from zoo.data.lookup import find_datasets, is_path

    if registry.find_family("dataset", name) or is_path(name, registry):
        with console.counting(f"reading {name}") as progress:
            (spec,) = find_datasets(name, registry, cache_root(), offline=True, progress=progress)
        return describe_data(spec, console, sheet)
    spec = registry.find("dataset", name)
    plugin = {"plugin": registry.qualified("dataset", name)}
    if spec.find:  # a family: its datasets are looked up by name
        return describe_spec(spec) | plugin
    try:
        return describe_data(spec, console, sheet) | plugin
    except DataError as error:
        if sheet or error.code not in NOT_HERE:
            raise
        return {**describe_spec(spec), **plugin, "data": f"not shown: {error}"}


def describe_data(spec: DatasetSpec, console: Console, sheet: Path | None) -> dict[str, Any]:
    """Describe the images, decoded once, and write their contact sheet."""
    from zoo.data.datasheet import describe_source, draw_sheet
    from zoo.data.fingerprints import take_fingerprints
    from zoo.data.opening import convert_failures, open_dataset
    from zoo.data.splits import draw_split
    from zoo.system.caches import open_cache

    cache = cache_root()
    open_cache(cache)
    with convert_failures():
        with console.counting(f"reading {spec.name}") as progress:
            source = open_dataset(spec, cache, offline=True, progress=progress)
        with console.counting(f"decoding {spec.name}", "images") as progress:
            fingerprints = take_fingerprints(source, cache, progress)
        split = draw_split(source, fingerprints=fingerprints)
        path = sheet or cache / "sheets" / f"{spec.name}-{source.content_hash[:8]}.png"
        facts = describe_source(source, split, fingerprints) | draw_sheet(source, split, fingerprints, path)
        return describe_spec(source.spec) | facts


def describe_spec(spec: Any) -> dict[str, Any]:
    """The plain fields of a spec, without callables and empty values."""
    described: dict[str, Any] = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name != "task" and not isinstance(value, DATA_TYPES):
            continue
        if value in ("", ()) or value == {}:
            continue
        if field.name == "weights" and isinstance(value, tuple):
            value = [{k: v for k, v in dataclasses.asdict(w).items() if v not in ("", (), False)} for w in value]
        elif field.name == "task":
            value = value.name
        elif isinstance(value, Mapping):
            value = dict(value)
        described[field.name] = value
    return described
