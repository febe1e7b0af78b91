"""Find the files of a Kaggle dataset on this machine, or download them with kagglehub into its cache."""

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
MAX_NESTING = 4  # single folders inside each other that an archive may add around a dataset


def check_handle(handle: str) -> str:
    """Strip the address of a Kaggle page down to `owner/name` or `competition`."""
    handle = re.sub(r"^(https?://)?(www\.)?kaggle\.com/", "", handle)
    handle = re.sub(r"^(datasets|competitions|c)/", "", handle).rstrip("/")
    if not HANDLE.fullmatch(handle):
        raise DataError(f"kaggle:{handle} is not a valid name", fix="kaggle:owner/name or kaggle:competition")
    return handle


def page_of(handle: str) -> str:
    return f"https://www.kaggle.com/{'datasets' if '/' in handle else 'competitions'}/{handle}"


# --- files on this machine -------------------------------------------------------------------------------------------
def fetch_folder(handle: str, data: Path, *, offline: bool, progress: Progress | None = None) -> Path:
    """Return the folder of a dataset's files. `data` is zoo's data folder, where users can put a zip."""
    own = data / "kaggle" / handle.replace("/", "--")
    if folder := find_data(local_places(handle, own), progress) or find_in_hub_cache(handle):
        return folder
    if offline:
        raise missing_files(handle, own, "not on this machine, and downloads are off (--offline, or zoo info)")
    return download(handle, own)


def local_places(handle: str, own: Path) -> list[Path]:
    """List the possible folders of a dataset, in order; each may be a zip. Kaggle itself omits the owner."""
    roots = [own.parent]
    if os.environ.get("ZOO_KAGGLE"):
        roots.append(Path(os.environ["ZOO_KAGGLE"]).expanduser())
    return [root / name for root in roots for name in dict.fromkeys((own.name, handle.rpartition("/")[2]))]


def find_in_hub_cache(handle: str) -> Path | None:
    """Return the newest complete version in kagglehub's cache, without the network that kagglehub itself would use."""
    cache = Path(os.environ.get("KAGGLEHUB_CACHE") or Path.home() / ".cache" / "kagglehub")
    if "/" not in handle:
        folder = cache / "competitions" / handle
        return folder if folder.is_dir() and folder.with_name(f"{handle}.complete").exists() else None
    markers = [path for path in (cache / "datasets" / handle).glob("*.complete") if path.stem.isdecimal()]
    versions = [marker.parent / "versions" / marker.stem for marker in sorted(markers, key=lambda path: int(path.stem))]
    return next((version for version in reversed(versions) if version.is_dir()), None)


def find_root(folder: Path, images: str, handle: str) -> Path:
    """Return the folder to which a card's pattern applies: this one, its parent if a level is missing, or one below."""
    pattern = re.sub(r"\{[^{}]+\}", "*", images)
    candidates = [folder] if pattern.split("/")[0] != folder.name else [folder, folder.parent]
    for _ in range(MAX_NESTING):
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
            f"kaggle:{handle}: {len(packed)} archives in {folder} must be unpacked: {', '.join(packed[:3])}, ...",
            fix="unpack them there (join parts first: cat train.zip.* > train.zip)",
        )
    raise DataError(f"kaggle:{handle}: no image in {folder} matches {images!r}", fix=f"compare with {page_of(handle)}")


def missing_files(handle: str, own: Path, why: str, fix: str = "") -> DataError:
    """The error for missing files: the reason, and where to put them manually."""
    manual_fix = f"download it from {page_of(handle)} and put it at {own}.zip, or unpacked into {own}"
    return DataError(f"kaggle:{handle}: {why}", fix=f"{fix}, or {manual_fix}" if fix else manual_fix, code="kaggle")


# --- download --------------------------------------------------------------------------------------------------------
def download(handle: str, own: Path) -> Path:
    """Download a dataset with kagglehub, which shows a bar, resumes and unpacks. Any failure is a DataError."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # kagglehub prints, and stdout may be one JSON document
            import kagglehub

            download_files = kagglehub.dataset_download if "/" in handle else kagglehub.competition_download
            return Path(download_files(handle))
    except ImportError as error:
        why = f"not on this machine, and kagglehub cannot be imported ({error})"
        raise missing_files(handle, own, why, "pip install 'zoo-kaggle[download]'") from error
    except Exception as error:
        raise_explained(error, handle, own)


def raise_explained(error: Exception, handle: str, own: Path) -> NoReturn:
    """Raise a one-line error for an error of kagglehub, which wraps those of requests; its own share no base class."""
    import requests

    kind = type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    log_in = f"make a token at {TOKENS} and save it as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY"
    if kind in ("UnauthenticatedError", "CredentialError") or status == 401:
        raise missing_files(handle, own, "Kaggle requires valid credentials", log_in) from error
    if status == 403 and "/" not in handle:
        why = "the competition's rules are not accepted, or the credentials are missing"
        raise missing_files(handle, own, why, f"accept them at {page_of(handle)}/rules") from error
    if status == 403:
        raise missing_files(handle, own, "private, or Kaggle requires your consent or credentials", log_in) from error
    if status == 404 or kind == "NotFoundError":
        raise DataError(
            f"kaggle:{handle}: not found on Kaggle", fix=f"compare with the address of its page, {page_of(handle)}"
        ) from error
    if isinstance(error, requests.ConnectionError | requests.Timeout):
        raise missing_files(
            handle, own, f"Kaggle cannot be reached ({kind})", "check the network and run again"
        ) from error
    if isinstance(error, OSError) and error.errno:
        raise DataError(
            f"kaggle:{handle}: {error.filename or 'the download'}: {error.strerror}",
            fix="free some disk space and run again, or put the files into ZOO_KAGGLE",
        ) from error
    text = " ".join(str(error).split())[:200]
    raise missing_files(handle, own, f"the download failed: {kind}: {text}", "run again") from error
