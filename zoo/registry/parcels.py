"""Folders of runs packed into one file, as which they travel from a machine that shares no folder with the bench."""

from __future__ import annotations

import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

from zoo.sources.archives import unpack
from zoo.system.files import folder_written_whole, written_whole

RUN_FOLDERS = "*/*/[!.]*"  # of a results folder: dataset/model/run


def pack_runs(results: Path, parcel: Path) -> None:
    """Write the folders of all runs in a results folder to a tar; write nothing if there are none."""
    folders = [folder for folder in sorted(results.glob(RUN_FOLDERS)) if folder.is_dir()]
    if folders:
        with written_whole(parcel) as temporary, tarfile.open(temporary, "w") as archive:
            for folder in folders:
                archive.add(folder, arcname=folder.relative_to(results).as_posix())


def unpack_runs(parcel: Path, results: Path) -> None:
    """Write the folder of every run in a tar to a results folder, each whole; one that exists is replaced.

    Raises DataError for a damaged tar.
    """
    with TemporaryDirectory(dir=parcel.parent, prefix=".parcel-") as temporary:
        unpacked = unpack(parcel, Path(temporary) / "results")
        for folder in sorted(unpacked.glob(RUN_FOLDERS)):
            target = results / folder.relative_to(unpacked)
            target.parent.mkdir(parents=True, exist_ok=True)
            with folder_written_whole(target) as whole:
                for path in folder.iterdir():
                    path.rename(whole / path.name)
