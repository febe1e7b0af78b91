"""Find the pretrained weights of a model in a folder, in the caches, or on the network."""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from zoo.errors import DataError, UsageError, WeightsError, nearest
from zoo.registry.lookup import ModelChoice, Registry
from zoo.specs.dataset import FetchRequest
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.suite import Policy
from zoo.specs.validation import find_spec_fault
from zoo.system.downloads import download
from zoo.system.files import hash_bytes, hash_in_name
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress
from zoo.system.toml import parse_toml

WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
PROBE_SECONDS = 3.0
HUB_URL = "https://huggingface.co"
LOCAL_TAG = "local-"  # begins the tag of a file that is not known to be a published one; its digest follows


@dataclass(frozen=True, kw_only=True)
class LocalCard:
    """The declared facts about a weights file that is named after its architecture only, from the card beside it.

    The file may differ from the published weights of the architecture, so their facts do not apply.
    """

    mean: tuple[float, ...] = ()  # empty: not declared
    std: tuple[float, ...] = ()
    license: str = ""
    pretraining: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class InitialWeights:
    """The initial weights of a model: a file and its digest, random init, or none because nothing is drawn."""

    init: Literal["pretrained", "random", "fixed"]
    path: Path | None = None
    digest: str = ""
    tag: str = ""
    fallback: bool = False  # random init because the requested pretrained weights were not available
    local: LocalCard | None = field(default=None, compare=False)  # of a file without a published tag

    @property
    def build_tag(self) -> str:
        """The tag for `build`, if it is a published one, else ""."""
        return "" if self.local else self.tag

    def normalization(self, spec: ModelSpec) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the model's input: those of the weights, else of the architecture."""
        published = next(
            (weights for weights in spec.weights if self.init == "pretrained" and weights.tag == self.build_tag), spec
        )
        mean, std = (self.local.mean, self.local.std) if self.local else ((), ())
        return mean or published.mean, std or published.std

    def pretraining(self, spec: ModelSpec) -> list[str] | None:
        """The datasets that the weights were trained on; None if unknown, empty without a file."""
        if self.init != "pretrained":
            return []
        if self.local:
            return list(self.local.pretraining) or None
        return next((list(w.pretraining) for w in spec.weights if w.tag == self.tag and w.pretraining), None)


RANDOM = InitialWeights(init="random")
FIXED = InitialWeights(init="fixed")


def without_file(spec: ModelSpec) -> InitialWeights:
    """The initial weights of a model without a file of weights."""
    return FIXED if spec.fixed else RANDOM


def find_all_weights(
    choices: Sequence[ModelChoice],
    policy: Policy,
    *,
    weights_dir: Path | None,
    cache: Path,
    offline: bool,
    progress: Progress | None = None,
) -> list[InitialWeights]:
    """Find the weights of all models: in `weights_dir` (else `$ZOO_WEIGHTS`), in local caches, or on the network.

    Under `pretrained`, raise one WeightsError for all missing weights; under `auto`, mark them as a fallback. All
    hosts are checked once, concurrently, for at most three seconds: a library's own retries take 50.
    """
    if policy == "none":
        return [without_file(choice.spec) for choice in choices]
    local_folder = weights_folder(weights_dir)
    memo = FileMemo(cache)
    folder = cache / "weights"
    try:
        paths = [find_on_disk(choice, local_folder, folder) for choice in choices]
        missing = [c for c, path in zip(choices, paths, strict=True) if path is None and c.weights]
        reachable = set() if offline else reachable_hosts({c.weights.url for c in missing if c.weights})
        results = []
        faults = []
        for choice, path in zip(choices, paths, strict=True):
            if choice.weights is None and path is None:
                results.append(without_file(choice.spec))  # the model has no pretrained weights
                continue
            reason = ""
            if path is None and choice.weights:
                path, reason = fetch(choice.spec, choice.weights, folder, reachable, offline, progress)
            if path is None:
                faults.append((choice, reason))
                results.append(InitialWeights(init="random", fallback=True))
                continue
            results.append(describe_file(choice, path, memo(path), local_folder))
    finally:
        memo.close()
    if faults and policy == "pretrained":
        raise missing_weights(faults, local_folder, folder)
    return results


