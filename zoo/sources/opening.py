"""Resolve a path (class folders, a table beside images, dataset.toml, .npz) to a DatasetSpec."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, UsageError, dataset_subject
from zoo.images.formats import without_suffix
from zoo.sources.archives import find_unpacked, is_archive_name
from zoo.sources.arrays import find_npz, read_npz_samples
from zoo.sources.listing import LIST_SUFFIXES, Listing, list_folder, one_form
from zoo.sources.synopsis import read_synopsis, read_toml_document, resolve_root
from zoo.specs.dataset import AmbiguityNote, DatasetSpec, Samples, SamplesRequest
from zoo.system.files import cache_root, written_whole
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from zoo.sources.assembly import Assembled
    from zoo.sources.cards import DatasetCard


CARD_NAME = "dataset.toml"


# --- data at a path --------------------------------------------------------------------------------------------------
def find_source(path: Path, progress: Progress | None = None) -> DatasetSpec:
    """Return the dataset at a path; its files are listed and its labels read, but no pixel is decoded.

    The path may be a folder of class folders, with or without train, val and test above them; a table beside images,
    or a folder with one; a `dataset.toml`, or a folder with one; a `.npz` in MedMNIST's layout; or a zip or tar of any
    of these.
    """
    return find_recognized(path, (), progress)


def npz_of(path: Path) -> Path | None:
    """Return the npz at a path: the file itself, or the only npz in a folder without images and card; else None."""
    if path.suffix.lower() == ".npz" and not path.is_dir():
        return path
    if not path.is_dir() or (path / CARD_NAME).exists():
        return None
    arrays = [each for each in sorted(path.iterdir()) if each.suffix.lower() == ".npz" and each.is_file()]
    return arrays[0] if len(arrays) == 1 and not list_folder(path).images else None


def find_recognized(path: Path, published: Iterable[DatasetSpec], progress: Progress | None = None) -> DatasetSpec:
    """Return the dataset at a path; an npz with the checksum of a published dataset gets its description."""
    from zoo.sources.recognition import recognize

    path, archive = locate(path, progress)
    if npz := npz_of(path):
        return recognize(find_npz(npz, dataset_name(path.stem)), npz, published)
    assembled = understand(path, progress=progress)
    return replace(assembled.spec, samples=SourceReader(path, archive, assembled))


def locate(path: Path, progress: Progress | None = None) -> tuple[Path, Path | None]:
    """Return the resolved path and None; for an archive, the folder it is unpacked to and the archive."""
    path = path.expanduser().resolve()
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder",
            fix="correct the path; `zoo list datasets` lists the names of datasets",
            code="data",
        )
    if is_archive_name(path.name) and not path.is_dir():
        return find_unpacked(path, cache_root(), progress), path
    return path, None


@dataclass(eq=False)
class SourceReader:
    """Returns the Samples of a folder, table or card; another process reads it again and needs only the path.

    perf: the first call uses what `find_source` read: 0.45 s less for a table of 3,000 images.
    """

    path: Path
    archive: Path | None
    assembled: Assembled | None

    def __call__(self, request: SamplesRequest) -> Samples:
        from zoo.sources.color import settle_color

        assembled, self.assembled = self.assembled or understand(self.path), None
        return in_archive(settle_color(assembled, request.progress), self.path, self.archive)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "assembled": None}


def in_archive(samples: Samples, path: Path, archive: Path | None) -> Samples:
    """Point the origin of unpacked samples to their archive, as a card must not refer to the cache."""
    if archive is None or samples.origin is None:
        return samples
    inner = samples.origin.root.relative_to(path.resolve())
    return replace(samples, origin=replace(samples.origin, card_root=archive / inner))


def understand(path: Path, root: Path | None = None, progress: Progress | None = None) -> Assembled:
    """Assemble a dataset from its written or guessed card and its files; `root` overrides the card's."""
    from zoo.sources.assembly import assemble
    from zoo.sources.packed import assemble_packed

    located = find_card(path, root, progress)
    if isinstance(located.listing, Path):
        return assemble_packed(located.card, located.listing, located.path, located.name)
    return assemble(located.card, located.listing, located.path, located.name, located.notes, located.doubts)


@dataclass(frozen=True, eq=False)
class LocatedCard:
    """A written or guessed card and its files: those of a folder, or an npz."""

    card: DatasetCard
    listing: Listing | Path
    path: Path  # the path the user named, or the card in it
    name: str  # used where the card sets none
    notes: tuple[str, ...] = ()  # on guesses
    doubts: tuple[AmbiguityNote, ...] = ()


