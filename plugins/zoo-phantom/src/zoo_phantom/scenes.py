"""Draw scenes from parameters: the content of every slice as numbers, before painting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo_phantom.exact import Array, Stream, direction, ellipse_depth
from zoo_phantom.parameters import CLEAR, DIFFUSE, LAYER, RING, PhantomParameters

SPLITS = ("train", "val", "test")
SCANNERS = ("alpha", "beta", "gamma")
KERNELS = (0.08, 0.16, 0.26)  # `smooth` amount of each scanner: sharp, medium, soft

LESION = np.dtype(
    [
        ("slice", "i8"),
        ("label", "i8"),
        ("x", "f8"),
        ("y", "f8"),
        ("radius", "f8"),
        ("contrast", "f8"),
        ("density", "f8"),
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Scenes:
    """N slices. `anatomy` and `patients` hold one number per slice, (N,) each, by name.

    `lesions` is a record array of type LESION, ordered by slice: x, y in units from the middle of the slice (y to the
    back), `contrast` as drawn, and `density`, the integral over the slice of what the lesion adds (HU x unit^2; 0 for a
    layer, whose contrast is its own).
    """

    parameters: PhantomParameters
    patient: Array  # int64 (N,), over all splits
    order: Array  # int64 (N,), slices of a patient from 0, top to bottom
    split: Array  # int64 (N,), index of SPLITS
    present: Array  # bool (N, L)
    known: Array  # bool (N, L)
    faint: Array  # bool (N,)
    patients: Mapping[str, Array]
    anatomy: Mapping[str, Array]
    lesions: Array


def draw(parameters: PhantomParameters) -> Scenes:
    """Draw patient, anatomy, labels and lesions of every slice. It takes milliseconds, so scenes are not stored."""
    patient, order, split = deal_slices(parameters)
    patients, anatomy = draw_anatomy(parameters, patient, order)
    present = draw_labels(parameters, patient, split)
    faint = Stream(parameters.seed, "faint").uniform((0, 1), len(patient)) < parameters.faint
    known = Stream(parameters.seed, "unknown").uniform((0, 1), *present.shape) >= parameters.unknown
    lesions = place_lesions(parameters, anatomy, present, faint)
    return Scenes(
        parameters=parameters,
        patient=patient,
        order=order,
        split=split,
        present=present,
        known=known,
        faint=faint,
        patients=patients,
        anatomy=anatomy,
        lesions=lesions,
    )


def deal_slices(parameters: PhantomParameters) -> tuple[Array, Array, Array]:
    """Assign to every slice its patient, its position in the patient and its split."""
    stream = Stream(parameters.seed, "slices")
    counts = np.concatenate(
        [stream.shuffled(np.resize(s, n)) for s, n in zip(parameters.slices, parameters.patients, strict=True)]
    )
    patient = np.repeat(np.arange(len(counts)), counts)
    order = np.arange(len(patient)) - np.repeat(np.cumsum(counts) - counts, counts)
    split = np.repeat(np.arange(len(SPLITS)), parameters.patients)[patient]
    return patient, order, split


def draw_anatomy(
    parameters: PhantomParameters, patient: Array, order: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Draw the constants of each patient, and the anatomy of every slice, which changes from top to bottom."""
    own = draw_patients(parameters, int(patient[-1]) + 1)
    patients = {name: values[patient] for name, values in own.items()}
    counts = np.bincount(patient)[patient]
    stream = Stream(parameters.seed, "anatomy")
    level = (order + stream.uniform((0.1, 0.9), len(patient))) / counts
    jitter = [stream.uniform((-0.6, 0.6), len(patient)) for _ in range(8)]
    return patients, shape_anatomy(patients, level, jitter)


