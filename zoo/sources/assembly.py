"""Assemble the DatasetSpec and Samples of a card and its folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError
from zoo.images.formats import read_header, read_image, read_spacing, split_frame
from zoo.images.placement import Spacing
from zoo.images.reading import AS_STORED, Header, Reading
from zoo.images.volumes import count_stored_channels
from zoo.sources.cards import PATH_FACTS, DatasetCard, card_error, describe_nested, placeholders
from zoo.sources.clips import CLIP
from zoo.sources.frames import check_frame_sizes, choose_axis, expand_clips, expand_frames
from zoo.sources.headers import Headers
from zoo.sources.intensity import NUM_MEASURED, choose_reading, is_measured, record_reading
from zoo.sources.joining import RESERVED, Joined, join_table
from zoo.sources.level_groups import find_level_groups
from zoo.sources.listing import Listing, one_form
from zoo.sources.official import find_official_splits
from zoo.sources.patients import Patients, find_patients
from zoo.sources.tables import index_images
from zoo.sources.targets import ReadTargets, understand_targets
from zoo.sources.whole_volumes import volume_readers
from zoo.specs.dataset import FACTS, SPLITS, AmbiguityNote, DatasetSpec, Origin, Samples

if TYPE_CHECKING:
    import pandas


# DICOM tags that may predict the class without showing the disease (device, view, person). The audit tests them.
CONFOUNDER_TAGS = tuple(
    "Modality Manufacturer ManufacturerModelName StationName BodyPartExamined ViewPosition Laterality ImageLaterality "  # noqa: SIM905
    "PatientSex PatientAge".split()
)
MEASURED_ON_TRAIN = "zoo bench measures these levels again in every fold, on its train images only"
LARGEST_OWN_SIZE = 224  # images up to this size are used at their own size, larger ones at the protocol's


@dataclass(frozen=True, eq=False)
class Assembled:
    """The spec and samples of a dataset."""

    spec: DatasetSpec  # without its `samples`, which the caller sets
    samples: Samples
    channel_notes: tuple[str, ...] = ()  # reported unless the pixels show that all images are gray


@dataclass(frozen=True, eq=False)
class Facts:
    """What card, table and headers state about the images; no pixel is decoded."""

    joined: Joined
    volume_reading: Reading  # how volumes are cut
    headers: dict[str, Header]  # by file
    conflicts: tuple[tuple[str, str], ...]
    targets: ReadTargets
    splits: list[str]
    split_notes: tuple[str, ...]
    patients: Patients


def assemble(
    card: DatasetCard,
    listing: Listing,
    origin: Path,
    name: str,
    notes: tuple[str, ...] = (),
    doubts: tuple[AmbiguityNote, ...] = (),
) -> Assembled:
    """Assemble everything but the pixels. `origin` is the path the user named, for messages."""
    root, facts = listing.root, find_facts(card, listing, origin)
    files, headers = facts.joined.files, list(facts.headers.values())
    extra_columns = find_path_columns(card, facts.joined) | find_tag_columns(facts.joined, facts.headers)
    readers = (
        Readers(volume_readers(root, facts.targets, facts.joined.channels, facts.volume_reading))
        if card.dims == 3
        else image_readers(card, root, facts)
    )
    samples = Samples(
        table=build_table(card, facts.joined, facts.splits, facts.patients.texts).assign(
            **extra_columns, **readers.columns
        ),
        targets=facts.targets.targets,
        files=tuple(root / file for file in files),
        notes=(*notes, *describe_facts(facts), *readers.notes, *describe_readers(facts.volume_reading)),
        tables=tuple(root / name for name in tables_of(card) if "*" not in name),
        origin=Origin(path=origin, root=root, card_root=root),
        doubts=(*doubts, *facts.patients.doubts),
        frames={name: part.model_dump() for name in ("slices", "frames") if (part := getattr(card, name))},
        patient=card.patient.model_dump(include={"regex", "tag"}, exclude_defaults=True) if card.patient else {},
        **readers.fields,
    )
    spec = build_spec(card, facts, tuple(extra_columns), name=card.name or name, title=card.title or root.name)
    if card.dims == 3:
        spec = replace(spec, channels=count_channels(root, facts.joined))
    return Assembled(spec, samples, describe_channels(headers))


@dataclass(frozen=True, eq=False)
class Readers:
    """How the images of a dataset are read: fields of Samples, columns of the table, and notes."""

    fields: Mapping[str, Any]
    columns: Mapping[str, list[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def count_channels(root: Path, joined: Joined) -> int:
    """The channels of the first volume: its files, or those that its file stores. The others must have as many."""
    several = next(iter(joined.channels.values()), ())
    return len(several) or count_stored_channels(root / joined.files[0])


def image_readers(card: DatasetCard, root: Path, facts: Facts) -> Readers:
    """Choose one reading for all images, slices and frames."""
    files, headers = facts.joined.files, list(facts.headers.values())
    reading, reading_notes = choose_reading(
        card, [root / file for file in facts.headers], headers, facts.volume_reading
    )
    level_groups = find_level_groups(root, facts.headers, reading)
    measured = is_measured(card, headers)
    fields = {
        "masks": facts.targets.masks,
        "second_masks": facts.targets.second_masks,
        "read": partial(read_below, root, reading),
        "spacing": partial(spacing_below, root, reading),
        "reading": record_reading(reading),
        "read_by": partial(read_by, card, root, facts.headers, facts.volume_reading) if measured else None,
    }
    notes = (
        *reading_notes,
        *([MEASURED_ON_TRAIN] if measured else []),
        *level_groups.notes,
        *describe_scans(card, headers),
    )
    columns = {name: [groups.get(file, "") for file in files] for name, groups in level_groups.columns.items()}
    return Readers(fields, columns, notes)


def find_facts(card: DatasetCard, listing: Listing, origin: Path) -> Facts:
    """Read table, headers, labels, splits and patients; one error reports all mistakes in the last three."""
    with Headers(listing.root, replace(AS_STORED, crop=card.crop)) as tag_headers:
        joined = expand_clips(card, join_table(card, listing, origin, tag_headers))
    volume_reading = choose_axis(card, listing.root, joined.images)
    with Headers(listing.root, volume_reading) as headers:
        check_frame_sizes(joined, headers)
        by_file = {} if card.dims == 3 else headers.sample(joined.images)  # volumes are read whole, later
        joined = expand_frames(card, joined, by_file)
        conflicts, mistakes = find_reading_conflicts(card, joined, listing)
        (targets, (splits, split_notes), patients) = attempt_all(
            origin,
            mistakes,
            lambda: understand_targets(card, joined, listing.root),
            lambda: find_official_splits(card, joined, listing),
            lambda: find_patients(card, joined, headers),
        )
    if mistakes := find_unknown_labels(card, targets.labels):
        raise card_error(origin, mistakes)
    return Facts(joined, volume_reading, by_file, conflicts, targets, splits, tuple(split_notes), patients)


def describe_facts(facts: Facts) -> tuple[str, ...]:
    """Return the notes on files, labels, splits and patients, in this order."""
    missing = describe_missing_classes(facts.targets, facts.splits)
    return (*facts.joined.notes, *facts.targets.notes, *facts.split_notes, *missing, *facts.patients.notes)


def build_spec(
    card: DatasetCard, facts: Facts, extra_columns: tuple[str, ...], *, name: str, title: str
) -> DatasetSpec:
    """Build the spec. `extra_columns` are those that paths and headers add to the table."""
    headers, cells = list(facts.headers.values()), facts.joined.cells
    official_splits = tuple(split for split in SPLITS if split in facts.splits)
    return DatasetSpec(
        name=name,
        title=title,
        task=facts.targets.task,
        labels=facts.targets.labels,
        positive=facts.targets.positive,
        samples=unset,
        channels=1 if all(header.channels == 1 for header in headers) else 3,
        image_size=own_size(headers),
        patient=facts.patients.meaning,
        official_splits=official_splits if len(official_splits) > 1 else (),  # a folder `train` alone is no split
        metadata=(*(c for c in card.metadata if c not in card.hide and c in cells), *extra_columns),
        known_conflicts=facts.conflicts,
        **common_fields(card),
    )


def find_unknown_labels(card: DatasetCard, labels: Sequence[str]) -> list[str]:
    return [
        f"label_map: unknown label {label!r}; the labels are {', '.join(labels)}"
        for label in map(one_form, card.label_map)
        if label not in labels
    ]


def common_fields(card: DatasetCard) -> dict[str, Any]:
    """Return the spec fields that a card sets for files and for arrays alike; the title has a default."""
    return {
        **{name: getattr(card, name) for name in FACTS if name != "title"},
        "checksums": card.checksums,
        "intensity": card.intensity if isinstance(card.intensity, tuple) else None,
        "folds": card.split.folds if card.split else None,
        "val_share": card.split.val_share if card.split else None,
        "label_map": {one_form(label): one_form(other) for label, other in card.label_map.items()},
    }


def tables_of(card: DatasetCard) -> list[str]:
    """List the files that labels, patients and splits are read from."""
    lists = [name for _, name in card.split.lists()] if card.split else []
    return [name for name in (card.table, card.add.table if card.add else "", *lists) if name]


def attempt_all(origin: Path, mistakes: list[str], *steps: Callable[[], Any]) -> list[Any]:
    """Return the result of each step; if several fail, raise one error with all messages."""
    results: list[Any] = []
    errors: list[DataError] = [card_error(origin, mistakes)] if mistakes else []
    for step in steps:
        try:
            results.append(step())
        except DataError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise card_error(origin, [*mistakes, *map(describe_nested, errors[bool(mistakes) :])])
    return results


def find_reading_conflicts(
    card: DatasetCard, joined: Joined, listing: Listing
) -> tuple[tuple[tuple[str, str], ...], list[str]]:
    """Return the card's known conflicts as pairs of sample ids, without those of excluded images; and mistakes."""
    if not card.known_conflicts:
        return (), []
    sample_id = dict(zip(joined.images, joined.sample_ids, strict=True))
    index = index_images(listing.root, tuple({*joined.images, *listing.images}))
    pairs, mistakes = [], []
    for number, names in enumerate(card.known_conflicts):
        try:
            a, b = (index.find_one(name) for name in names)
        except DataError as error:
            mistakes.append(f"known_conflicts.{number}: {error.message}")
            continue
        if a in sample_id and b in sample_id:
            pairs.append((sample_id[a], sample_id[b]))
    return tuple(pairs), mistakes


