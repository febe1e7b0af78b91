"""Metrics on masks, against reference values of MONAI 1.6.1 and DeepMind's surface-distance 0.1."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from costs import peak_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt

from zoo.errors import UsageError
from zoo.evaluation.masks.cases import CaseRow, MaskCase, compare_case
from zoo.evaluation.masks.lesions import LesionCounts, count_lesions
from zoo.evaluation.masks.metrics import CASE_METRICS
from zoo.evaluation.masks.records import to_case_scores
from zoo.evaluation.masks.rule import MaskRule
from zoo.evaluation.masks.skeletons import require_skimage
from zoo.evaluation.masks.surfaces import boundary, element_sizes

METRICS = {metric.name: metric for metric in CASE_METRICS}
ONE = {"1": 1}


def compare(reference, prediction, spacing=None, **rule):
    """The row of one label."""
    case = MaskCase(
        case="a",
        patient="p",
        reference=np.asarray(reference, np.uint8),
        prediction=np.asarray(prediction, np.uint8),
        spacing=spacing or (1.0,) * np.ndim(reference),
    )
    (row,) = compare_case(case, ONE, MaskRule(**{"tolerance": 1.0, **rule}))
    return row


def value(row, name):
    (number,) = METRICS[name].per_case(to_case_scores([row], MaskRule(tolerance=1.0, skeletons=True)))
    return number


def block(shape, start, size):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))] = True
    return mask


def ball(radius, center=(20, 20, 20), spacing=(1, 1, 1), shape=(40, 40, 40)):
    steps = np.indices(shape).reshape(3, -1).T - np.array(center)
    return ((steps * spacing) ** 2).sum(axis=1).reshape(shape) <= radius**2


CUBE = block((30, 30, 30), (8, 8, 8), (10, 10, 10))
FAR = ball(8)
FAR[0, 3, 3] = True
# reference, prediction, spacing; Dice, HD95, NSD at 1 and 2 of voxels, and of surface elements
TABLE = {
    "cube, 1 voxel": (CUBE, np.roll(CUBE, 1, 0), (1, 1, 1), 0.9, 1.0, (1, 1), (1, 1)),
    "cube, 3 thick slices": (
        *(CUBE, np.roll(CUBE, 3, 2), (1, 1, 2.5), 0.7, 7.5),
        *((0.573770, 0.614754), (0.670454, 0.691576)),
    ),
    "ball in ball": (ball(10), ball(8), (1, 1, 1), 0.671870, 2.236068, (0, 0.674242), (0.112897, 0.904760)),
    "balls, 2 mm": (
        *(ball(12, spacing=(1, 1, 2)), ball(12, (22, 20, 20), (1, 1, 2)), (1, 1, 2), 0.877688, 2.0),
        *((0.670659, 1), (0.810556, 1)),
    ),
    "single voxels": (
        *(block((12, 5, 5), (2, 2, 2), (1, 1, 1)), block((12, 5, 5), (6, 2, 2), (1, 1, 1))),
        *((1, 1, 1), 0, 4.0, (0, 0), (0, 0)),
    ),
    "far false voxel": (ball(8), FAR, (1, 1, 1), 0.999763, 0, (0.999176, 0.999176), (0.998991, 0.998991)),
    "2-D band": (
        *(block((20, 30), (5, 5), (3, 20)), block((20, 30), (6, 5), (3, 20)), (1, 1), 0.666667, 1.0),
        *((1, 1), (1, 1)),
    ),
    "2-D square": (
        *(block((60, 60), (10, 10), (30, 30)), block((60, 60), (14, 10), (30, 30)), (0.5, 0.5), 0.866667, 2.0),
        *((0.517241, 1), (0.516831, 1)),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_reference_values_of_monai_and_deepmind(name):
    reference, prediction, spacing, dice, hd95, nsd, nsd_surface = TABLE[name]
    for number, tolerance in enumerate((1.0, 2.0)):
        row = compare(reference, prediction, spacing, tolerance=tolerance)
        expected = {"dice": dice, "hd95": hd95, "nsd": nsd[number], "nsd_surface": nsd_surface[number]}
        assert {metric: value(row, metric) for metric in expected} == pytest.approx(expected, abs=1e-6)


def random_pair(seed, shape=(14, 12, 10)):
    rng = np.random.default_rng(seed)
    centers = rng.uniform(4, 8, (2, len(shape)))
    distances = [np.linalg.norm(np.indices(shape).T - center, axis=-1).T for center in centers]
    return [distance + rng.normal(0, 0.5, shape) < 4 for distance in distances]


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_those_of_the_distance_transform(seed):
    reference, prediction = random_pair(seed)
    spacing = (0.7, 1.3, 3.0)
    edges = boundary(reference), boundary(prediction)
    sides = [distance_transform_edt(~other, sampling=spacing)[edge] for edge, other in (edges, edges[::-1])]
    row = compare(reference, prediction, spacing)
    assert row.hd95 == pytest.approx(max(np.percentile(side, 95) for side in sides), abs=1e-12)
    assert row.assd == pytest.approx(np.concatenate(sides).mean(), abs=1e-12)


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.75, 2.0)])
def test_monai_agrees(seed, spacing):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    reference, prediction = random_pair(seed)
    row = compare(reference, prediction, spacing, tolerance=1.5)
    y, y_pred = (torch.as_tensor(np.stack([~mask, mask])[None].astype(np.float32)) for mask in (reference, prediction))
    assert value(row, "dice") == pytest.approx(metrics.compute_dice(y_pred, y, include_background=False).item())
    distances = {"include_background": False, "spacing": spacing}
    assert row.hd95 == pytest.approx(
        metrics.compute_hausdorff_distance(y_pred, y, percentile=95, **distances).item(), abs=1e-5
    )
    assert row.assd == pytest.approx(
        metrics.compute_average_surface_distance(y_pred, y, symmetric=True, **distances).item(), abs=1e-5
    )
    assert value(row, "nsd") == pytest.approx(
        metrics.compute_surface_dice(y_pred, y, class_thresholds=[1.5], **distances).item(), abs=1e-6
    )


def test_a_surface_element_has_the_area_of_the_surface_it_stands_for():
    flat = element_sizes((2.0, 3.0, 5.0))
    sides = {round(flat[code], 12) for code in (0b00001111, 0b00110011, 0b01010101)}  # half a cube along each axis
    assert sides == {15.0, 10.0, 6.0}
    assert element_sizes((1.0, 1.0, 1.0))[1] == pytest.approx(math.sqrt(3) / 8)
    assert sorted(set(np.round(element_sizes((2.0, 3.0)), 12))) == sorted(
        {0.0, 2.0, 3.0, round(math.hypot(2, 3) / 2, 12), round(math.hypot(2, 3), 12)}
    )


# --- empty masks -----------------------------------------------------------------------------------------------------
EMPTY = np.zeros_like(CUBE)
DIAGONAL = math.hypot(30 * 1.0, 30 * 1.0, 30 * 2.5)


@pytest.mark.parametrize("pair", [(CUBE, EMPTY), (EMPTY, CUBE)], ids=["missed", "false"])
def test_one_empty_mask_gives_the_worst_values(pair):
    row = compare(*pair, (1.0, 1.0, 2.5))
    worst = {"dice": 0, "iou": 0, "nsd": 0, "nsd_surface": 0, "lesion_f1": 0, "hd95": DIAGONAL, "assd": DIAGONAL}
    assert {name: value(row, name) for name in worst} == pytest.approx(worst)
    assert value(row, "cldice") == 0


def test_two_empty_masks_are_undefined():
    row = compare(EMPTY, EMPTY)
    undefined = {name for name in METRICS if math.isnan(value(row, name))}
    assert undefined == set(METRICS) - {"false_lesions"}
    assert value(row, "false_lesions") == 0


def test_the_volume_error_is_1_if_missed_and_undefined_without_a_reference():
    assert value(compare(CUBE, EMPTY), "volume_error") == 1
    assert math.isnan(value(compare(EMPTY, CUBE), "volume_error"))


# --- properties ------------------------------------------------------------------------------------------------------
def numbers(row):
    return {
        field.name: getattr(row, field.name)
        for field in fields(CaseRow)
        if isinstance(getattr(row, field.name), float | int)
    }


@pytest.mark.parametrize("mask", [CUBE, ball(8), block((9, 9), (2, 3), (4, 5))], ids=["cube", "ball", "2-D"])
def test_a_perfect_prediction_has_the_best_values(mask):
    row = compare(mask, mask)
    for name, metric in METRICS.items():
        if name != "cldice":
            assert value(row, name) == (1 if metric.higher_is_better else 0), name


@pytest.mark.integration
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.tuples(*[st.integers(0, 6)] * 3))
def test_a_translation_changes_nothing(seed, shift):
    spacing = (0.1, 0.7, 3.0)
    padded = [np.pad(mask, [(0, 6)] * 3) for mask in random_pair(seed, (9, 9, 9))]
    moved = [np.roll(mask, shift, (0, 1, 2)) for mask in padded]
    assert numbers(compare(*moved, spacing)) == pytest.approx(
        numbers(compare(*padded, spacing)), nan_ok=True, rel=1e-12
    )


@pytest.mark.parametrize("seed", range(3))
def test_twice_the_spacing_and_tolerance_double_distances_and_keep_shares(seed):
    pair = random_pair(seed)
    one, two = compare(*pair, (1.0, 0.7, 2.0), tolerance=1.0), compare(*pair, (2.0, 1.4, 4.0), tolerance=2.0)
    assert (two.hd95, two.assd, two.ref_volume) == pytest.approx((2 * one.hd95, 2 * one.assd, 8 * one.ref_volume))
    assert [value(two, name) for name in ("nsd", "nsd_surface")] == pytest.approx(
        [value(one, name) for name in ("nsd", "nsd_surface")]
    )


@pytest.mark.parametrize("seed", range(3))
def test_exchanging_the_two_masks_exchanges_their_statistics(seed):
    a, b = random_pair(seed)
    one, other = compare(a, b), compare(b, a)
    assert (one.fp, one.fn, one.hd95, one.nsd_num) == (other.fn, other.fp, other.hd95, other.nsd_num)
    assert one.assd == pytest.approx(other.assd)


def test_labels_are_compared_independently_of_their_numbers():
    reference, prediction = np.zeros((2, 20, 20), np.uint16)
    reference[2:8, 2:8], prediction[3:8, 2:8] = 1, 1
    reference[10:15, 10:15], prediction[10:15, 11:15] = 300, 300
    renamed = [
        np.choose(np.searchsorted([0, 1, 300], each), [0, 7, 2]).astype(np.uint16) for each in (reference, prediction)
    ]
    rule = MaskRule(tolerance=1.0)
    rows = [
        compare_case(MaskCase(case="a", patient="a", reference=r, prediction=p, spacing=(1.0, 1.0)), labels, rule)
        for (r, p), labels in (((reference, prediction), {"x": 1, "y": 300}), (renamed, {"x": 7, "y": 2}))
    ]
    assert list(map(numbers, rows[0])) == [pytest.approx(numbers(row), nan_ok=True) for row in rows[1]]
    assert [row.tp for row in rows[0]] == [30, 20]


def test_unknown_spacing_gives_pixels():
    row = compare(CUBE, np.roll(CUBE, 1, 0), (math.nan,) * 3)
    assert (row.unit, row.hd95, row.ref_volume) == ("px", 1.0, 1000)
    assert compare(CUBE, CUBE, (1.0, 1.0, 2.0)).unit == "mm"


def test_a_distance_of_3_steps_of_a_tenth_is_within_a_tolerance_of_3_tenths():
    line, moved = block((20, 20), (3, 3), (1, 9)), block((20, 20), (6, 3), (1, 9))
    assert 3 * 0.1 > 0.3
    assert value(compare(line, moved, (0.1, 0.1), tolerance=0.3), "nsd") == 1


@pytest.mark.parametrize(
    ("prediction", "spacing"), [(np.zeros((3, 4)), (1, 1)), (np.zeros((3, 3)), (1, 1, 1)), (np.zeros((3, 3)), (1, 0))]
)
def test_a_case_of_two_grids_is_refused(prediction, spacing):
    with pytest.raises(ValueError, match="a: "):
        compare(np.zeros((3, 3)), prediction, spacing)


@pytest.mark.parametrize(
    "field", [{"tolerance": -1}, {"tolerance": math.nan}, {"connectivity": "x"}, {"lesion_iou": 1}]
)
def test_an_invalid_rule_is_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        MaskRule(**{"tolerance": 1.0, **field})


# --- lesions and skeletons -------------------------------------------------------------------------------------------
def test_lesions_are_matched_by_overlap_or_by_iou():
    reference = block((20, 20), (1, 1), (4, 4)) | block((20, 20), (1, 10), (4, 4)) | block((20, 20), (12, 1), (2, 2))
    prediction = block((20, 20), (1, 1), (4, 4)) | block((20, 20), (4, 13), (4, 4)) | block((20, 20), (15, 15), (2, 2))
    rule = MaskRule(tolerance=1.0)
    assert count_lesions(reference, prediction, rule) == LesionCounts(reference=3, predicted=3, hit=2, false=1)
    strict = replace(rule, lesion_iou=0.1)  # the second pair shares 1 of 31 pixels
    assert count_lesions(reference, prediction, strict) == LesionCounts(reference=3, predicted=3, hit=1, false=2)


def test_lesions_that_touch_at_a_corner_are_one_or_two():
    mask = block((6, 6), (0, 0), (2, 2)) | block((6, 6), (2, 2), (2, 2))
    counts = [count_lesions(mask, mask, MaskRule(tolerance=1.0, connectivity=c)).reference for c in ("full", "faces")]
    assert counts == [1, 2]


@pytest.mark.integration
def test_cldice_counts_the_skeleton_of_a_broken_vessel():
    pytest.importorskip("skimage")
    vessel = block((15, 41), (6, 0), (3, 41))
    broken = vessel.copy()
    broken[:, 15:25] = False
    row = compare(vessel, broken, skeletons=True)
    assert row.tprec == 1.0
    assert row.tsens == pytest.approx(31 / 41, abs=0.06)  # skeletons end a pixel or two before the vessel
    assert value(row, "cldice") == pytest.approx(2 * row.tsens / (1 + row.tsens))


def test_skeletons_need_scikit_image(monkeypatch, golden):
    monkeypatch.setitem(__import__("sys").modules, "skimage.morphology", None)
    with pytest.raises(UsageError) as caught:
        require_skimage()
    golden(caught.value.line(), "skimage-missing")


@pytest.mark.integration
def test_memory_grows_with_the_volume_by_under_16_bytes_a_voxel():
    reference, prediction = np.ones((2, 192, 192, 160), np.uint8)
    prediction[:4] = 0
    case = MaskCase(case="a", patient="a", reference=reference, prediction=prediction, spacing=(1.0, 1.0, 1.0))
    with peak_memory() as peak:
        compare_case(case, ONE, MaskRule(tolerance=1.0))
    assert peak.bytes < 16 * reference.size  # the distance transform alone takes 40
