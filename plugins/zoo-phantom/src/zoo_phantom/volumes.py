"""Volumes of slices from the same painter: coherent anatomy, and lesions that are balls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo import SEGMENTATION, DatasetSpec, Samples, SamplesRequest
from zoo_phantom.datasets import CARD, DATASET, describe_patients
from zoo_phantom.exact import Array, Stream
from zoo_phantom.paint import lesion_weights, lesions_of, lung_share, paint
from zoo_phantom.parameters import COMPACT, PHANTOM, PhantomParameters
from zoo_phantom.scenes import LESION, SPLITS, Scenes, draw_patients, place_lesions, shape_anatomy
from zoo_phantom.storage import keep_array

if TYPE_CHECKING:
    import pandas

MM_PER_UNIT = 6.0
DEPTH = 16  # painted sections of each volume, as far apart as the pixels of a section
VISITS = (1, 2, 3)  # volumes of a patient, repeated over the patients of a split and shuffled
THICK_SHARE = 1 / 3  # of the volumes: pairs of sections are averaged to one


@dataclass(frozen=True, kw_only=True, eq=False)
class Stacks:
    """N volumes of `DEPTH` sections each: those of volume n are the slices DEPTH * n to DEPTH * (n + 1) of `scenes`."""

    scenes: Scenes
    patient: Array  # int64 (N,)
    visit: Array  # int64 (N,), from 0
    split: Array  # int64 (N,), index of SPLITS
    thick: Array  # bool (N,): its sections are averaged in pairs
    num_lesions: Array  # int64 (N,)

    @cached_property
    def ends(self) -> Array:
        """Where each volume ends in the array of stored sections, (N,)."""
        ends: Array = np.cumsum(np.where(self.thick, DEPTH // 2, DEPTH))
        return ends

    def spacing(self, volume: int) -> tuple[float, float, float]:
        """mm per voxel along the axes of a volume."""
        side = 64.0 / self.scenes.parameters.size * MM_PER_UNIT
        return side, side, 2 * side if self.thick[volume] else side


def draw_stacks(parameters: PhantomParameters, lesion_share: float) -> Stacks:
    """Draw volumes, of which `lesion_share` have lesions; `parameters.patients` are those of each split."""
    seed = parameters.seed
    stream = Stream(seed, "visits")
    visits = np.concatenate([stream.shuffled(np.resize(VISITS, number)) for number in parameters.patients])
    patient = np.repeat(np.arange(len(visits)), visits)
    number = len(patient)
    split = np.repeat(np.arange(len(SPLITS)), parameters.patients)[patient]
    thick, with_lesions = choose(seed, "thick", split, THICK_SHARE), choose(seed, "lesion", split, lesion_share)
    faint = Stream(seed, "faint").uniform((0, 1), number) < parameters.faint
    own = {name: values[patient] for name, values in draw_patients(parameters, len(visits)).items()}
    stream = Stream(seed, "anatomy")
    jitter = [stream.uniform((-0.6, 0.6), number) for _ in range(8)]
    middle = shape_anatomy(own, np.full(number, 0.5), jitter)
    balls = place_lesions(parameters, middle, with_lesions[:, None], faint)
    sections = np.repeat(np.arange(number), DEPTH)
    order = np.tile(np.arange(DEPTH), number)
    patients = {name: values[sections] for name, values in own.items()}
    scenes = Scenes(
        parameters=parameters,
        patient=patient[sections],
        order=order,
        split=split[sections],
        present=with_lesions[sections, None],
        known=np.ones((len(sections), 1), dtype=bool),
        faint=faint[sections],
        patients=patients,
        anatomy=shape_anatomy(patients, (order + 0.5) / DEPTH, [each[sections] for each in jitter]),
        lesions=cut_balls(parameters, balls),
    )
    return Stacks(
        scenes=scenes,
        patient=patient,
        visit=np.arange(number) - np.repeat(np.cumsum(visits) - visits, visits),
        split=split,
        thick=thick,
        num_lesions=np.bincount(balls["slice"], minlength=number),
    )


def choose(seed: int, name: str, split: Array, share: float) -> Array:
    """Choose this share of each split, rounded to whole volumes: bool (N,)."""
    score = Stream(seed, name).words(len(split))
    chosen = np.zeros(len(split), dtype=bool)
    for number in range(len(SPLITS)):
        rows = np.flatnonzero(split == number)
        chosen[rows[np.argsort(score[rows], kind="stable")[: round(share * len(rows))]]] = True
    return chosen


def cut_balls(parameters: PhantomParameters, balls: Array) -> Array:
    """The discs, of type LESION, in which the sections of their volumes cut balls; `slice` of a ball is its volume."""
    unit = 64.0 / parameters.size  # between sections
    center = Stream(parameters.seed, "depths").uniform((2.0, DEPTH - 2.0), len(balls))
    discs = [np.zeros(0, dtype=LESION)]
    for section in range(DEPTH):
        away = (section + 0.5 - center) * unit
        square = balls["radius"] * balls["radius"] - away * away
        cut = balls[square > 0.0].copy()
        cut["slice"] = cut["slice"] * DEPTH + section
        cut["radius"] = np.sqrt(square[square > 0.0])
        cut["density"] = 0.0  # the contrast of a ball is the same in all of its sections
        discs.append(cut)
    together = np.concatenate(discs)
    return together[np.argsort(together["slice"], kind="stable")]


# --- painted once ----------------------------------------------------------------------------------------------------
def paint_stacks(stacks: Stacks, progress: Callable[[int, int | None], None] | None = None) -> Array:
    """The sections of all volumes, uint16 (K, size, size), one volume after the other."""
    painted = paint(stacks.scenes, progress).astype(np.uint32)
    return join_sections(stacks, painted, lambda pairs: (pairs.sum(axis=1) + 1) // 2).astype("<u2")


def mask_stacks(stacks: Stacks) -> Array:
    """The masks of all sections, uint8 (K, size, size): 1 where a lesion fills at least half of a voxel."""
    size, scenes = stacks.scenes.parameters.size, stacks.scenes
    share = np.zeros((len(scenes.patient), size, size), dtype=np.float32)
    for start in range(0, len(share), DEPTH):
        sections = np.arange(start, start + DEPTH)
        lesions = lesions_of(scenes, sections)
        weights = lesion_weights(scenes, lesions, lung_share(scenes, sections)[lesions["slice"] - start])
        np.maximum.at(share, lesions["slice"], weights.astype(np.float32))
    joined = join_sections(stacks, share, lambda pairs: (pairs[:, 0] + pairs[:, 1]) * 0.5)
    return (joined >= 0.5).astype(np.uint8)


def join_sections(stacks: Stacks, sections: Array, average: Callable[[Array], Array]) -> Array:
    """Average the sections of thick volumes in pairs by `average`: (n, 2, size, size) -> (n, size, size)."""
    volumes = sections.reshape(-1, DEPTH, *sections.shape[1:])
    pairs = volumes.reshape(len(volumes), DEPTH // 2, 2, *sections.shape[1:])
    return np.concatenate(
        [average(pairs[number]) if thick else volumes[number] for number, thick in enumerate(stacks.thick)]
    )


def read_stack(path: Path, ends: Array, volume: int) -> Array:
    """A volume (A, B, C) in the RAS+ order of axes: to the right, to the front, to the head."""
    sections = np.load(path, mmap_mode="r", allow_pickle=False)
    start = int(ends[volume - 1]) if volume else 0
    # Sections go from top to bottom, their rows to the back, their columns to the left.
    return np.ascontiguousarray(sections[start : ends[volume]][::-1, ::-1, ::-1].transpose(2, 1, 0))


# --- the datasets ----------------------------------------------------------------------------------------------------
VOLUMES = replace(
    PHANTOM,
    seed=20_250_605,
    size=32,
    patients=(60, 28, 32),
    findings=(COMPACT,),
    lesions=(1, 3),
    radius=(3.5, 6.5),
    margin=3.0,
    separation=12.0,
)
STACKS: dict[str, tuple[PhantomParameters, float]] = {
    "phantom_seg3d": (VOLUMES, 0.8),
    "phantom3d": (replace(VOLUMES, seed=20_250_606), 0.5),
}
SHA256_OF_STACKS = {  # of the sections, as computed by storage.digest
    "phantom_seg3d": "c98cf1ee000d82db1a8caf5b0fc42b2edcce66f7b19b889183608201ba4994b5",
    "phantom3d": "d249caf467868c0167691e041bb9e054baf642b272d01c62dd7f62d838d193cb",
}
SHA256_OF_STACKED_MASKS = "f8ff894c7710a4d41ff87132a05b2c4627391008ebe68fb533cfcb02490f9235"


def open_stacks(request: SamplesRequest, name: str) -> Samples:
    """Open a set of volumes, painted into `request.folder` the first time and verified every time."""
    stacks = draw_stacks(*STACKS[name])
    path = keep_array(
        request.folder / f"{name}.npy", SHA256_OF_STACKS[name], lambda: paint_stacks(stacks, request.progress)
    )
    return Samples(
        table=describe_stacks(stacks),
        targets=(stacks.num_lesions > 0).astype(np.int64),
        volumes=partial(read_stack, path, stacks.ends),
        spacing=stacks.spacing,
        files=(path,),
    )


def open_masked_stacks(request: SamplesRequest, name: str) -> Samples:
    """The same with a mask of each volume."""
    samples, stacks = open_stacks(request, name), draw_stacks(*STACKS[name])
    path = keep_array(request.folder / "masks.npy", SHA256_OF_STACKED_MASKS, lambda: mask_stacks(stacks))
    return replace(samples, targets=None, masks=partial(read_stack, path, stacks.ends))


def describe_stacks(stacks: Stacks) -> pandas.DataFrame:
    """Table with one row per volume: names, split, patient, and metadata for subgroups."""
    import pandas

    first = np.arange(len(stacks.patient)) * DEPTH
    return pandas.DataFrame(
        {
            "sample_id": [f"p{p:03d}_v{v}" for p, v in zip(stacks.patient, stacks.visit, strict=True)],
            "image": np.arange(len(stacks.patient)),
            "split": np.array(SPLITS)[stacks.split].astype(object),
            **describe_patients(stacks.scenes, first),
            "sections": np.where(stacks.thick, "thick", "thin").astype(object),
            "subtlety": name_subtlety(stacks),
            "num_lesions": stacks.num_lesions,
        }
    )


def name_subtlety(stacks: Stacks) -> Array:
    faint = stacks.scenes.faint[::DEPTH]
    return np.where(stacks.num_lesions == 0, "none", np.where(faint, "faint", "plain")).astype(object)


OF_PATIENTS = ("age", "sex", "scanner", "noise_hu", "sections")
OF_VOLUMES = CARD + (
    "Volumes of 16 sections of 12 mm, or of 8 of 24 mm, of one to three visits of a patient. Anatomy changes slowly "
    "from section to section; vessels and texture are drawn anew in each. Lesions are balls. "
)
DATASET_3D = replace(
    DATASET,
    name="phantom3d",
    title="Phantom, volumes: is there a nodule in a synthetic chest-CT-like volume?",
    description=OF_VOLUMES + "Half of the volumes have one to three nodules.",
    labels=("clear", "nodules"),
    samples=partial(open_stacks, name="phantom3d"),
    dims=3,
    image_size=VOLUMES.size,
    symmetries=(),
    metadata=OF_PATIENTS,  # `subtlety` and `num_lesions` would tell the label
)
MASKED_3D = replace(
    DATASET_3D,
    name="phantom_seg3d",
    title="Phantom, segmentation of volumes: where the nodules of synthetic chest-CT-like volumes are",
    description=OF_VOLUMES + "Four of five volumes have one to three nodules; the masks of the others are empty.",
    task=SEGMENTATION,
    labels=("nodule",),
    positive="",
    metadata=(*OF_PATIENTS, "subtlety", "num_lesions"),
    samples=partial(open_masked_stacks, name="phantom_seg3d"),
    unit="auto",
)
STACKED: tuple[DatasetSpec, ...] = (DATASET_3D, MASKED_3D)