def draw_patients(parameters: PhantomParameters, number: int) -> dict[str, Array]:
    """Draw the constants of each patient, (number,) by name."""
    stream = Stream(parameters.seed, "patients")
    own = {
        "age": stream.integers((35, 85), number),
        "sex": stream.integers((0, 1), number),
        "scanner": stream.integers((0, len(SCANNERS) - 1), number),
        "noise": stream.uniform(parameters.noise, number),
        "scale": stream.uniform((0.9, 1.06), number),
        "flatness": stream.uniform((0.70, 0.82), number),
        "fat": stream.uniform((0.8, 2.6), number),
        "lung_hu": stream.uniform((-890.0, -790.0), number),
        "blood_hu": stream.uniform((40.0, 230.0), number),  # with and without contrast agent
        "bone_hu": stream.uniform((250.0, 520.0), number),
        "shift_x": stream.uniform((-1.5, 1.5), number),
        "shift_y": stream.uniform((-1.5, 1.5), number),
        "heart": stream.uniform((0.85, 1.15), number),
    }
    own["bone_hu"] = own["bone_hu"] - 2.0 * (own["age"] - 35)
    own["scale"] = own["scale"] - 0.04 * own["sex"]
    return own


def shape_anatomy(patients: Mapping[str, Array], level: Array, jitter: Sequence[Array]) -> dict[str, Array]:
    """The anatomy of N slices at a level (N,), 0 below the aortic arch and 1 at the heart, with small deviations."""
    wide = 28.5 * patients["scale"]
    deep = wide * patients["flatness"]
    return {
        "level": level,
        "x": patients["shift_x"],
        "y": patients["shift_y"],
        "body_a": wide,
        "body_b": deep,
        "cage_a": wide - patients["fat"] - 2.2,
        "cage_b": deep - patients["fat"] - 1.6,
        "lung_a": 0.41 * wide + jitter[0] * 0.7,
        "lung_b": deep - patients["fat"] - 2.4 + jitter[1],
        "right_x": -0.47 * wide + jitter[2] * 0.6,
        "left_x": 0.47 * wide + jitter[3] * 0.6,
        "heart_x": 2.2 + 2.0 * level + jitter[4],
        "heart_y": -3.2 - 0.8 * level + jitter[5],
        "heart_a": (4.6 + 5.2 * level) * patients["heart"],
        "heart_b": (4.8 + 3.0 * level) * patients["heart"],
        "spine_y": 0.58 * deep + 0.4 * jitter[6],
        "aorta_x": 3.4 + 0.5 * jitter[7],
    }


def draw_labels(parameters: PhantomParameters, patient: Array, split: Array) -> Array:
    """Draw the findings of each slice, bool (N, L): `shares` of every split, clustered by patient."""
    num_labels = len(parameters.findings)
    stream = Stream(parameters.seed, "labels")
    columns = 1 if parameters.exclusive else num_labels
    leaning = stream.uniform((0, 1), int(patient[-1]) + 1, columns)[patient]
    score = parameters.clustering * leaning + (1.0 - parameters.clustering) * stream.uniform(
        (0, 1), len(patient), columns
    )
    present = np.zeros((len(patient), num_labels), dtype=bool)
    for index in range(len(SPLITS)):
        rows = np.flatnonzero(split == index)
        if parameters.exclusive:
            ends = np.rint(np.cumsum(parameters.shares) * len(rows)).astype(np.int64)
            label = np.searchsorted(ends, np.arange(len(rows)), side="right")
            present[rows[np.argsort(score[rows, 0], kind="stable")], np.minimum(label, num_labels - 1)] = True
            continue
        for column, share in enumerate(parameters.shares):
            first = np.argsort(score[rows, column], kind="stable")[: round(share * len(rows))]
            present[rows[first], column] = True
    return present


def lung_depth(anatomy: Mapping[str, Array], x: Array, y: Array) -> Array:
    """Depth of a point inside a lung: two ellipses in the rib cage, without heart, spine and mediastinum."""
    x, y = x - anatomy["x"], y - anatomy["y"]
    right = ellipse_depth(x, y, (anatomy["right_x"], 0.0), (anatomy["lung_a"], anatomy["lung_b"]), 0.25)
    left = ellipse_depth(x, y, (anatomy["left_x"], 0.0), (anatomy["lung_a"], anatomy["lung_b"]), 0.25)
    cage = ellipse_depth(x, y, (0.0, 0.0), (anatomy["cage_a"], anatomy["cage_b"]), 0.3) - 0.8
    heart = ellipse_depth(x, y, (anatomy["heart_x"], anatomy["heart_y"]), (anatomy["heart_a"], anatomy["heart_b"]))
    middle = ellipse_depth(x, y, (0.0, 0.0), (3.4, anatomy["cage_b"]), -0.2)
    spine = ellipse_depth(x, y, (0.0, anatomy["spine_y"] + 1.0), (5.2, 5.4))
    aorta = ellipse_depth(x, y, (anatomy["aorta_x"], anatomy["spine_y"] - 4.0), (2.4, 2.4))
    outside = np.maximum(np.maximum(heart, middle), np.maximum(spine, aorta)) + 0.3
    return np.minimum(np.minimum(np.maximum(right, left), cage), -outside)


