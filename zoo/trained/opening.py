"""Find and open trained models: a row of a results folder, a run's id, or a folder with a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.arrays import Array
from zoo.errors import ResultsError, UsageError, WeightsError, nearest
from zoo.evaluation.predictions import Predictions, load_predictions
from zoo.images.plugin_readers import parse_identity
from zoo.models.building import spec_with_metadata
from zoo.models.identity import identify_estimator, identify_network
from zoo.models.layout import place
from zoo.models.weights import InitialWeights, find_model
from zoo.registry.choices import reopen_choice
from zoo.registry.lookup import ModelChoice, Registry
from zoo.results.bundles import is_bundle
from zoo.results.store import REFERENCE_FILE, WEIGHTS_FILE, find_result_folders, read_result_document
from zoo.specs.choice import Choice
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.model import ModelSpec
from zoo.trained.card import CARD_FILE, ModelCard, read_model_card
from zoo.trained.modules import FeatureTap, describe_versions, rebuild
from zoo.trained.outside import Reference

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenModel:
    """A trained model that is ready to predict."""

    card: ModelCard
    spec: ModelSpec
    estimator: EstimatorSpec | None  # of the method "estimator"
    folder: Path
    module: nn.Module
    tap: FeatureTap
    device: str
    reference: Reference | None
    val: Predictions | None  # stored predictions of val; an exported folder has none
    transforms: tuple[Choice, ...]  # the preprocessing steps
    images: Array | None  # squares (n, size, size, channels) of val, to compare an export with; the same


def find_models(name: str, results: Path) -> list[Path]:
    """The folders of a trained model with kept weights, by seed: `name` is a folder, a run's id, or
    DATASET/MODEL with or without /PROTOCOL.
    """
    path = Path(name)
    if (path / CARD_FILE).is_file():
        return [path]
    if path.exists() and is_bundle(path):
        raise ResultsError(
            f"{path}: a bundle has results, but no weights",
            fix="name a results folder: --results FOLDER",
            code="no-weights",
        )
    cards = {
        folder: read_model_card(folder) for folder in find_result_folders(results) if (folder / CARD_FILE).exists()
    }
    if not cards:
        raise ResultsError(
            f"{results}: no trained models", fix="run `zoo bench` first, or name its folder: --results FOLDER"
        )
    by_id = {folder: card for folder, card in cards.items() if len(name) >= 4 and card.run.startswith(name)}
    matches = by_id or {folder: card for folder, card in cards.items() if name in names_in_command(card)}
    if not matches:
        names = sorted({card.name for card in cards.values()})
        raise UsageError(
            f"unknown trained model {name!r}",
            fix=f"{nearest(name, names)} {results} has {', '.join(names[:6])}".strip(),
            code="unknown-model",
        )
    kept = {folder: card for folder, card in matches.items() if (folder / WEIGHTS_FILE).exists()}
    if not kept:
        raise ResultsError(
            f"{name}: no weights are kept",
            fix="run the same bench with --keep-weights best, or all",
            code="no-weights",
        )
    rows = sorted({f"{card.name}/{card.protocol}" for card in kept.values()})
    if len(rows) > 1:
        raise UsageError(f"{name!r} is {len(rows)} models", fix=f"name one: {', '.join(rows)}", code="ambiguous")
    refuse_different(name, kept)
    return sorted(kept, key=lambda folder: (kept[folder].fold, kept[folder].seed))


def refuse_different(name: str, kept: Mapping[Path, ModelCard]) -> None:
    """Raise UsageError unless the runs differ in nothing but seed and fold: only then their mean is one model's."""
    facts = {folder: facts_but_seed(read_result_document(folder / "result.json")[0]) for folder in kept}
    groups: dict[tuple[str, ...], Path] = {}
    names = sorted({each for own in facts.values() for each in own})
    for folder, own in facts.items():
        groups.setdefault(tuple(own.get(each, "") for each in names), folder)
    if len(groups) == 1:
        return
    differing = [each for number, each in enumerate(names) if len({values[number] for values in groups}) > 1]
    runs = []
    for folder in groups.values():
        texts = ", ".join(f"{each}={facts[folder].get(each, '')[:40]}" for each in differing[:3])
        runs.append(f"{kept[folder].run[:8]} ({texts})")
    raise UsageError(
        f"{name!r} is {len(groups)} models that differ in {', '.join(differing)}",
        fix=f"name one by the id of a run: {'; '.join(runs)}",
        code="ambiguous",
    )


