"""Check in child processes that weights files fit their models and set all their parameters."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from copy import copy as shallow_copy
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from zoo.errors import WeightsError, ZooError
from zoo.models.building import call_build, classes_of, read_stored, seeded
from zoo.models.weights import find_model_spec
from zoo.registry.lookup import Registry
from zoo.specs.model import BuildRequest, ModelSpec
from zoo.system.machine import can_fork, num_cores, requirements_of, versions
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress
from zoo.system.workers import Notify, execute

if TYPE_CHECKING:
    from torch import Tensor, nn


WEIGHTS_SECONDS = 300.0  # a network that takes longer to build is not checked
FIT_VERSION = 4  # of the cached checks


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A model and its weights file, to be built as in its runs."""

    model: str  # distribution:architecture
    spec: ModelSpec
    path: Path
    request: BuildRequest
    folder: Path | None = None  # for temporary copies of the file; None: the system's

    @property
    def key(self) -> str:
        """Everything except the file that determines the fit, without layers that the core replaces."""
        request = self.request
        num_outputs = 0 if self.spec.classifier else request.num_outputs
        channels = 0 if self.spec.first_conv else request.channels
        return f"{self.model}.{request.tag} {num_outputs} {channels} {request.image_size} {request.dims}"


def imports_of(models: Iterable[str], registry: Registry, cache: Path) -> set[str]:
    """The modules that the specs of models declare; models that are no longer installed are skipped."""
    names: set[str] = set()
    for model in models:
        with suppress(ZooError):
            names |= set(find_model_spec(model, registry, cache).imports)
    return names


def import_all(names: Iterable[str]) -> None:
    """Import modules before workers are forked, so that the workers inherit them."""
    for name in sorted(set(names)):
        with suppress(Exception):  # the run that needs the module reports the error
            importlib.import_module(name)


def refuse_misfits(trials: Sequence[Trial], registry: Registry, cache: Path, progress: Progress | None = None) -> None:
    """Raise a WeightsError that names the file and its keys if weights do not fit their model.

    Weights that fit are cached. A network that cannot be built for another reason is skipped; its runs report the
    error.
    """
    if not trials:
        return
    libraries = versions(*requirements_of(plugin.name for plugin in registry.plugins))
    environment = json.dumps([FIT_VERSION, libraries, [f"{p.name} {p.version}" for p in registry.plugins]])

    def open_memo(trial: Trial) -> closing[FileMemo]:
        return closing(FileMemo(cache, f"fits {trial.key} {environment}"))

    unchecked = []
    for trial in trials:
        with open_memo(trial) as memo:
            unchecked += [] if memo.recall(trial.path) else [trial]
    misfits = {}
    with TemporaryDirectory(prefix="weights-", dir=cache) as folder:  # also removes what a killed child leaves
        for number, report in try_all([replace(trial, folder=Path(folder)) for trial in unchecked], progress):
            if "misfit" in report:
                misfits[number] = report
            elif "fits" in report:
                with open_memo(unchecked[number]) as memo:
                    memo.remember(unchecked[number].path, True)
    if misfits:
        raise misfit_error([(unchecked[number].path, misfits[number]) for number in sorted(misfits)])


def misfit_error(misfits: Sequence[tuple[Path, dict[str, Any]]]) -> WeightsError:
    path, report = misfits[0]
    others = list(dict.fromkeys(str(other) for other, _ in misfits if other != path))
    more = f" (also misfits: {', '.join(others)})" if others else ""
    return WeightsError(f"{report['misfit']}{more}", subject=path, fix=report["fix"], code=report["code"])