def find_card(path: Path, root: Path | None = None, progress: Progress | None = None) -> LocatedCard:
    """Read or guess the card of a folder, table or `.toml`; fields it leaves open are guessed, labels not read yet."""
    from zoo.sources.cards import read_card
    from zoo.sources.guess import complete_by_table, guess_card

    card_path = path / CARD_NAME if path.is_dir() else path
    if card_path.suffix == ".toml" and card_path.is_file():
        card = read_card(card_path)
        root = root or unpack_if_archived(resolve_root(card_path, card.root), progress)
        name = dataset_name(card_path.parent.name)
        if root.suffix.lower() == ".npz" and root.is_file():
            return LocatedCard(card, root, card_path, name)
        if not root.is_dir():
            raise DataError(f"{card_path}: root: no such folder: {root}", fix="correct `root`, or put the data there")
        if not card.leaves_files_open:
            listing = list_folder(root)
            card, notes = complete_by_table(card, listing)
            return LocatedCard(card, listing, card_path, name, notes)
        guess = guess_card(root, card)
        return LocatedCard(card.completed_by(guess.card), guess.listing, card_path, name, guess.notes, guess.doubts)
    if path.is_file() and path.suffix.lower() not in LIST_SUFFIXES:
        raise DataError(
            f"{path}: not a folder, .csv, .tsv, .xlsx, .parquet, .json, .npz, .zip, .tar or {CARD_NAME}",
            fix="name one of these as the dataset",
        )
    guess = guess_card(path)
    name = dataset_name(path.name if path.is_dir() else f"{path.parent.name}-{path.stem}")
    return LocatedCard(guess.card, guess.listing, path, name, guess.notes, guess.doubts)


def unpack_if_archived(root: Path, progress: Progress | None = None) -> Path:
    """Return the folder that a card names; unpack the archive if it is in one, as `set.zip/inner` is."""
    for archive in (root, *root.parents):
        if is_archive_name(archive.name) and archive.is_file():
            return find_unpacked(archive, cache_root(), progress) / root.relative_to(archive)
    return root


# --- cards that zoo writes -------------------------------------------------------------------------------------------
def write_card(path: Path, output: Path | None = None) -> Path:
    """Write the guessed card of a folder, table, npz or archive to `output`, or beside it.

    The card is read back and must give the same samples. No pixel is decoded. Raise UsageError if the file exists or
    cannot be written.
    """
    from zoo.sources.writing import card_of_arrays, compose_card, relative_root

    data = path.expanduser().resolve()
    packed = data.is_file() and data.suffix.lower() not in LIST_SUFFIXES  # other data may lie beside an npz or archive
    folder = data if data.is_dir() else data.parent
    target = output or (folder / f"{without_suffix(data.name)}.toml" if packed else folder / CARD_NAME)
    check_free(target)
    path, archive = locate(path)
    if npz := npz_of(path):
        spec, samples = find_npz(npz, dataset_name(path.stem)), read_npz_samples(npz)
        text = compose_card(card_of_arrays(spec), spec, relative_root(npz, target), ())
    else:
        located, assembled = find_card(path), understand(path)
        if is_card(located.path):
            raise UsageError(f"{data}: already has a card, {located.path.name}", fix="edit that card")
        spec, samples = assembled.spec, in_archive(assembled.samples, path, archive)
        assert samples.origin
        text = compose_card(located.card, spec, relative_root(samples.origin.card_root, target), samples.notes)
    write_new(target, text)
    assert_same(samples, understand(target.resolve()).samples)
    return target


def write_card_without(spec: DatasetSpec, samples: Samples, dropped: Collection[str], target: Path) -> Path:
    """Write a card of the same samples without the sample ids in `dropped`.

    The dataset's own card is copied except for `name`, `root` and `drop`; without one, the guessed card is written.
    """
    from zoo.sources.writing import card_of_arrays, compose_card, files_of, leave_out, relative_root

    check_free(target)
    origin = samples.origin
    if origin is None:
        raise no_card(spec.name)
    remarks = [
        f"Written by `zoo audit --fix`: {spec.name} without {len(dropped)} images that its audit reports (`drop`)."
    ]
    changes: dict[str, object] = {"name": f"{spec.name}-fixed"}
    changes |= {"root": relative_root(origin.card_root, target)}
    if origin.root.is_file():
        kept = set(samples.table["sample_id"]) - set(dropped)
        changes["drop"] = [each for each in read_npz_samples(origin.root).table["sample_id"] if each not in kept]
        own = is_card(origin.path)
        text = read_text(origin.path) if own else compose_card(card_of_arrays(spec), spec, "", ())
    else:
        located = find_card(origin.path, origin.root)
        assert not isinstance(located.listing, Path)
        changes["drop"] = [*located.card.drop, *files_of(located.card, located.listing, samples, dropped)]
        own = is_card(origin.path)
        text = read_text(origin.path) if own else compose_card(located.card, spec, "", located.notes)
    write_new(target, leave_out(text, changes, remarks))
    return target


