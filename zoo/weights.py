"""Find the pretrained weights of a model while planning; missing ones are refused or marked before anything starts."""

from __future__ import annotations

import difflib
import importlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from zoo.errors import DataError, UsageError, WeightsError, ZooError, nearest
from zoo.executor import Notify, execute
from zoo.fields import find_fault
from zoo.files import FileMemo, hash_in_name, parse_toml
from zoo.models import call_build, seeded
from zoo.registry import HUB, ModelChoice, Registry
from zoo.specs import BuildRequest, FetchRequest, ModelSpec, Weights
from zoo.system import can_fork, num_cores, versions

Policy = Literal["pretrained", "auto", "none"]
Progress = Callable[[int, int | None], None]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
PROBE_SECONDS = 3.0
TRIAL_SECONDS = 300.0  # a network that takes longer to build is left to its runs
HUB_URL = "https://huggingface.co"
FIT_VERSION = 2  # of what is remembered of weights that fit


@dataclass(frozen=True, kw_only=True)
class LocalCard:
    """What is known of a file that is named after its architecture alone: what the card beside it declares.

    The published weights of the architecture may be others, so that nothing is taken from them.
    """

    mean: tuple[float, ...] = ()  # empty: not declared
    std: tuple[float, ...] = ()
    license: str = ""
    pretraining: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """What a model starts from: a file and its digest, or random init."""

    init: Literal["pretrained", "random"]
    path: Path | None = None
    digest: str = ""
    tag: str = ""
    fallback: bool = False  # pretrained weights were wanted and could not be had
    local: LocalCard | None = field(default=None, compare=False)  # of a file that no published tag is known for

    @property
    def build_tag(self) -> str:
        """The tag that `build` may rely on: a published one."""
        return "" if self.local else self.tag

    def normalization(self, spec: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the network's input: the weights' own, else the architecture's."""
        published = next(
            (each for each in spec.weights if self.init == "pretrained" and each.tag == self.build_tag), spec
        )
        mean, std = (self.local.mean, self.local.std) if self.local else ((), ())
        return mean or published.mean, std or published.std

    def pretraining(self, spec: ModelSpec) -> list[str] | None:
        """The data that the weights were trained on; None where nobody says, nothing for random init."""
        if self.init == "random":
            return []
        if self.local:
            return list(self.local.pretraining) or None
        return next(
            (list(each.pretraining) for each in spec.weights if each.tag == self.tag and each.pretraining), None
        )


RANDOM = InitialWeights(init="random")


def find_all_weights(
    choices: Sequence[ModelChoice],
    policy: Policy,
    *,
    weights_dir: Path | None,
    cache: Path,
    offline: bool,
    progress: Progress | None = None,
) -> list[InitialWeights]:
    """Find every model's weights: in `weights_dir` (else `$ZOO_WEIGHTS`), in this machine's caches, on the network.

    Under `pretrained` all that cannot be had are named in one WeightsError; under `auto` they are marked as a fallback.
    Hosts are asked once, together, for at most three seconds: a library's own retries take 50.
    """
    if policy == "none":
        return [RANDOM for _ in choices]
    brought = weights_folder(weights_dir)
    memo = FileMemo(cache)
    folder = cache / "weights"
    try:
        found = [find_on_disk(choice, brought, folder) for choice in choices]
        missing = [c for c, path in zip(choices, found, strict=True) if path is None and c.weights]
        reachable = set() if offline else reachable_hosts({c.weights.url for c in missing if c.weights})
        results = []
        faults = []
        for choice, path in zip(choices, found, strict=True):
            if choice.weights is None and path is None:
                results.append(RANDOM)  # there are none to be had
                continue
            reason = ""
            if path is None and choice.weights:
                path, reason = fetch(choice.spec, choice.weights, folder, reachable, offline, progress)
            if path is None:
                faults.append((choice, reason))
                results.append(InitialWeights(init="random", fallback=True))
                continue
            results.append(describe_file(choice, path, memo(path), brought))
    finally:
        memo.close()
    if faults and policy == "pretrained":
        raise missing_weights(faults, brought, folder)
    return results


def describe_file(choice: ModelChoice, path: Path, digest: str, brought: Path | None) -> InitialWeights:
    """A file as the published weights that its name or digest says, else as a local file with the card beside it."""
    card = path.with_suffix(".toml")
    is_tagged = path.parent != brought or path.stem != choice.spec.name
    if choice.weights and (is_tagged or (not card.is_file() and is_published(choice.weights, digest))):
        return InitialWeights(init="pretrained", path=path, digest=digest, tag=choice.weights.tag)
    tag = f"local-{digest[:8]}" if choice.weights else path.stem
    local = read_local_card(card, choice.spec)
    return InitialWeights(init="pretrained", path=path, digest=digest, tag=tag, local=local)


def is_published(weights: Weights, digest: str) -> bool:
    """Whether a sha256 begins with the hash in the name of the published file; False where the name has none."""
    hashes = map(hash_in_name, (*weights.file_names, urlsplit(weights.url).path.rpartition("/")[2]))
    return any(digest.startswith(start) for start in hashes if start)


def read_local_card(path: Path, spec: ModelSpec) -> LocalCard:
    """The card beside a file of weights; empty where there is none. A WeightsError names what is wrong in it."""
    if not path.is_file():
        return LocalCard()
    try:
        document = parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise bad_card(path, str(error)) from error
    names = [part.name for part in fields(LocalCard)]
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in document.items()}
    card = LocalCard(**{name: value for name, value in values.items() if name in names})
    for name in document.keys() - set(names):
        raise bad_card(path, f"unknown key {name!r} {nearest(name, names)}".strip())
    if fault := find_fault(card, LocalCard):
        raise bad_card(path, fault)
    if bool(card.mean) != bool(card.std) or len(card.mean) not in (0, spec.channels) or len(card.std) != len(card.mean):
        raise bad_card(path, f"mean and std: expected {spec.channels} numbers each, or neither")
    if any(not 0 < value < inf for value in card.std):
        raise bad_card(path, f"std is {card.std}, expected numbers above 0")
    return card


