"""Find or download the file of a weights tag: folder of the request, cache of torch, verified download."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from zoo import DataError, FetchRequest, WeightsError, download, hash_in_name


def checkpoints_folder() -> Path:
    """Folder in which `torch.hub` stores weights, determined without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")  # noqa: PTH118 - `~` may stand inside
    return Path(home).expanduser() / "hub" / "checkpoints"


def fetch_weights(urls: Mapping[str, str], request: FetchRequest) -> Path | None:
    """Return the local file of a tag, downloaded unless `offline`; None if there is none."""
    tag = request.tag or next(iter(urls), "")
    if tag not in urls:
        return None
    name = urls[tag].rpartition("/")[2]
    places = [request.folder / f"{request.name}.{tag}{suffix}" for suffix in (".safetensors", ".pth")]
    places += [request.folder / name, checkpoints_folder() / name]
    path = next((place for place in places if place.is_file()), None)
    if path or request.offline:
        return path
    return download_weights(urls[tag], request.folder / name, request)


def download_weights(url: str, path: Path, request: FetchRequest) -> Path:
    """Download to `path` and compare with the start of the sha256 in its name."""
    try:
        return download(url, path, sha256=hash_in_name(path.name), progress=request.progress)
    except DataError as error:
        raise WeightsError(error.message, fix=error.fix, code=error.code) from error
