"""From a weights tag to its file: torch's own cache, the folder of the request, or a checked download."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from zoo import DataError, FetchRequest, WeightsError, download

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")  # resnet18-f37072fd.pth: the start of the file's sha256


def checkpoints_folder() -> Path:
    """Where `torch.hub` keeps downloaded weights, found without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")  # noqa: PTH118 - `~` may stand inside
    return Path(home).expanduser() / "hub" / "checkpoints"


def fetch_weights(urls: Mapping[str, str], request: FetchRequest) -> Path | None:
    """Return the local file of a tag, downloaded unless `offline`; None where there is none."""
    tag = request.tag or next(iter(urls), "")
    if tag not in urls:
        return None
    name = urls[tag].rpartition("/")[2]
    places = [request.folder / f"{request.name}.{tag}{suffix}" for suffix in (".safetensors", ".pth")]
    places += [request.folder / name, checkpoints_folder() / name]
    found = next((place for place in places if place.is_file()), None)
    if found or request.offline:
        return found
    return download_weights(urls[tag], request.folder / name, request)


def download_weights(url: str, path: Path, request: FetchRequest) -> Path:
    """Download to `path` and compare with the start of the sha256 that its name holds."""
    expected = HASH_IN_NAME.search(path.name)
    try:
        return download(url, path, sha256=expected[1] if expected else "", progress=request.progress)
    except DataError as error:
        raise WeightsError(error.message, fix=error.fix, code=error.code) from error
