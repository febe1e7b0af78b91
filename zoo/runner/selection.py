"""Resolve the models, metrics and datasets that a suite names."""

from __future__ import annotations

from zoo.data.lookup import find_datasets
from zoo.errors import DataError, UsageError, ZooError
from zoo.models.weights import find_family_model
from zoo.registry.context import Context
from zoo.registry.lookup import ModelChoice, Registry
from zoo.specs.dataset import DatasetSpec
from zoo.specs.metric import MetricSpec
from zoo.specs.suite import Suite


def choose_models(suite: Suite, context: Context) -> list[ModelChoice]:
    """Resolve the requested models, with sets and globs expanded and duplicates removed."""
    registry, settings = context.registry, context.settings
    choices = []
    for pattern in [name for model in suite.models for name in registry.expand_models(model)]:
        if choice := find_family_model(pattern, registry, settings.cache, offline=settings.offline):
            choices.append(choice)
            continue
        matches = [registry.find_model(name) for name in registry.match("model", pattern)]
        choices += [choice for choice in matches if choice.spec.find is None or len(matches) == 1]
    return list({(choice.name, choice.weights and choice.weights.tag): choice for choice in choices}.values())


def choose_metrics(suite: Suite, registry: Registry) -> dict[str, MetricSpec]:
    """Resolve the metrics requested in addition to the tasks' own, including the primary metric."""
    patterns = [*suite.metrics, *([suite.primary_metric] if suite.primary_metric else [])]
    names = [name for pattern in patterns for name in registry.match("metric", pattern)]
    return {name: registry.find("metric", name) for name in names}


def choose_datasets(suite: Suite, context: Context) -> list[DatasetSpec | tuple[str, ZooError]]:
    """Resolve the requested datasets, by name, prefix or path.

    For a dataset that cannot be used, the list contains its name and the error. Raises UsageError without datasets.
    """
    registry, settings = context.registry, context.settings
    if not suite.datasets:
        raise UsageError("no dataset selected", fix="add --datasets NAME or PATH")
    datasets: list[DatasetSpec | tuple[str, ZooError]] = []
    for name in suite.datasets:
        try:
            with context.console.counting(f"fetching {name}", "bytes") as progress:
                datasets += find_datasets(name, registry, settings.cache, offline=settings.offline, progress=progress)
        except DataError as error:
            datasets.append((name, error))
    return datasets
