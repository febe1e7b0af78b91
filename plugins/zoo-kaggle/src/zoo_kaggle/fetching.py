"""A Kaggle handle to the folder of its files: found on this machine, else downloaded by kagglehub into its cache."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from zoo import DataError, find_data

Progress = Callable[[int, int | None], None]

HANDLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)?")
TOKENS = "https://www.kaggle.com/settings"
DEEPEST = 4  # folders in folders, each alone, that an archive may add around a set


def check_handle(handle: str) -> str:
    """`owner/name` or `competition`, without what the address of its page adds."""
    handle = re.sub(r"^(https?://)?(www\.)?kaggle\.com/", "", handle)
    handle = re.sub(r"^(datasets|competitions|c)/", "", handle).rstrip("/")
    if not HANDLE.fullmatch(handle):
        raise DataError(f"kaggle:{handle}: no name of a set", fix="kaggle:owner/name or kaggle:competition")
    return handle


def page_of(handle: str) -> str:
    return f"https://www.kaggle.com/{'datasets' if '/' in handle else 'competitions'}/{handle}"


# --- where the files may lie -----------------------------------------------------------------------------------------
def bring(handle: str, data: Path, *, offline: bool, progress: Progress | None = None) -> Path:
    """The folder of a set's files. `data` is zoo's data folder, where a zip can be put by hand."""
    own = data / "kaggle" / handle.replace("/", "--")
    if found := find_data(places(handle, own), progress) or find_in_hub_cache(handle):
        return found
    if offline:
        raise missing(handle, own, "not on this machine, and nothing is downloaded now (--offline, or zoo info)")
    return download(handle, own)


def places(handle: str, own: Path) -> list[Path]:
    """Folders of a set, in the order they are looked for; each may be a zip instead. The name alone is Kaggle's own."""
    roots = [own.parent]
    if os.environ.get("ZOO_KAGGLE"):
        roots.append(Path(os.environ["ZOO_KAGGLE"]).expanduser())
    return [root / name for root in roots for name in dict.fromkeys((own.name, handle.rpartition("/")[2]))]


def find_in_hub_cache(handle: str) -> Path | None:
    """What kagglehub has downloaded whole, its newest version; kagglehub itself would ask the network which that is."""
    cache = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    if "/" not in handle:
        folder = cache / "competitions" / handle
        return folder if folder.is_dir() and folder.with_name(f"{handle}.complete").exists() else None
    markers = [path for path in (cache / "datasets" / handle).glob("*.complete") if path.stem.isdecimal()]
    versions = [marker.parent / "versions" / marker.stem for marker in sorted(markers, key=lambda path: int(path.stem))]
    return next((version for version in reversed(versions) if version.is_dir()), None)


def settle(folder: Path, images: str, handle: str) -> Path:
    """The folder in which a card's pattern names images: this one, the one above if it stripped a level, or below."""
    pattern = re.sub(r"\{[^{}]+\}", "*", images)
    candidates = [folder] if pattern.split("/")[0] != folder.name else [folder, folder.parent]
    for _ in range(DEEPEST):
        inside = [path for path in candidates[-1].iterdir() if path.is_dir()]
        if len(inside) != 1 or candidates[-1] == folder.parent:
            break
        candidates.append(inside[0])
    for candidate in candidates:
        if next(candidate.glob(pattern), None):
            return candidate
    packed = sorted(path.name for path in folder.glob("*") if re.search(r"\.(zip|7z)(\.\d+)?$", path.name))
    if packed:
        raise DataError(
            f"kaggle:{handle}: {len(packed)} archives in {folder} are not unpacked: {', '.join(packed[:3])}, ...",
            fix="unpack them there (join parts first: cat train.zip.* > train.zip)",
        )
    raise DataError(
        f"kaggle:{handle}: no image in {folder} is named like {images!r}", fix=f"compare with {page_of(handle)}"
    )


def missing(handle: str, own: Path, why: str, fix: str = "") -> DataError:
    """One line that says why, and where the files can be put by hand."""
    by_hand = f"download it from {page_of(handle)} and put it at {own}.zip, or unpacked into {own}"
    return DataError(f"kaggle:{handle}: {why}", fix=f"{fix}, or {by_hand}" if fix else by_hand, code="kaggle")


# --- download --------------------------------------------------------------------------------------------------------
def download(handle: str, own: Path) -> Path:
    """Have kagglehub bring a set: it shows its bar, resumes and unpacks. What goes wrong is one line, a DataError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it talks, and stdout may be one JSON document
            import kagglehub

            bring_it = kagglehub.dataset_download if "/" in handle else kagglehub.competition_download
            return Path(bring_it(handle))
    except ImportError as error:
        why = f"not on this machine, and kagglehub cannot be imported ({error})"
        raise missing(handle, own, why, "pip install 'zoo-kaggle[download]'") from error
    except Exception as error:
        explain(error, handle, own)


def explain(error: Exception, handle: str, own: Path) -> NoReturn:
    """What kagglehub raises, as one line. It wraps what requests raises, and its own errors share no class."""
    import requests

    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = f"make a token at {TOKENS} and save it as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY"
    if kind in ("UnauthenticatedError", "CredentialError") or status == 401:
        raise missing(handle, own, "Kaggle wants credentials, and has none that it accepts", log_in) from error
    if status == 403 and "/" not in handle:
        why = "the competition's rules are not accepted, or the credentials are missing"
        raise missing(handle, own, why, f"accept them at {page_of(handle)}/rules") from error
    if status == 403:
        raise missing(handle, own, "private, or it wants your consent or credentials", log_in) from error
    if status == 404 or kind == "NotFoundError":
        raise DataError(
            f"kaggle:{handle}: Kaggle has no such set", fix=f"compare with the address of its page, {page_of(handle)}"
        ) from error
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        raise missing(handle, own, f"Kaggle cannot be reached ({kind})", "run again when it can") from error
    if isinstance(error, OSError) and error.errno:
        raise DataError(
            f"kaggle:{handle}: {error.filename or 'the download'}: {error.strerror}",
            fix="make room there and run again, or put the files into ZOO_KAGGLE",
        ) from error
    text = " ".join(str(error).split())[:200]
    raise missing(handle, own, f"the download failed: {kind}: {text}", "run again") from error
