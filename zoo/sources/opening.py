"""Resolve a path (class folders, a table beside images, dataset.toml, .npz) to a DatasetSpec."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import DataError, UsageError
from zoo.images.formats import without_suffix
from zoo.sources.archives import find_unpacked, is_archive_name
from zoo.sources.arrays import find_npz, read_npz_samples
from zoo.sources.listing import TABLE_SUFFIXES, Listing, list_folder, one_form
from zoo.sources.synopsis import read_synopsis, read_toml_document, said_root
from zoo.specs.dataset import AmbiguityNote, DatasetSpec, Samples, SamplesRequest
from zoo.system.files import cache_root, written_whole
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from zoo.sources.assembly import Assembled
    from zoo.sources.cards import DatasetCard


CARD_NAME = "dataset.toml"


# --- data that somebody has ------------------------------------------------------------------------------------------
def find_source(path: Path, progress: Progress | None = None) -> DatasetSpec:
    """The dataset at a path: its files listed, its labels read, no pixel decoded; DataError, in one line, if it cannot.

    A folder of class folders, with or without train, val and test above them; a table beside images, or a folder with
    one; a `dataset.toml`, or a folder with one; a `.npz` in MedMNIST's layout; a zip or tar of any of these.
    """
    return find_recognized(path, (), progress)


def npz_of(path: Path) -> Path | None:
    """The npz that a path means: itself, or the only file of images in a folder without a card."""
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return path
    if not path.is_dir() or (path / CARD_NAME).exists():
        return None
    arrays = [each for each in sorted(path.iterdir()) if each.suffix.lower() == ".npz" and each.is_file()]
    return arrays[0] if len(arrays) == 1 and not list_folder(path).images else None


def find_recognized(path: Path, published: Iterable[DatasetSpec], progress: Progress | None = None) -> DatasetSpec:
    """The dataset at a path; an npz that a published dataset has the checksum of, as that one describes it."""
    from zoo.sources.recognition import recognize

    path, archive = locate(path, progress)
    if npz := npz_of(path):
        return recognize(find_npz(npz, dataset_name(path.stem)), npz, published)
    return replace(understand(path, progress=progress).spec, samples=partial(read_source, path, archive))


def locate(path: Path, progress: Progress | None = None) -> tuple[Path, Path | None]:
    """The path in full; of an archive, the folder that it is unpacked to, and the archive."""
    path = path.expanduser().resolve()
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder", fix="correct the path; `zoo list datasets` shows the names", code="data"
        )
    if is_archive_name(path.name) and not path.is_dir():
        return find_unpacked(path, cache_root(), progress), path
    return path, None


def read_source(path: Path, archive: Path | None, request: SamplesRequest) -> Samples:
    """The Samples of a folder, table or card; looked up again, so that a worker process needs the path alone."""
    from zoo.sources.colour import settle_colour

    return in_archive(settle_colour(understand(path), request.progress), path, archive)


def in_archive(samples: Samples, path: Path, archive: Path | None) -> Samples:
    """The samples of an unpacked folder, which a card is to find in its archive: the cache may be deleted."""
    if archive is None or samples.origin is None:
        return samples
    inner = samples.origin.root.relative_to(path.resolve())
    return replace(samples, origin=replace(samples.origin, card_root=archive / inner))


def understand(path: Path, root: Path | None = None, progress: Progress | None = None) -> Assembled:
    """A card, said or guessed, and the files it speaks of, put together; `root` overrules where it says they lie."""
    from zoo.sources.assembly import assemble
    from zoo.sources.packed import assemble_packed

    found = find_card(path, root, progress)
    if isinstance(found.listing, Path):
        return assemble_packed(found.card, found.listing, found.path, found.name)
    return assemble(found.card, found.listing, found.path, found.name, found.notes, found.doubts)


@dataclass(frozen=True, eq=False)
class Found:
    """A card, said or guessed, and the files it speaks of: those of a folder, or an npz."""

    card: DatasetCard
    listing: Listing | Path
    path: Path  # what the user named, or the card in it
    name: str  # where the card does not say one
    notes: tuple[str, ...] = ()  # on what was guessed
    doubts: tuple[AmbiguityNote, ...] = ()


def find_card(path: Path, root: Path | None = None, progress: Progress | None = None) -> Found:
    """The card of a folder, table or `.toml`, what it leaves open guessed; no label is read yet."""
    from zoo.sources.cards import read_card
    from zoo.sources.guess import complete_by_table, guess_card

    card_path = path / CARD_NAME if path.is_dir() else path
    if card_path.suffix == ".toml" and card_path.is_file():
        card = read_card(card_path)
        said = said_root(card_path, card.root)
        root = root or unpacked(said, progress)
        name = dataset_name(card_path.parent.name)
        if root.suffix.lower() == ".npz" and root.is_file():
            return Found(card, root, card_path, name)
        if not root.is_dir():
            raise DataError(f"{card_path}: root: no folder {root}", fix="correct `root`, or put the data there")
        if not card.leaves_files_open:
            listing = list_folder(root)
            card, notes = complete_by_table(card, listing)
            return Found(card, listing, card_path, name, notes)
        guess = guess_card(root, card)
        return Found(card.completed_by(guess.card), guess.listing, card_path, name, guess.notes, guess.doubts)
    if path.is_file() and path.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{path}: not a folder, .csv, .tsv, .xlsx, .parquet, .npz, .zip, .tar or {CARD_NAME}",
            fix="name one of these as the dataset",
        )
    guess = guess_card(path)
    name = dataset_name(path.name if path.is_dir() else f"{path.parent.name}-{path.stem}")
    return Found(guess.card, guess.listing, path, name, guess.notes, guess.doubts)


def unpacked(root: Path, progress: Progress | None = None) -> Path:
    """The folder that a card names: as it is, or inside an archive, `set.zip/inner`."""
    for archive in (root, *root.parents):
        if is_archive_name(archive.name) and archive.is_file():
            return find_unpacked(archive, cache_root(), progress) / root.relative_to(archive)
    return root


# --- cards that zoo writes -------------------------------------------------------------------------------------------
def write_card(path: Path, output: Path | None = None) -> Path:
    """Write what was guessed of a folder, table, npz or archive to `output`, or beside it; read back, it is the same.

    No pixel is decoded. UsageError where a file is there already, or none can be written.
    """
    from zoo.sources.writing import card_of_arrays, compose_card, relative_root

    named = path.expanduser().resolve()
    packed = named.is_file() and named.suffix.lower() not in TABLE_SUFFIXES  # others may lie beside an npz or archive
    folder = named if named.is_dir() else named.parent
    target = output or (folder / f"{without_suffix(named.name)}.toml" if packed else folder / CARD_NAME)
    check_free(target)
    path, archive = locate(path)
    if npz := npz_of(path):
        spec, samples = find_npz(npz, dataset_name(path.stem)), read_npz_samples(npz)
        text = compose_card(card_of_arrays(spec), spec, relative_root(npz, target), ())
    else:
        found, assembled = find_card(path), understand(path)
        if is_card(found.path):
            raise UsageError(f"{named}: {found.path.name} says already what it is", fix="correct that one")
        spec, samples = assembled.spec, in_archive(assembled.samples, path, archive)
        assert samples.origin
        text = compose_card(found.card, spec, relative_root(samples.origin.card_root, target), samples.notes)
    write_new(target, text)
    assert_same(samples, understand(target.resolve()).samples)
    return target


def write_card_without(spec: DatasetSpec, samples: Samples, dropped: Collection[str], target: Path) -> Path:
    """Write a card of the same samples without those in `dropped`, by sample id; nothing else is touched.

    The set's own card is kept as it stands, but for `name`, `root` and `drop`; where it has none, the guess is written.
    """
    from zoo.sources.writing import card_of_arrays, compose_card, files_of, leave_out, relative_root

    check_free(target)
    origin = samples.origin
    if origin is None:
        raise no_card(spec.name)
    remarks = [
        f"`zoo audit --fix` wrote this: {spec.name} without {len(dropped)} images that its audit found (`drop`)."
    ]
    changes: dict[str, object] = {"name": f"{spec.name}-fixed"}
    changes |= {"root": relative_root(origin.card_root, target)}
    if origin.root.is_file():
        kept = set(samples.table["sample_id"]) - set(dropped)
        changes["drop"] = [each for each in read_npz_samples(origin.root).table["sample_id"] if each not in kept]
        own = is_card(origin.path)
        text = read_text(origin.path) if own else compose_card(card_of_arrays(spec), spec, "", ())
    else:
        found = find_card(origin.path, origin.root)
        assert not isinstance(found.listing, Path)
        changes["drop"] = [*found.card.drop, *files_of(found.card, found.listing, samples, dropped)]
        own = is_card(origin.path)
        text = read_text(origin.path) if own else compose_card(found.card, spec, "", found.notes)
    write_new(target, leave_out(text, changes, remarks))
    return target


def no_card(name: str) -> UsageError:
    return UsageError(
        f"dataset {name!r} is made by its plugin's code: no dataset.toml can say what that does",
        fix="`zoo bench --drop-leaks` leaves the copies out",
        code="no-card",
    )


def is_card(path: Path) -> bool:
    return path.suffix == ".toml"


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def check_free(target: Path) -> None:
    if target.suffix != ".toml":
        raise UsageError(f"{target}: the name of a card ends in .toml", fix=f"write {target.with_suffix('.toml').name}")
    if target.exists():
        raise UsageError(f"{target}: exists already, and is not overwritten", fix="name another file, or remove it")


def write_new(target: Path, text: str) -> None:
    try:
        with written_whole(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{target}: {error.strerror}", fix="name a file that can be written (--output FILE)"
        ) from error


def assert_same(a: Samples, b: Samples) -> None:
    """A card that reads other samples than those it was written from is a bug here, not a mistake of the user's."""
    import numpy as np

    assert a.table.equals(b.table), "the written card reads other rows"
    assert np.array_equal(a.targets, b.targets, equal_nan=a.targets.dtype.kind == "f"), "the written card: other labels"
    assert a.files == b.files, "the written card reads other files"