def describe_missing_classes(targets: ReadTargets, splits: list[str]) -> list[str]:
    """Return one note per official split without an image of some class."""
    if not targets.task.classes:
        return []
    of_split = {split: np.array(splits) == split for split in SPLITS if split in splits}
    present = np.unique(targets.targets)
    notes = []
    for split, rows in of_split.items():
        missing = [targets.labels[label] for label in present if label not in targets.targets[rows]]
        notes += [f"{split} has no image of {', '.join(missing)}"] if missing else []
    return notes


def unset(request: object) -> Samples:  # noqa: ARG001
    raise AssertionError("replaced by find_source")


def read_below(root: Path, reading: Reading, image: str) -> Array:
    """Return the pixels of an image, or of one frame of a file, named relative to the folder."""
    path, frame = file_and_frame(root, image)
    return read_image(path, frame, reading)


def spacing_below(root: Path, reading: Reading, image: str) -> Spacing | None:
    """Return the millimeters per pixel of an image, if its file declares them."""
    path, frame = file_and_frame(root, image)
    return read_spacing(path, frame, reading)


def read_by(
    card: DatasetCard, root: Path, by_file: Mapping[str, Header], volume_reading: Reading, images: Sequence[str]
) -> tuple[Callable[[str], Array], dict[str, Any]]:
    """Choose how one fold reads its images, from the levels of its train `images` only."""
    files = {image if image in by_file else split_frame(image)[0] for image in images}
    headers = {file: header for file, header in by_file.items() if file in files}
    if len(headers) < min(NUM_MEASURED, len(files)):
        spread = sorted(files)[:: -(-len(files) // NUM_MEASURED)]  # sorted by class folder
        headers |= {file: read_header(root / file, volume_reading) for file in spread if file not in headers}
    reading, _ = choose_reading(card, [root / file for file in headers], list(headers.values()), volume_reading)
    return partial(read_below, root, reading), record_reading(reading)


def file_and_frame(root: Path, image: str) -> tuple[Path, int | None]:
    name, frame = split_frame(image)
    if frame is None or (root / image).is_file():  # a file may be called `scan#1`
        return root / image, None
    return root / name, frame


def build_table(card: DatasetCard, joined: Joined, splits: list[str], patients: list[str]) -> pandas.DataFrame:
    """Build the table: sample_id, image, split and patient (if any), then the other columns but labels and hidden."""
    import pandas

    columns: dict[str, Any] = {"sample_id": joined.sample_ids, "image": joined.images}
    if splits:
        columns["split"] = splits
    if patients:
        columns["patient"] = patients
    used = {card.label.column, *card.label.columns, *card.hide, card.join.column if card.join else ""}
    used |= {card.split.column if card.split else "", card.patient.column if card.patient else ""}
    used |= set() if card.join else set(placeholders(card.images)) - set(card.metadata)
    for column in joined.cells.columns:
        if column not in used and column not in RESERVED:
            columns[column] = list(joined.cells[column])
    return pandas.DataFrame(columns)


def find_path_columns(card: DatasetCard, joined: Joined) -> dict[str, list[str]]:
    """Return the other placeholders of the paths (a site, a view) as columns; the audit tests them."""
    others = set(joined.cells.columns) | {*PATH_FACTS, *RESERVED, CLIP, *card.hide}
    names = [name for name in joined.captures[0] if name not in others]
    return {name: [captures[name] for captures in joined.captures] for name in names}


def find_tag_columns(joined: Joined, headers: Mapping[str, Header]) -> dict[str, list[str]]:
    """Return the DICOM tags in which the images differ as columns; a column of the same name in the table wins."""
    own_columns = {column.lower() for column in joined.cells.columns}
    tags = [headers[file].tags if file in headers else {} for file in joined.files]
    columns = {keyword: [each.get(keyword, "") for each in tags] for keyword in CONFOUNDER_TAGS}
    columns["PatientAge"] = [re.sub(r"^0*(\d+)Y$", r"\1", age) for age in columns["PatientAge"]]  # 057Y
    return {
        keyword: cells
        for keyword, cells in columns.items()
        if len(set(cells)) > 1 and keyword.lower() not in own_columns
    }


# --- notes on the images ---------------------------------------------------------------------------------------------
def own_size(headers: list[Header]) -> int | None:
    """Return the longest side if all headers share it and it is small, else None."""
    sides = {max(header.width, header.height) for header in headers}
    return sides.pop() if len(sides) == 1 and max(sides) <= LARGEST_OWN_SIZE else None


def describe_scans(card: DatasetCard, headers: list[Header]) -> tuple[str, ...]:
    """Return notes on text in the pixels, which can reveal the label."""
    scans = sum(header.modality == "US" for header in headers)
    burned = sum(header.tags.get("BurnedInAnnotation") == "YES" for header in headers)
    notes = []
    if burned:
        notes.append(
            f"{burned} files declare text burned into their pixels (BurnedInAnnotation): it can reveal the label"
        )
    if scans and not card.crop:
        advice = 'text burned into them can reveal the label (in dataset.toml: crop = "ultrasound-region")'
        notes.append(f"{scans} ultrasound images: {advice}")
    return tuple(notes)


def describe_readers(reading: Reading) -> tuple[str, ...]:
    return (f"files are read by {', '.join(reading.readers)}",) if reading.readers else ()


def describe_channels(headers: list[Header]) -> tuple[str, ...]:
    counts = Counter(header.channels for header in headers)
    if len(counts) < 2:
        return ()
    return (f"{counts[1]} gray and {counts[3]} color images among {len(headers)} headers: all are read as color",)