def facts_but_seed(document: Mapping[str, Any]) -> dict[str, str]:
    """What the id of a run depends on, as texts, but the seed, and what may differ between folds."""
    identity, run = document["identity"], document["run"]
    fields = {**identity["protocol"], **identity}
    left_out = {"protocol", "seed", "fold", "batch_size", *run.get("tuned_fields", ())}
    return {each: str(value) for each, value in fields.items() if each not in left_out}


def best_of(folders: Sequence[Path]) -> Path:
    """The folder of the seed with the best val score; ties go to the first."""
    scores = [-math.inf if (score := read_model_card(folder).val_score) is None else score for folder in folders]
    return folders[scores.index(max(scores))]


def names_in_command(card: ModelCard) -> Sequence[str]:
    return card.name, f"{card.name}/{card.protocol}", f"{card.dataset['name']}/{card.model}"


def load_module(folder: Path, registry: Registry, cache: Path) -> tuple[ModelCard, ModelSpec, nn.Module]:
    """Build the module of a trained model with its weights: the one way to every use of it.

    Raises PluginError, WeightsError or ResultsError if it cannot be built as it was.
    """
    card = read_model_card(folder)
    installed = find_model(card.model, registry, cache)
    check_network(card, installed)
    return card, installed.spec, rebuild(card, folder / WEIGHTS_FILE, installed.spec, find_estimator(card, registry))


def find_estimator(card: ModelCard, registry: Registry) -> EstimatorSpec | None:
    """The estimator of a card, if it has one. Raises WeightsError if the installed one has another version."""
    if not card.estimator:
        return None
    name = card.estimator.partition("@")[0]
    spec: EstimatorSpec = registry.find("estimator", name)
    installed = identify_estimator(spec, name, registry)
    if installed != card.estimator or spec.restore is None:
        raise WeightsError(
            f"{card.name} (run {card.run[:8]}): fitted by {card.estimator}, but {installed} is installed",
            fix=f"install the versions of its card: {describe_versions(card)}",
            code="other-network",
        )
    return spec


def check_network(card: ModelCard, installed: ModelChoice) -> None:
    """Raise WeightsError if the architecture is not the one of training.

    The normalization of local weights is unknown here; for them only the version is compared.
    """
    weights = InitialWeights(init=card.weights["init"], tag=card.weights["tag"])
    trained, network = card.network, identify_network(installed, weights)
    if weights.init == "pretrained" and all(each.tag != weights.tag for each in installed.spec.weights):
        trained, network = (each.rpartition("-")[0] for each in (trained, network))
    if card.network and trained != network:
        raise WeightsError(
            f"{card.name} (run {card.run[:8]}): trained as {card.model} {trained}, but {network} is installed",
            fix=f"install the versions of its card: {describe_versions(card)}",
            code="other-network",
        )


def open_model(folder: Path, registry: Registry, cache: Path, device: str) -> OpenModel:
    """Open a trained model to predict with it."""
    card, spec, module = load_module(folder, registry, cache)
    for identity in card.file_reading.readers:
        reopen_choice("reader", parse_identity(identity), registry)
    arrays = read_arrays(folder)
    return OpenModel(
        card=card,
        spec=spec,
        estimator=find_estimator(card, registry),
        folder=folder,
        module=module,
        tap=FeatureTap(
            place(module, device, card.precision, card.image_size),
            spec_with_metadata(spec) if card.inputs else spec,
            card.method,
        ),
        device=device,
        transforms=tuple(reopen_choice("transform", each, registry) for each in card.transforms),
        reference=as_reference(card, arrays),
        images=arrays.get("images"),
        val=load_predictions(path).get("val") if (path := folder / "predictions.npz").exists() else None,
    )


def read_arrays(folder: Path) -> dict[str, Array]:
    """What is kept of val beside the weights: `features`, and in a run's folder `images`."""
    from safetensors.numpy import load_file

    path = folder / REFERENCE_FILE
    return dict(load_file(path)) if path.exists() else {}


def as_reference(card: ModelCard, arrays: dict[str, Array]) -> Reference | None:
    if card.outside is None or "features" not in arrays:
        return None
    features = arrays["features"].astype("float32")
    return Reference(features=features, neighbors=card.outside["neighbors"], limit=card.outside["limit"])
