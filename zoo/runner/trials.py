"""Try weights in child processes before anything starts: do they fit and fill their model?"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.errors import WeightsError, ZooError
from zoo.models.building import call_build, seeded
from zoo.models.weights import InitialWeights, find_model_spec
from zoo.registry.lookup import Registry
from zoo.results.runs import Run
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.system.machine import can_fork, num_cores, versions
from zoo.system.memo import FileMemo
from zoo.system.progress import Console, Progress
from zoo.system.settings import Settings
from zoo.system.workers import Notify, execute


def check_weights(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[OpenDataset, Split]],
    registry: Registry,
    settings: Settings,
    console: Console,
) -> None:
    """Refuse weights that do not fit their model before anything starts."""
    trials = list_trials(runs, weights, sources, registry, settings.cache)
    with console.counting("importing what the models need"):
        import_all(name for trial in trials for name in ("torch", *trial.spec.imports))
    with console.counting("trying weights", "models", alone=False) as progress:
        refuse_misfits(trials, registry, settings.cache, progress)


def list_trials(
    runs: Sequence[Run],
    weights: Mapping[tuple[str, str], InitialWeights],
    sources: Mapping[str, tuple[OpenDataset, Split]],
    registry: Registry,
    cache: Path,
) -> list[Trial]:
    """Each way in which these runs put a model and a file of weights together, once."""
    trials: dict[tuple[Path, str], Trial] = {}
    for run in runs:
        if not run.weights_digest:
            continue
        initial = weights[run.weights_digest, run.weights_tag]
        assert initial.path is not None
        card = sources[run.dataset][0].spec
        request = BuildRequest(
            num_outputs=card.task.num_outputs(len(card.labels)),
            channels=card.channels,
            image_size=run.image_size,
            weights=initial.path,
            tag=initial.build_tag,
        )
        spec = find_model_spec(run.model, registry, cache)
        trial = Trial(model=run.model, spec=spec, path=initial.path, request=request)
        trials.setdefault((initial.path, trial.key), trial)
    return list(trials.values())


WEIGHTS_SECONDS = 300.0  # a network that takes longer to build is left to its runs
FIT_VERSION = 2  # of what is remembered of weights that fit


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model and the file it starts from, to be put together as its runs will."""

    model: str  # distribution:architecture
    spec: ModelSpec
    path: Path
    request: BuildRequest

    @property
    def key(self) -> str:
        """What its fit depends on beside the file: not on layers that the core replaces."""
        asked = self.request
        num_outputs = 0 if self.spec.classifier else asked.num_outputs
        channels = 0 if self.spec.first_conv else asked.channels
        return f"{self.model}.{asked.tag} {num_outputs} {channels} {asked.image_size}"


def imports_of(models: Iterable[str], registry: Registry, cache: Path) -> set[str]:
    """The modules that planned models say they need; of one that is no longer installed none: its run says so."""
    names: set[str] = set()
    for model in models:
        with suppress(ZooError):
            names |= set(find_model_spec(model, registry, cache).imports)
    return names


def import_all(names: Iterable[str]) -> None:
    """Import what models say they need, before workers are forked, which inherit it."""
    for name in sorted(set(names)):
        with suppress(Exception):  # the run that needs it says so, and the others stand
            importlib.import_module(name)


def refuse_misfits(trials: Sequence[Trial], registry: Registry, cache: Path, progress: Progress | None = None) -> None:
    """Raise a WeightsError that names file and keys where weights do not fit their model.

    What fits is remembered. A network that cannot be built for another reason is left to its runs, which say so.
    """
    if not trials:
        return
    made_by = json.dumps([FIT_VERSION, versions(), [f"{p.name} {p.version}" for p in registry.plugins]])

    def remembered(trial: Trial) -> closing[FileMemo]:
        return closing(FileMemo(cache, f"fits {trial.key} {made_by}"))

    unknown = []
    for trial in trials:
        with remembered(trial) as memo:
            unknown += [] if memo.recall(trial.path) else [trial]
    misfits = {}
    for number, said in try_all(unknown, progress):
        if "misfit" in said:
            misfits[number] = said
        elif "fits" in said:
            with remembered(unknown[number]) as memo:
                memo.remember(unknown[number].path, True)
    if misfits:
        raise misfit([(unknown[number].path, misfits[number]) for number in sorted(misfits)])