def describe_file(choice: ModelChoice, path: Path, digest: str, local_folder: Path | None) -> InitialWeights:
    """Identify a file as published weights by its name or digest, else as local weights with the card beside it."""
    card = path.with_suffix(".toml")
    is_tagged = path.parent != local_folder or path.stem != name_of_files(choice.spec)
    if choice.weights and (is_tagged or (not card.is_file() and is_published(choice.weights, digest))):
        return InitialWeights(init="pretrained", path=path, digest=digest, tag=choice.weights.tag)
    tag = f"{LOCAL_TAG}{digest[:8]}" if choice.weights else path.stem
    local = read_local_card(card, choice.spec)
    return InitialWeights(init="pretrained", path=path, digest=digest, tag=tag, local=local)


def is_published(weights: Weights, digest: str) -> bool:
    """Whether a sha256 begins with that of the published file; False if neither a field nor a name declares one."""
    hashes = (weights.sha256, *map(hash_in_name, (*weights.file_names, name_in_url(weights.url))))
    return any(digest.startswith(start) for start in hashes if start)


def read_local_card(path: Path, spec: ModelSpec) -> LocalCard:
    """The card beside a weights file; empty if there is none. Raises WeightsError if it is invalid."""
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
    if fault := find_spec_fault(card, LocalCard):
        raise bad_card(path, fault)
    is_of_images = spec.weights_of != "" and spec.dims == (3,)  # the file is that of a network for images
    if len(card.std) != len(card.mean) or (not is_of_images and len(card.mean) not in (0, spec.channels)):
        raise bad_card(path, f"mean and std: expected {spec.channels} numbers each, or neither")
    if any(not 0 < value < inf for value in card.std):
        raise bad_card(path, f"std is {card.std}, expected numbers above 0")
    return replace(card, mean=(), std=()) if is_of_images else card


def bad_card(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        reason, subject=path, fix="correct the card: mean, std, license and pretraining", code="bad-weights-card"
    )


def find_family_model(name: str, registry: Registry, cache: Path, *, offline: bool) -> ModelChoice | None:
    """The model `FAMILY:...` such as `hf-hub:owner/name`, from files in a cache or on the hub; None for other names."""
    family = registry.find_family("model", name)
    if family is None or family.find is None:
        return None
    offline = offline or not reachable_hosts({HUB_URL})
    spec = family.find(FetchRequest(name=name, folder=cache / "weights", offline=offline))
    release = registry.release_of(registry.qualified("model", family.name))
    return ModelChoice(name=name, spec=spec, weights=spec.weights[0], shown=name, release=release)


def find_model_spec(name: str, registry: Registry, cache: Path) -> ModelSpec:
    """The spec of a planned run's model, in any process."""
    return find_model(name, registry, cache).spec


def find_model(name: str, registry: Registry, cache: Path) -> ModelChoice:
    """The installed model of a planned or finished run, without its pretrained weights."""
    choice = find_family_model(name, registry, cache, offline=True)
    return choice or ModelChoice(
        name=name, spec=registry.find("model", name), weights=None, shown=name, release=registry.release_of(name)
    )