def no_card(name: str) -> UsageError:
    return UsageError(
        "it is defined by its plugin's code, which a dataset.toml cannot replace",
        subject=dataset_subject(name),
        fix="leave the copies out with `zoo bench --drop-leaks`",
        code="no-card",
    )


def is_card(path: Path) -> bool:
    return path.suffix == ".toml"


def read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8-sig")


def check_free(target: Path) -> None:
    if target.suffix != ".toml":
        raise UsageError(
            f"{target}: the name of a card must end in .toml", fix=f"name it {target.with_suffix('.toml').name}"
        )
    if target.exists():
        raise UsageError(f"{target}: exists already and is not overwritten", fix="name another file, or remove it")


def write_new(target: Path, text: str) -> None:
    try:
        with written_whole(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{target}: {error.strerror}", fix="name a file that can be written (--output FILE)"
        ) from error


def assert_same(a: Samples, b: Samples) -> None:
    """Assert that a written card gives the samples it was written from; a difference is a bug in zoo."""
    import numpy as np

    assert a.table.equals(b.table), "the written card reads other rows"
    assert np.array_equal(a.targets, b.targets, equal_nan=a.targets.dtype.kind == "f"), "the written card: other labels"
    assert a.files == b.files, "the written card reads other files"


# --- data that a card describes --------------------------------------------------------------------------------------
def card_dataset(card: Path, *, folder: Callable[[SamplesRequest], Path] | None = None, name: str = "") -> DatasetSpec:
    """Return the dataset that a card file describes; its data are located only when it is opened.

    `folder(request)` returns the folder of the data, and may download them. Without it the data are searched in the
    card's `root`, in `$ZOO_DATA/NAME`, and in zoo's own data folder, `request.folder`; each may be a zip of that name.
    """
    spec = read_synopsis(card)
    return replace(spec, name=name or spec.name, samples=partial(open_card, card, name or spec.name, folder))


def open_card(
    card: Path, name: str, folder: Callable[[SamplesRequest], Path] | None, request: SamplesRequest
) -> Samples:
    """Return the Samples of a card's data, whose task and labels must be those in the card."""
    from zoo.sources.color import settle_color

    synopsis = read_synopsis(card)
    synopsis = replace(synopsis, labels=tuple(map(one_form, synopsis.labels)))
    root = folder(request) if folder else find_card_data(card, name, request)
    assembled = understand(card, root)
    for what in ("task", "labels"):
        if (a := getattr(synopsis, what)) != (b := getattr(assembled.spec, what)):
            raise DataError(
                f"{card}: {what}: the card has {show(a)}, but the data in {root} have {show(b)}",
                fix="correct the card, or use the data it was written for",
                code="card",
            )
    samples = settle_color(assembled, request.progress)
    return replace(samples, spec=replace(samples.spec or assembled.spec, name=name))


def show(value: object) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def find_card_data(card: Path, name: str, request: SamplesRequest) -> Path:
    document = read_toml_document(card)
    places = [resolve_root(card, document["root"])] if document.get("root") else []
    if os.environ.get("ZOO_DATA"):
        places.append(Path(os.environ["ZOO_DATA"]).expanduser() / name)
    places.append(request.folder)
    if folder := find_data(places, request.progress):
        return folder
    download = f"; download them from {document['url']}" if document.get("url") else ""
    raise DataError(
        f"no data in {' or '.join(map(str, places))}",
        subject=dataset_subject(name),
        fix=f"put them into {places[0]}, or put {places[0].name}.zip beside it{download}",
        code="data-missing",
    )


def find_data(places: list[Path], progress: Progress | None = None) -> Path | None:
    """Return the first place that is a non-empty folder or has a zip of its name beside it (unpacked); or None."""
    for place in places:
        if place.is_dir() and any(True for _ in place.iterdir()):
            return place
        archive = place.with_name(f"{place.name}.zip")
        if archive.is_file():
            return find_unpacked(archive, cache_root(), progress)
    return None


# --- names -----------------------------------------------------------------------------------------------------------
def dataset_name(text: str) -> str:
    """Convert to lower case and a-z, 0-9, "_", "." and "-", for use as the name of a folder of results."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_.\-]+", "_", plain).strip("._-") or "dataset"


def card_json_schema() -> dict[str, object]:
    """The JSON schema of `dataset.toml`."""
    from zoo.sources import cards

    return cards.card_schema()