def bad_card(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path}: {reason}", fix="correct that line: mean, std, license and pretraining", code="bad-weights-card"
    )


def find_hub_model(name: str, registry: Registry, cache: Path, *, offline: bool) -> ModelChoice:
    """The model that `hf-hub:owner/name` holds, described by the hub's own files: from its cache, else downloaded."""
    family = registry.find("model", HUB.rstrip(":"))
    if family.find is None:
        raise UsageError(
            f"model {name!r}: the plugin that offers {family.name!r} cannot look names up", fix="update the plugin"
        )
    offline = offline or not reachable_hosts({HUB_URL})
    spec = family.find(FetchRequest(name=name, folder=cache / "weights", offline=offline))
    release = registry.release_of(registry.qualified("model", HUB.rstrip(":")))
    return ModelChoice(name=name, spec=spec, weights=spec.weights[0], shown=name, release=release)


def find_model_spec(name: str, registry: Registry, cache: Path) -> ModelSpec:
    """The spec of a planned run's model, in whatever process."""
    if name.startswith(HUB):
        return find_hub_model(name, registry, cache, offline=True).spec
    return registry.find("model", name)


def weights_folder(asked: Path | None) -> Path | None:
    """The folder of files that somebody brought: the one asked for, else `$ZOO_WEIGHTS`; a UsageError if it is none."""
    folder = asked or (Path(os.environ["ZOO_WEIGHTS"]) if os.environ.get("ZOO_WEIGHTS") else None)
    if folder is None or (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        return folder
    met = "may not be read" if folder.is_dir() else "not a folder" if folder.exists() else "no such folder"
    flag = "--weights-dir" if asked else "$ZOO_WEIGHTS"
    raise UsageError(f"{folder}: {met}", fix=f"name in {flag} the folder that holds files of weights, or leave it out")


def missing_weights(faults: Sequence[tuple[ModelChoice, str]], brought: Path | None, cached: Path) -> WeightsError:
    choice, reason = faults[0]
    tag = choice.weights.tag if choice.weights else ""
    file = f"{choice.spec.name}.{tag}.safetensors or .pth"
    looked = f"not in {brought}, which holds {list_files(brought, choice.spec.name)}; " if brought else ""
    place = f"put {file} into it" if brought else f"put {file} into a folder and say --weights-dir FOLDER"
    others = f" (and {len(faults) - 1} more: {', '.join(c.shown for c, _ in faults[1:])})" if len(faults) > 1 else ""
    return WeightsError(
        f"weights {choice.spec.name}.{tag} cannot be had{others}: {looked}{reason}; not in {cached}",
        fix=f"{place}, or say --weights auto (fall back to random init, marked) or --weights none",
        code="weights-missing",
    )


def list_files(folder: Path, wanted: str) -> str:
    """The files of weights in a folder, in a few words: the three whose names are nearest to what was wanted."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(SUFFIXES))
    if not names:
        return f"no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file"
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0)
    return ", ".join(near) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def find_on_disk(choice: ModelChoice, brought: Path | None, folder: Path) -> Path | None:
    local = find_local_weights(choice.spec, choice.weights, brought)
    if local or choice.weights is None or choice.spec.fetch_weights is None:
        return local
    return choice.spec.fetch_weights(
        FetchRequest(name=choice.spec.name, tag=choice.weights.tag, folder=folder, offline=True)
    )


def find_local_weights(spec: ModelSpec, weights: Weights | None, folder: Path | None) -> Path | None:
    """Look in `folder` for a file named after the model and tag, else after the model alone.

    The latter does not say which weights it holds, so that it never stands for other tags than the default one.
    """
    if folder is None:
        return None
    names = [f"{spec.name}{suffix}" for suffix in SUFFIXES]
    if weights:
        tagged = [f"{spec.name}.{weights.tag}{suffix}" for suffix in SUFFIXES] + list(weights.file_names)
        names = tagged + (names if weights.tag == spec.weights[0].tag else [])
    return next((folder / name for name in names if (folder / name).is_file()), None)


def fetch(
    spec: ModelSpec, weights: Weights, folder: Path, reachable: Iterable[str], offline: bool, progress: Progress | None
) -> tuple[Path | None, str]:
    """Download one file, or say in a few words why it could not be."""
    if offline:
        return None, "--offline"
    if spec.fetch_weights is None:
        return None, "its plugin does not download"
    host = host_of(weights.url)
    if host not in reachable:
        return None, f"{host or 'its host'} cannot be reached"
    request = FetchRequest(name=spec.name, tag=weights.tag, folder=folder, progress=progress)
    try:
        path = spec.fetch_weights(request)
    except (DataError, WeightsError, OSError) as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return path, "" if path else "not found"


def host_of(url: str) -> str:
    """The scheme and host a download would contact: the hub's may be another by `$HF_ENDPOINT`."""
    parts = urlsplit(url)
    if parts.netloc == urlsplit(HUB_URL).netloc and os.environ.get("HF_ENDPOINT"):
        parts = urlsplit(os.environ["HF_ENDPOINT"])
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def reachable_hosts(urls: Iterable[str]) -> set[str]:
    """Which hosts of these URLs answer at all within three seconds, all asked at once.

    In threads: looking a name up has no time-out of its own.
    """
    import requests

    def ask(host: str, answered: set[str]) -> None:
        try:
            requests.head(host, timeout=PROBE_SECONDS, allow_redirects=False)
        except requests.RequestException:
            return
        answered.add(host)

    hosts = {host_of(url) for url in urls} - {""}
    answered: set[str] = set()
    threads = [threading.Thread(target=partial(ask, host, answered), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(answered)


# --- whether weights fit ---------------------------------------------------------------------------------------------
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
    for event in execute(range(len(trials)), carry_out, devices=workers, reuse=True, timeout=TRIAL_SECONDS):
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