# --- data that a card describes --------------------------------------------------------------------------------------
def card_dataset(card: Path, *, folder: Callable[[SamplesRequest], Path] | None = None, name: str = "") -> DatasetSpec:
    """The dataset that a card file describes, listed without its data; they are looked for when it is opened.

    `folder(request)` returns the folder where they lie, and may bring them there. Without it they lie at the card's
    `root`, in `$ZOO_DATA/NAME`, or in zoo's own data folder, `request.folder`; each may be a zip of that name instead.
    """
    spec = read_synopsis(card)
    return replace(spec, name=name or spec.name, samples=partial(open_card, card, name or spec.name, folder))


def open_card(
    card: Path, name: str, folder: Callable[[SamplesRequest], Path] | None, request: SamplesRequest
) -> Samples:
    """The Samples of a card's data, with the card as they complete it. It must have said the task and labels found."""
    from zoo.sources.colour import settle_colour

    said = read_synopsis(card)
    said = replace(said, labels=tuple(map(one_form, said.labels)))
    root = folder(request) if folder else find_card_data(card, name, request)
    found = understand(card, root)
    for what in ("task", "labels"):
        if (a := getattr(said, what)) != (b := getattr(found.spec, what)):
            raise DataError(
                f"{card}: {what}: {show(a)}, but the data in {root} give {show(b)}",
                fix="correct the card, or bring the data it was written for",
                code="card",
            )
    samples = settle_colour(found, request.progress)
    return replace(samples, spec=replace(samples.spec or found.spec, name=name))