def weights_folder(requested: Path | None) -> Path | None:
    """The folder of local weights: `requested`, else `$ZOO_WEIGHTS`. Raises UsageError if it is not a folder."""
    folder = requested or (Path(os.environ["ZOO_WEIGHTS"]) if os.environ.get("ZOO_WEIGHTS") else None)
    if folder is None or (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
        return folder
    reason = "permission denied" if folder.is_dir() else "not a folder" if folder.exists() else "no such folder"
    flag = "--weights-dir" if requested else "$ZOO_WEIGHTS"
    raise UsageError(f"{folder}: {reason}", fix=f"set {flag} to a folder of weights files, or leave it out")


def missing_weights(faults: Sequence[tuple[ModelChoice, str]], local_folder: Path | None, cached: Path) -> WeightsError:
    choice, reason = faults[0]
    tag = choice.weights.tag if choice.weights else ""
    name = name_of_files(choice.spec)
    file = f"{name}.{tag}.safetensors or .pth"
    listing = list_weights_files(local_folder, name) if local_folder else ""
    local = f"not in {local_folder}, which holds {listing}; " if local_folder else ""
    place = f"put {file} into it" if local_folder else f"put {file} into a folder and pass --weights-dir FOLDER"
    others = f" (and {len(faults) - 1} more: {', '.join(c.shown for c, _ in faults[1:])})" if len(faults) > 1 else ""
    return WeightsError(
        f"weights {name}.{tag} are not available{others}: {local}{reason}; not in {cached}",
        fix=f"{place}, or use --weights auto (fall back to random init, marked) or --weights none",
        code="weights-missing",
    )


def list_weights_files(folder: Path, model: str) -> str:
    """Describe the weights files in a folder: the three with names nearest to that of the model."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(WEIGHTS_SUFFIXES))
    if not names:
        return f"no {', '.join(WEIGHTS_SUFFIXES[:-1])} or {WEIGHTS_SUFFIXES[-1]} file"
    near = difflib.get_close_matches(model, names, n=3, cutoff=0)
    return ", ".join(near) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def find_on_disk(choice: ModelChoice, local_folder: Path | None, folder: Path) -> Path | None:
    local = find_local_weights(choice.spec, choice.weights, local_folder)
    return local if local or choice.weights is None else find_cached(choice.spec, choice.weights, folder)


def find_cached(spec: ModelSpec, weights: Weights, folder: Path) -> Path | None:
    """The file of these weights that is on this machine: in `folder`, or where the plugin looks."""
    return fetch_file(
        spec, weights, FetchRequest(name=name_of_files(spec), tag=weights.tag, folder=folder, offline=True)
    )


def fetch_file(spec: ModelSpec, weights: Weights, request: FetchRequest) -> Path | None:
    """The file of these weights, by the `fetch_weights` of the model, else from their URL. None if there is none."""
    if spec.fetch_weights:
        return spec.fetch_weights(request)
    name = name_in_url(weights.url)
    if not name:
        return None
    path = request.folder / f"{hash_bytes(weights.url)[:12]}-{name}"  # other URLs end in the same name
    if request.offline:
        return path if path.is_file() else None
    return download(
        at_endpoint(weights.url), path, sha256=weights.sha256 or hash_in_name(name), progress=request.progress
    )


def name_in_url(url: str) -> str:
    return urlsplit(url).path.rpartition("/")[2]


def name_of_files(spec: ModelSpec) -> str:
    """The name of the model that files of its weights have."""
    return spec.weights_of or spec.name


def find_local_weights(spec: ModelSpec, weights: Weights | None, folder: Path | None) -> Path | None:
    """Look in `folder` for a file named after the model and tag, else after the model only.

    A name without a tag does not say which weights the file holds, so it is used only for the default tag.
    """
    if folder is None:
        return None
    name = name_of_files(spec)
    names = [f"{name}{suffix}" for suffix in WEIGHTS_SUFFIXES]
    if weights:
        tagged = [f"{name}.{weights.tag}{suffix}" for suffix in WEIGHTS_SUFFIXES] + list(weights.file_names)
        names = tagged + (names if weights.tag == spec.weights[0].tag else [])
    return next((folder / name for name in names if (folder / name).is_file()), None)


def fetch(
    spec: ModelSpec, weights: Weights, folder: Path, reachable: Iterable[str], offline: bool, progress: Progress | None
) -> tuple[Path | None, str]:
    """Download a file; return its path, or None and the reason."""
    if offline:
        return None, "--offline"
    if spec.fetch_weights is None and not weights.url:
        return None, "its plugin declares no URL"
    host = host_of(weights.url)
    if host not in reachable:
        return None, f"{host or 'its host'} cannot be reached"
    request = FetchRequest(name=name_of_files(spec), tag=weights.tag, folder=folder, progress=progress)
    try:
        path = fetch_file(spec, weights, request)
    except (DataError, WeightsError, OSError) as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return path, "" if path else "not found"


def host_of(url: str) -> str:
    """The scheme and host that a download contacts."""
    parts = urlsplit(at_endpoint(url))
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""


def at_endpoint(url: str) -> str:
    """The URL at `$HF_ENDPOINT`, if that is set and the URL is of the hub."""
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/")
    is_of_hub = url == HUB_URL or url.startswith(f"{HUB_URL}/")
    return f"{endpoint}{url.removeprefix(HUB_URL)}" if endpoint and is_of_hub else url


def reachable_hosts(urls: Iterable[str]) -> set[str]:
    """The hosts of these URLs that respond within three seconds, checked concurrently.

    This uses threads, because a DNS lookup has no timeout.
    """
    import requests

    def probe(host: str, reachable: set[str]) -> None:
        try:
            requests.head(host, timeout=PROBE_SECONDS, allow_redirects=False)
        except requests.RequestException:
            return
        reachable.add(host)

    hosts = {host_of(url) for url in urls} - {""}
    reachable: set[str] = set()
    threads = [threading.Thread(target=partial(probe, host, reachable), daemon=True) for host in hosts]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + PROBE_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return set(reachable)
