"""Find or download the file of a weights tag: folder of the request, cache of the hub, hub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from zoo import DataError, FetchRequest, Weights, WeightsError, download, hash_in_name

if TYPE_CHECKING:
    from tqdm import tqdm

SUFFIXES = (".safetensors", ".pth")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # the second only in a few repositories of others
CONNECT_SECONDS = 5.0


def fetch_weights(weights: Sequence[Weights], request: FetchRequest) -> Path | None:
    """Return the local file of a tag, downloaded unless `offline`; None if there is none."""
    chosen = next((weight for weight in weights if weight.tag == request.tag or not request.tag), None)
    if chosen is None:
        return None
    names = [f"{request.name}.{chosen.tag}{suffix}" for suffix in SUFFIXES] + list(chosen.file_names)
    places = [request.folder / name for name in names]
    if path := next((place for place in places if place.is_file()), None):
        return path
    if chosen.file_names:  # not on the hub: a file at a URL
        return None if request.offline else download_url(chosen.url, request)
    repository = urlsplit(chosen.url).path.partition("/resolve/")[0]
    # the endpoint may have a path (https://mirror/hf); the repository is always the last two parts
    return fetch_from_hub("/".join(repository.split("/")[-2:]), HUB_FILES, request)


def fetch_from_hub(repository: str, names: Sequence[str], request: FetchRequest) -> Path | None:
    """Return the first of the files `names` in the hub's cache or, unless `offline`, on the hub."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError

    for name in names:
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    if request.offline or os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        return None
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        name = first_offered(endpoint, repository, names)
        path = hf_hub_download(
            repository, name, endpoint=endpoint, etag_timeout=CONNECT_SECONDS, tqdm_class=silent_bar(request.progress)
        )
    except GatedRepoError as error:
        raise WeightsError(
            f"{repository}: its owner requires you to accept a license first",
            fix=f"accept it at {endpoint}/{repository}, set HF_TOKEN, and run again",
        ) from error
    except EntryNotFoundError as error:
        raise WeightsError(
            f"{endpoint}/{repository} has no file named {' or '.join(names)}",
            fix="give a local file with --weights-dir, or --weights none",
        ) from error
    except Exception as error:  # httpx's, requests' and the hub's own errors, which differ between its versions
        reason = (str(error).splitlines() or [""])[0]
        raise WeightsError(
            f"{endpoint}/{repository}: {type(error).__name__}: {reason}",
            fix="check the network and run again, or give a local file with --weights-dir",
        ) from error
    return Path(path)


def first_offered(endpoint: str, repository: str, names: Sequence[str]) -> str:
    """First of `names` in the repository, with one short request each: the hub's own download retries for long."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    for name in names[:-1]:
        try:
            get_hf_file_metadata(hf_hub_url(repository, name, endpoint=endpoint), timeout=CONNECT_SECONDS)
        except EntryNotFoundError:
            continue
        return name
    get_hf_file_metadata(hf_hub_url(repository, names[-1], endpoint=endpoint), timeout=CONNECT_SECONDS)
    return names[-1]


def silent_bar(progress: Callable[[int, int | None], None] | None) -> type[tqdm[Any]]:
    """Make a silent progress bar that calls `progress`; hub downloads take a class, not a callable."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # an argument of the hub's own bar
            super().__init__(*args, **{**kwargs, "disable": True})
            self.n = int(kwargs.get("initial") or 0)
            self.expected = kwargs.get("total")

        def update(self, n: float | None = 1) -> bool | None:
            self.n += int(n or 0)
            if progress:
                progress(int(self.n), int(self.expected) if self.expected else None)
            return None

    return Bar


def download_url(url: str, request: FetchRequest) -> Path:
    """Download a file into the request's folder and compare it with the hash in its name, if there is one."""
    path = request.folder / url.rpartition("/")[2]
    try:
        return download(url, path, sha256=hash_in_name(path.name), progress=request.progress)
    except DataError as error:
        raise WeightsError(error.message, fix=error.fix, code=error.code) from error