def misfit(faults: Sequence[tuple[Path, dict[str, Any]]]) -> WeightsError:
    path, said = faults[0]
    # Whoever found it names the file, some with its folder and some without.
    reason = said["misfit"].removeprefix(str(path)).removeprefix(path.name).lstrip(": ")
    others = list(dict.fromkeys(str(other) for other, _ in faults if other != path))
    more = f" (nor do {', '.join(others)} fit)" if others else ""
    return WeightsError(f"{path}: {reason}{more}", fix=said["fix"], code=said["code"])


def try_all(trials: Sequence[Trial], progress: Progress | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The number of each trial with what it said, in child processes: a `build` may crash, and may start threads."""
    if not can_fork():
        for number, trial in enumerate(trials):
            said: dict[str, Any] = {}
            with suppress(Exception):
                try_weights(trial, said.update)
            yield number, said
        return

    def carry_out(number: int, _: str, notify: Notify) -> None:
        try_weights(trials[number], notify)

    heard: list[dict[str, Any]] = [{} for _ in trials]
    workers, done = ["cpu"] * min(num_cores(), len(trials)), 0
    for event in execute(range(len(trials)), carry_out, devices=workers, reuse=True, timeout=WEIGHTS_SECONDS):
        heard[event.work].update(event.details)
        done += event.kind == "ended"
        if progress:
            progress(done, len(trials))
        if event.kind == "ended":
            yield event.work, heard[event.work]


def try_weights(trial: Trial, notify: Notify) -> None:
    """Build a network with its weights from two seeds and report whether the file fits and fills it."""
    import torch

    torch.set_num_threads(1)
    try:
        unread = find_unread(trial)
    except WeightsError as error:
        notify({"misfit": error.message, "fix": error.fix, "code": error.code})
        return
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        notify(
            {
                "misfit": f"{trial.model} does not load these parameters from the file: {', '.join(unread[:3])}{more}",
                "fix": "give the whole network's weights, correct the plugin's `build`, or say --weights none",
                "code": "weights-unread",
            }
        )
        return
    notify({"fits": True})


Sampled = tuple[tuple[int, ...], bytes]  # shape, and the values of some elements


def find_unread(trial: Trial) -> list[str]:
    """The trunk's parameters that differ between two builds from two seeds: the file did not fill them."""
    first = sample_parameters(trial, 0, trial.request.num_outputs)
    if trial.spec.classifier:
        second = sample_parameters(trial, 1, trial.request.num_outputs)
        heads = [f"{name}." for name in trial.spec.classifier.split(",")]
    else:
        second, heads = build_with_more_outputs(trial, first)
    return [name for name, found in first.items() if found != second.get(name) and not name.startswith(tuple(heads))]


def build_with_more_outputs(trial: Trial, first: Mapping[str, Sampled]) -> tuple[dict[str, Sampled], list[str]]:
    """A second build with one output more, and the heads, which that shows: what takes another shape.

    The file may hold a head of the right size, which fits no other; then there is no random head to find.
    """
    try:
        second = sample_parameters(trial, 1, trial.request.num_outputs + 1)
    except Exception:  # whatever a plugin's loading raises for a head of another size
        return sample_parameters(trial, 1, trial.request.num_outputs), []
    return second, find_heads(list(first), [name for name in first if first[name][0] != second.get(name, ((),))[0]])


def find_heads(names: Sequence[str], resized: Sequence[str]) -> list[str]:
    """The beginnings of the parameters' names in the child modules that hold the `resized` ones.

    A head may be several layers ("head.0", "head.2"): all of the child is head, below what wraps the whole network.
    """
    paths = [name.split(".") for name in names]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and len(paths[0]) > depth + 1:
        depth += 1
    prefixes = {tuple(name.split(".")[: depth + 1]): name for name in resized}
    return [".".join(prefix) + ("." if ".".join(prefix) != name else "") for prefix, name in prefixes.items()]


def sample_parameters(trial: Trial, seed: int, num_outputs: int) -> dict[str, Sampled]:
    """About 1000 elements, spread evenly, of every parameter of a network that is built from one seed."""
    with seeded(seed):
        module = call_build(trial.spec, replace(trial.request, num_outputs=num_outputs))
    sampled = {}
    for name, parameter in module.named_parameters():
        values = parameter.detach().float().flatten()
        sampled[name] = (tuple(parameter.shape), values[:: max(1, len(values) // 1000)].numpy().tobytes())
    return sampled