def show(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def find_card_data(card: Path, name: str, request: SamplesRequest) -> Path:
    document = read_toml_document(card)
    places = [said_root(card, document["root"])] if document.get("root") else []
    if os.environ.get("ZOO_DATA"):
        places.append(Path(os.environ["ZOO_DATA"]).expanduser() / name)
    places.append(request.folder)
    if found := find_data(places, request.progress):
        return found
    come_from = f"; they come from {document['url']}" if document.get("url") else ""
    raise DataError(
        f"dataset {name!r}: no data in {' or '.join(map(str, places))}",
        fix=f"put them into {places[0]}, or {places[0].name}.zip beside it{come_from}",
        code="data-missing",
    )


def find_data(places: list[Path], progress: Progress | None = None) -> Path | None:
    """The first place that is a folder with something in it, or has a zip of its name beside it, unpacked; or None."""
    for place in places:
        if place.is_dir() and any(True for _ in place.iterdir()):
            return place
        archive = place.with_name(f"{place.name}.zip")
        if archive.is_file():
            return find_unpacked(archive, cache_root(), progress)
    return None


# --- names -----------------------------------------------------------------------------------------------------------
def dataset_name(text: str) -> str:
    """Lower case, with only a-z, 0-9, "_", "." and "-": it becomes the name of a folder of results."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.\-]+", "_", plain).strip("._-") or "dataset"


def card_json_schema() -> dict[str, object]:
    """The JSON schema of `dataset.toml`."""
    from zoo.sources import cards

    return cards.card_schema()