def place_lesions(parameters: PhantomParameters, anatomy: Mapping[str, Array], present: Array, faint: Array) -> Array:
    """Place lesions of every present finding inside the lungs, apart from each other if there is room.

    Number, radius, contrast and position have the same distribution for all kinds: only the shape differs.
    """
    stream = Stream(parameters.seed, "lesions")
    num_slices, num_labels = present.shape
    most = parameters.lesions[1]
    wanted = np.where(faint[:, None], 1, stream.integers(parameters.lesions, num_slices, num_labels)) * present
    slots, taken = [], np.full((num_slices, 0, 2), 0.0)
    for label, kind in enumerate(parameters.findings):
        for slot in range(1 if kind == LAYER else most):
            rows = np.flatnonzero(wanted[:, label] > slot) if kind != CLEAR else np.zeros(0, dtype=np.int64)
            radius = stream.uniform(parameters.radius, num_slices)
            plain, weak = (stream.uniform(r, num_slices) for r in (parameters.contrast, parameters.faint_contrast))
            tries = np.stack([stream.uniform((-w, w), num_slices, 64) for w in (26.0, 21.0)], axis=2)  # (N, 64, 2)
            place = np.full((num_slices, 1, 2), np.nan)
            if len(rows):
                place[rows, 0] = choose_places(parameters, anatomy, rows, tries[rows], taken[rows])
            taken = np.concatenate([taken, place], axis=1)
            record = np.zeros(len(rows), dtype=LESION)
            record["slice"], record["label"] = rows, label
            record["x"], record["y"] = place[rows, 0, 0], place[rows, 0, 1]
            record["radius"], record["contrast"] = radius[rows], np.where(faint, weak, plain)[rows]
            if kind != LAYER:
                record["density"] = 3.141592653589793 * record["radius"] * record["radius"] * record["contrast"]
            spread = {DIFFUSE: parameters.diffuse_spread, RING: 1.3}.get(kind, 1.0)
            record["radius"] = record["radius"] * spread
            slots.append(record)
    lesions = np.concatenate(slots)
    return lesions[np.argsort(lesions["slice"], kind="stable")]


def choose_places(
    parameters: PhantomParameters, anatomy: Mapping[str, Array], rows: Array, tries: Array, taken: Array
) -> Array:
    """For each row, the first of `tries` (n, 64, 2) that keeps margin and separation, else the one closest to that."""
    x, y = tries[:, :, 0], tries[:, :, 1]
    here = {name: values[rows, None] for name, values in anatomy.items()}
    goodness = np.minimum(lung_depth(here, x, y) - parameters.margin, 0.0) * 4.0
    for place in range(taken.shape[1]):
        dx, dy = x - taken[:, place, :1], y - taken[:, place, 1:]
        distance = np.sqrt(dx * dx + dy * dy)
        goodness += np.minimum(np.where(np.isnan(distance), 0.0, distance - parameters.separation), 0.0)
    best = np.argmax(goodness, axis=1)
    chosen: Array = tries[np.arange(len(rows)), best]
    return chosen


def draw_vessels(parameters: PhantomParameters, slices: Array) -> dict[str, Array]:
    """Draw the vessels of some slices, (n, vessels, side) by name, independent of the other slices requested."""
    stream = Stream(parameters.seed, "vessels")
    turn, reach, width, bend, cut = np.moveaxis(
        stream.uniform((0.0, 1.0), int(slices.max()) + 1, parameters.vessels, 2, 5)[slices], -1, 0
    )
    cosine, sine = direction(2.0 * turn - 1.0)
    return {
        "cosine": cosine,
        "sine": sine,
        "reach": 0.5 + 0.5 * reach,
        "width": 0.35 + 0.55 * width,
        "bend": 2.0 * bend - 1.0,
        "cut": 0.4 + 0.6 * cut,
    }
