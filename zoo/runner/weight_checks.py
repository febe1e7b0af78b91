"""Check before any run that each weights file fits its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.models.trials import Trial, import_all, refuse_misfits
from zoo.models.weights import InitialWeights, find_model_spec
from zoo.registry.context import Context
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.specs.model import BuildRequest


def check_weights(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[OpenDataset, Split]],
    context: Context,
) -> None:
    """Raise WeightsError if weights do not fit their model."""
    registry, settings, console = context.registry, context.settings, context.console
    trials = list_trials(runs, weights, sources, registry, settings.cache)
    with console.counting("importing what the models need"):
        import_all(name for trial in trials for name in ("torch", *trial.spec.imports))
    with console.counting("checking weights", "models", alone=False) as progress:
        refuse_misfits(trials, registry, settings.cache, progress)


def list_trials(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[OpenDataset, Split]],
    registry: Registry,
    cache: Path,
) -> list[Trial]:
    """List the distinct combinations of model and weights file of these runs."""
    trials: dict[tuple[Path, str], Trial] = {}
    for run in runs:
        if not run.weights_digest:
            continue
        initial = weights[run.weights_digest, run.weights_tag]
        assert initial.path is not None
        card = sources[run.dataset][0].spec
        request = BuildRequest(
            num_outputs=card.task.head.num_outputs(len(card.labels)),
            channels=card.channels,
            image_size=run.input_size,
            weights=initial.path,
            tag=initial.build_tag,
            dims=run.protocol.dims,
        )
        spec = find_model_spec(run.model, registry, cache)
        trial = Trial(model=run.model, spec=spec, path=initial.path, request=request)
        trials.setdefault((initial.path, trial.key), trial)
    return list(trials.values())
