"""Resolve the models, metrics and datasets that a suite names."""

from __future__ import annotations

from zoo.data.lookup import find_datasets
from zoo.errors import DataError, UsageError, ZooError
from zoo.models.weights import find_hub_model
from zoo.registry.lookup import HUB, ModelChoice, Registry
from zoo.registry.model_sets import MODEL_SETS
from zoo.runner.suites import Suite
from zoo.specs.dataset import DatasetSpec
from zoo.specs.metric import MetricSpec
from zoo.system.progress import Console
from zoo.system.settings import Settings


def choose_models(suite: Suite, registry: Registry, settings: Settings) -> list[ModelChoice]:
    """Every model asked for, sets and globs expanded, each once."""
    choices = []
    for asked in [name for model in suite.models for name in MODEL_SETS.get(model, (model,))]:
        if asked.startswith(HUB):
            choices.append(find_hub_model(asked, registry, settings.cache, offline=settings.offline))
            continue
        matched = [registry.find_model(name) for name in registry.match("model", asked)]
        choices += [choice for choice in matched if choice.spec.find is None or len(matched) == 1]
    return list({(choice.name, choice.weights and choice.weights.tag): choice for choice in choices}.values())


def choose_metrics(suite: Suite, registry: Registry) -> dict[str, MetricSpec]:
    """The metrics asked for beside the tasks' own; the primary one among them."""
    asked = [*suite.metrics, *([suite.primary_metric] if suite.primary_metric else [])]
    names = [name for pattern in asked for name in registry.match("metric", pattern)]
    return {name: registry.find("metric", name) for name in names}


def choose_datasets(
    suite: Suite, registry: Registry, settings: Settings, console: Console
) -> list[DatasetSpec | tuple[str, ZooError]]:
    """Every dataset asked for: by name, prefix or path. One of the latter that cannot be had is refused, not raised."""
    if not suite.datasets:
        raise UsageError("nothing selected: no dataset", fix="--datasets NAME or PATH")
    chosen: list[DatasetSpec | tuple[str, ZooError]] = []
    for asked in suite.datasets:
        try:
            with console.counting(f"bringing {asked}", "bytes") as progress:
                chosen += find_datasets(asked, registry, settings.cache, offline=settings.offline, progress=progress)
        except DataError as error:
            chosen.append((asked, error))
    return chosen