def try_all(trials: Sequence[Trial], progress: Progress | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the report of each trial, from child processes: `build` may crash or start threads."""
    if not can_fork():
        for number, trial in enumerate(trials):
            report: dict[str, Any] = {}
            with suppress(Exception):
                try_weights(trial, report.update)
            yield number, report
        return

    def carry_out(number: int, _: str, notify: Notify) -> None:
        try_weights(trials[number], notify)

    reports: list[dict[str, Any]] = [{} for _ in trials]
    workers, done = ["cpu"] * min(num_cores(), len(trials)), 0
    for event in execute(range(len(trials)), carry_out, devices=workers, reuse=True, timeout=WEIGHTS_SECONDS):
        reports[event.work].update(event.details)
        done += event.kind == "ended"
        if progress:
            progress(done, len(trials))
        if event.kind == "ended":
            yield event.work, reports[event.work]


def try_weights(trial: Trial, notify: Notify) -> None:
    """Build a network with its weights, and report whether the file sets all its parameters and running statistics."""
    import torch

    torch.set_num_threads(1)
    try:
        unread = find_unread(trial)
    except WeightsError as error:
        notify({"misfit": error.message_below(trial.path), "fix": error.fix, "code": error.code})
        return
    if unread:
        more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
        notify(
            {
                "misfit": f"{trial.model} does not load these parameters from the file: {', '.join(unread[:3])}{more}",
                "fix": "provide weights of the whole network, correct the plugin's `build`, or use --weights none",
                "code": "weights-unread",
            }
        )
        return
    notify({"fits": True})


Sampled = tuple[tuple[int, ...], bytes]  # shape, and values of some elements


def find_unread(trial: Trial) -> list[str]:
    """List the parameters and running statistics that the file must set, and that do not depend on its values.

    These are those of `weights_part`, else all outside the head.

    They are equal when the network is built from the file and from a copy with other values, with the same seed.
    The seed alone does not reveal them: a plugin may draw from a generator of its own.
    """
    module = build_trial(trial)
    first, classes = sample_state(module), classes_of(module)
    del module
    with TemporaryDirectory(prefix="zoo-weights-", dir=trial.folder) as folder:
        copy = Path(folder) / trial.path.name
        try:
            perturb_weights(trial.path, copy, classes)
        except WeightsError:
            return []  # in a format that only the plugin reads
        try:
            second = sample_state(build_trial(replace(trial, request=replace(trial.request, weights=copy))))
        except Exception:  # a plugin may raise anything for other values, and has then read them
            return []
    equal = [name for name, values in first.items() if values == second.get(name)]
    if part := trial.spec.weights_part:
        return [name for name in equal if name.startswith(f"{part}.")]
    if trial.spec.classifier:
        heads = [f"{name}." for name in trial.spec.classifier.split(",")]
    else:
        heads = find_resized_heads(trial, first) if equal else []
    return [name for name in equal if not name.startswith(tuple(heads))]


def perturb_weights(path: Path, copy: Path, classes: Sequence[type]) -> None:
    """Write a copy of a weights file in which every floating-point value v is replaced by .7311 - v.

    Zeros, constant signs and constant scales change too. Of a module of these classes that was saved whole, the copy is
    the state dict. Raises WeightsError if the file cannot be read.
    """
    import torch

    def perturb(value: Any) -> Any:
        if isinstance(value, dict):
            changed = shallow_copy(value)  # a state dict has a type and attributes of its own
            changed.update({key: perturb(part) for key, part in value.items()})
            return changed
        return 0.7311 - value.detach() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(perturb(read_stored(path)), copy, metadata={"format": "pt"})
        return
    stored = read_stored(path, classes)
    torch.save(perturb(stored.state_dict() if isinstance(stored, torch.nn.Module) else stored), copy)


def find_resized_heads(trial: Trial, first: Mapping[str, Sampled]) -> list[str]:
    """Build the network with one more output, and find the heads, whose parameters change their shape.

    If the file contains a head of the right size, this build may fail; then there is no random head.
    """
    larger = replace(trial, request=replace(trial.request, num_outputs=trial.request.num_outputs + 1))
    try:
        second = sample_state(build_trial(larger))
    except Exception:  # a plugin may raise anything for a head of another size
        return []
    return find_heads(list(first), [name for name in first if first[name][0] != second.get(name, ((),))[0]])


def find_heads(names: Sequence[str], resized: Sequence[str]) -> list[str]:
    """The name prefixes of the child modules that contain the `resized` parameters.

    A head may have several layers ("head.0", "head.2"), so the whole child is the head. Modules that wrap the whole
    network are skipped.
    """
    paths = [name.split(".") for name in names]
    depth = 0
    while len({tuple(path[: depth + 1]) for path in paths}) == 1 and len(paths[0]) > depth + 1:
        depth += 1
    prefixes = {tuple(name.split(".")[: depth + 1]): name for name in resized}
    return [".".join(prefix) + ("." if ".".join(prefix) != name else "") for prefix, name in prefixes.items()]


def build_trial(trial: Trial) -> nn.Module:
    with seeded(0):
        return call_build(trial.spec, trial.request)


def sample_state(module: nn.Module) -> dict[str, Sampled]:
    """Sample about 1000 evenly spaced elements of each parameter and running statistic of a network."""
    from torch.nn.modules.batchnorm import _NormBase

    tensors: dict[str, Tensor] = dict(module.named_parameters())
    for prefix, part in module.named_modules():
        if isinstance(part, _NormBase) and part.running_mean is not None and part.running_var is not None:
            own = {"running_mean": part.running_mean, "running_var": part.running_var}
            tensors |= {f"{prefix}.{name}".lstrip("."): tensor for name, tensor in own.items()}
    sampled = {}
    for name, tensor in tensors.items():
        values = tensor.detach().float().flatten()
        sampled[name] = (tuple(tensor.shape), values[:: max(1, len(values) // 1000)].numpy().tobytes())
    return sampled
