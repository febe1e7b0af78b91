"""`zoo score --masks`: averages over patients, the case table, and the command on files."""

import math
from dataclasses import replace
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from folders import shared
from scipy.ndimage import zoom

from zoo.errors import ResultsError
from zoo.evaluation.intervals import BOOTSTRAP_SEED
from zoo.evaluation.masks.cases import CaseRow
from zoo.evaluation.masks.files import MaskRequest, compare_files, find_voxel_size
from zoo.evaluation.masks.metrics import CASE_METRICS
from zoo.evaluation.masks.records import load_case_scores, save_case_scores, to_case_scores
from zoo.evaluation.masks.rule import MaskRule
from zoo.evaluation.masks.summary import patient_values, summarize_masks
from zoo.images.label_maps import read_label_map
from zoo.sources.label_map_pairs import find_label_maps, pair_label_maps
from zoo.specs.metric import MetricSpec
from zoo.statistics.intervals import bootstrap_weights

RULE = MaskRule(tolerance=1.0)
DICE = next(metric for metric in CASE_METRICS if metric.name == "dice")
HD95 = next(metric for metric in CASE_METRICS if metric.name == "hd95")


def row(case, dice, label="1", patient=None, **fields):
    """A row with a given Dice of 1,000 voxels in both masks together; None: both masks are empty."""
    counts = (
        {} if dice is None else {"tp": round(500 * dice), "fp": round(500 * (1 - dice)), "fn": round(500 * (1 - dice))}
    )
    return CaseRow(
        **{
            "case": case,
            "patient": patient or case,
            "label": label,
            "unit": "mm",
            "is_predicted": True,
            "ref_volume": 0.0 if dice is None else 1.0,
            **counts,
            **fields,
        }
    )


def summary_of(rows, labels=("1",), metric="dice"):
    summary = next(
        each for each in summarize_masks(to_case_scores(rows, RULE), has_patients=True) if each.labels == labels
    )
    return summary, next(score for score in summary.scores if score.metric.name == metric)


# --- averages --------------------------------------------------------------------------------------------------------
def test_cases_are_averaged_by_patient_first():
    rows = [row("a", 1.0, patient="p"), row("b", 0.5, patient="p"), row("c", 0.25, patient="q")]
    patients, values = patient_values(to_case_scores(rows, RULE), DICE)
    assert patients.tolist() == ["p", "q"]
    assert values[:, 0] == pytest.approx([0.75, 0.25])
    _, score = summary_of(rows)
    assert score.score.value == pytest.approx(0.5)
    assert score.score.reason.code == "too-few"


def test_undefined_cases_are_left_out_and_counted_and_missed_ones_are_not():
    rows = [row("a", 0.8), row("b", None), row("c", 0.0, tp=0, fp=0, fn=500)]
    summary, score = summary_of(rows)
    assert score.score.value == pytest.approx(0.4)
    assert (summary.num_cases, summary.num_missed, summary.num_false, summary.num_undefined) == (3, 1, 0, 1)
    assert score.num_patients == 2


def test_a_label_without_a_defined_case_has_no_value():
    _, score = summary_of([row("a", None), row("b", None)])
    assert score.score.value is None
    assert score.score.reason.code == "undefined"


def many_rows(seed=0, labels=("1",)):
    rng = np.random.default_rng(seed)
    return [
        row(f"c{case:02d}", rng.uniform(0.5, 1), label, patient=f"p{case // 2:02d}", hd95=rng.uniform(0, 9), assd=1.0)
        for case in range(40)
        for label in labels
    ]


def test_the_interval_is_that_of_resampled_patients():
    rows = many_rows()
    scores = to_case_scores(rows, RULE)
    _, values = patient_values(scores, DICE)
    weights = bootstrap_weights(np.unique(scores["patient"]), seed=(BOOTSTRAP_SEED, 0)).astype(float)
    expected = np.quantile(weights @ values[:, 0] / weights.sum(axis=1), [0.025, 0.975])
    _, score = summary_of(rows)
    assert [score.score.low, score.score.high] == pytest.approx(expected.tolist())
    assert score.score.method.text == "patient-cluster bootstrap, B=2000"


def test_the_worst_twentieth_is_low_for_a_share_and_high_for_a_distance():
    rows = many_rows()
    for metric, share in ((DICE, 0.05), (HD95, 0.95)):
        _, values = patient_values(to_case_scores(rows, RULE), metric)
        _, score = summary_of(rows, metric=metric.name)
        assert score.worst_twentieth == pytest.approx(np.quantile(values, share))
        assert score.median == pytest.approx(np.median(values))


def test_several_labels_have_a_mean_over_labels():
    rows = many_rows(labels=("1", "2"))
    parts = [summary_of(rows, (label,))[1].score.value for label in ("1", "2")]
    _, whole = summary_of(rows, ("1", "2"))
    assert whole.score.value == pytest.approx(np.mean(parts))
    assert whole.score.low < whole.score.value < whole.score.high


def test_a_label_that_no_reference_has_is_not_in_the_mean_over_labels():
    rows = many_rows(labels=("1", "2", "3"))
    rows = [replace(row, tp=0, fn=0, ref_volume=0.0) if row.label == "3" else row for row in rows]
    summaries = summarize_masks(to_case_scores(rows, RULE), has_patients=True)
    assert [each.labels for each in summaries] == [("1",), ("2",), ("3",), ("1", "2")]


def test_the_values_of_patients_are_the_units_of_a_metric_spec():
    scores = to_case_scores(many_rows(labels=("1", "2")), RULE)
    patients, values = patient_values(scores, DICE)
    metric = MetricSpec(name="case_dice", per_unit=lambda _: values)
    request = SimpleNamespace(targets=patients)
    whole = summarize_masks(scores, has_patients=True)[-1].scores[0].score
    weights = bootstrap_weights(patients, seed=(BOOTSTRAP_SEED, 0)).astype(float)
    assert metric.compute(request) == pytest.approx(whole.value)
    resampled = np.quantile(metric.resample(request, weights), [0.025, 0.975])
    assert resampled.tolist() == pytest.approx([whole.low, whole.high])
    assert metric.influence(request).mean() == pytest.approx(0, abs=1e-12)


def test_the_order_of_the_cases_does_not_matter():
    rows = many_rows()
    shuffled = [rows[index] for index in np.random.default_rng(1).permutation(len(rows))]
    assert summary_of(rows) == summary_of(shuffled)


# --- the case table --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["cases.csv", "cases.npz"])
def test_a_case_table_is_read_back_and_written_to_equal_bytes(tmp_path, name):
    rows = [*many_rows(), row("=x,\n", None)]
    scores = to_case_scores(rows, replace(RULE, connectivity="faces", lesion_iou=0.1))
    save_case_scores(tmp_path / name, scores)
    again = load_case_scores(tmp_path / name)
    assert again.rule == scores.rule
    for column, values in scores.columns.items():
        assert again[column].dtype.kind == values.dtype.kind
        assert np.array_equal(again[column], values, equal_nan=values.dtype.kind == "f")
    save_case_scores(tmp_path / f"again-{name}", again)
    assert (tmp_path / f"again-{name}").read_bytes() == (tmp_path / name).read_bytes()


def test_an_undefined_value_is_an_empty_cell(tmp_path):
    save_case_scores(tmp_path / "cases.csv", to_case_scores([row("a", None)], RULE))
    header, line = ((tmp_path / "cases.csv").read_text().splitlines()[number].split(",") for number in (0, 1))
    assert dict(zip(header, line, strict=True))["hd95"] == ""


def test_a_table_without_a_row_for_every_label_or_with_two_units_is_refused():
    with pytest.raises(ValueError, match="expected one for each of 2 labels"):
        to_case_scores([row("a", 1.0), row("b", 1.0), row("a", 1.0, "2")], RULE)
    with pytest.raises(ValueError, match="mm and px"):
        to_case_scores([row("a", 1.0), row("b", 1.0, unit="px")], RULE)


@pytest.mark.parametrize("damage", [lambda text: text[:-30], lambda text: text.replace("tolerance", "x"), lambda _: ""])
def test_a_damaged_case_table_is_refused(tmp_path, damage):
    path = tmp_path / "cases.csv"
    save_case_scores(path, to_case_scores([row("a", 1.0), row("b", 0.5)], RULE))
    path.write_text(damage(path.read_text()))
    with pytest.raises(ResultsError, match=r"cases\.csv"):
        load_case_scores(path)


# --- the command -----------------------------------------------------------------------------------------------------
SQUARE = np.zeros((20, 20), np.uint8)
SQUARE[4:10, 4:10] = 1


def masks(folder, **arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_masks_of_folders_are_scored_and_what_is_left_out_is_named(main, tmp_path, golden):
    masks(tmp_path / "reference", a=SQUARE, b=SQUARE, c=SQUARE, d=0 * SQUARE)
    masks(tmp_path / "predicted", a=SQUARE, b=np.roll(SQUARE, 1, 0), d=0 * SQUARE, extra=SQUARE)
    (tmp_path / "predicted" / "plans.json").write_text("{}")
    status, out, err = main("score", "--masks", "predicted", "--reference", "reference", "-o", "cases.csv")
    assert status == 0
    golden(err, "c.npy", "extra.npy", "plans.json")
    golden(out)
    scores = load_case_scores(tmp_path / "cases.csv")
    assert scores["is_predicted"].tolist() == [True, True, False, True]
    assert (scores.rule.tolerance, scores["unit"][0]) == (1.0, "px")
    assert scores["tp"].tolist() == [36, 30, 0, 0]


def test_a_refused_pair_is_named_and_the_others_are_scored(main, tmp_path, golden):
    masks(tmp_path / "reference", a=SQUARE, b=SQUARE, c=SQUARE)
    masks(tmp_path / "predicted", a=SQUARE, b=SQUARE[:10], c=SQUARE * 0.5)
    status, out, err = main("score", "--masks", "predicted", "--reference", "reference")
    assert status == 3
    golden(err, "b.npy", "c.npy")
    assert out.startswith("1 case,")


def test_nothing_is_scored_if_every_pair_is_refused(main, tmp_path):
    masks(tmp_path / "reference", a=SQUARE)
    masks(tmp_path / "predicted", a=SQUARE[:10])
    status, out, _ = main("score", "--masks", "predicted", "--reference", "reference", "-o", "cases.csv")
    assert (status, out) == (4, "")
    assert not (tmp_path / "cases.csv").exists()


def test_options_reach_the_rule_and_the_labels(main, tmp_path):
    two = SQUARE + 2 * np.roll(SQUARE, 8, 1)
    masks(tmp_path / "reference", a=two, b=two)
    masks(tmp_path / "predicted", a=two, b=two)
    (tmp_path / "patients.csv").write_text("case,patient\na,p\n")
    options = (
        "--labels organ=2 --tolerance 3 --spacing .5,2 --connectivity faces --lesion-iou .2 --patients patients.csv"
    )
    status, _, err = main("score", "--masks", "predicted", "--reference", "reference", *options.split(), "-o", "c.npz")
    assert status == 0
    assert "values that are not among --labels count as background: 1" in err
    assert "cases without a patient in --patients, each taken as its own patient: b" in err
    scores = load_case_scores(tmp_path / "c.npz")
    assert scores.rule == MaskRule(tolerance=3.0, connectivity="faces", lesion_iou=0.2)
    assert (scores["label"].tolist(), scores["patient"].tolist()) == (["organ", "organ"], ["p", "b"])
    assert scores["ref_volume"].tolist() == [36.0, 36.0]


@pytest.mark.parametrize(
    "words",
    [
        "--masks predicted",
        "--reference reference",
        "--masks predicted --reference reference --metrics auroc",
        "--masks predicted --reference reference --labels liver",
        "--masks predicted --reference reference --spacing 1",
        "--masks predicted --reference reference --spacing 1,-1",
        "--masks predicted --reference reference --labels a=1,b=1",
        "--masks predicted --reference reference --labels a=1,a=2",
        "--masks predicted --reference reference --tolerance inf",
        "--masks predicted --reference reference -o cases.xlsx",
        "--masks predicted --reference empty",
    ],
)
def test_a_wrong_use_is_one_line(main, tmp_path, golden, words):
    for folder in ("predicted", "reference"):
        masks(tmp_path / folder, a=0 * SQUARE)
    (tmp_path / "empty").mkdir()
    status, out, err = main("score", *words.split())
    assert (status, out) == (2, "")
    golden(err.splitlines()[-1])


def test_empty_masks_alone_need_the_names_of_labels(main, tmp_path):
    for folder in ("predicted", "reference"):
        masks(tmp_path / folder, a=0 * SQUARE)
    assert main("score", "--masks", "predicted", "--reference", "reference")[0] == 2
    status, out, _ = main("score", "--masks", "predicted", "--reference", "reference", "--labels", "1")
    assert status == 0
    assert "1      1      0       0      1" in out


def test_255_as_white_and_as_a_label_is_refused(main, tmp_path, golden):
    masks(tmp_path / "reference", a=SQUARE * 255, b=SQUARE * 2)
    masks(tmp_path / "predicted", a=SQUARE, b=SQUARE)
    status, _, err = main("score", "--masks", "predicted", "--reference", "reference")
    assert status == 2
    golden(err.splitlines()[-1], "a.npy", "b.npy")


def test_the_size_of_a_voxel_is_the_median_over_files_and_axes(tmp_path):
    for name, spacing in (("a", (1.0, 1.0, 3.0)), ("b", (1.5, 1.5, 3.0))):
        nibabel.save(
            nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.diag([*spacing, 1.0])), tmp_path / f"{name}.nii"
        )
    files = find_label_maps(str(tmp_path))
    assert find_voxel_size(pair_label_maps(files, files), None) == 1.5


def test_a_spacing_that_only_some_files_declare_is_refused(main, tmp_path, golden):
    for folder in ("reference", "predicted"):
        masks(tmp_path / folder, a=np.zeros((3, 3, 3), np.uint8))
        nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / folder / "b.nii")
    status, _, err = main("score", "--masks", "predicted", "--reference", "reference", "--tolerance", "1")
    assert status == 2
    golden(err.splitlines()[-1], "a.npy", "b.nii")
    assert main("score", "--masks", "predicted", "--reference", "reference", "--spacing", "1,1,1")[0] == 0


# --- real data -------------------------------------------------------------------------------------------------------
def compare_places(predictions, references, **rule):
    cases = pair_label_maps(find_label_maps(str(predictions)), find_label_maps(str(references)))
    request = MaskRequest(rule=MaskRule(**{"tolerance": 1.0, **rule}))
    return compare_files(cases, request, lambda done, total: None).scores


@pytest.mark.slow
@pytest.mark.integration
def test_the_second_reader_of_chasedb1_has_a_dice_of_777():
    folder = shared("chasedb1")
    scores = compare_places(folder / "*_2ndHO.png", folder / "*_1stHO.png", tolerance=2.0)
    assert len(scores) == 28
    assert float(np.mean(DICE.per_case(scores))) == pytest.approx(0.777, abs=5e-4)


@pytest.mark.integration
@pytest.mark.slow
def test_the_mean_training_mask_of_the_hippocampus_has_a_dice_of_three_quarters(tmp_path):
    """The atlas prior, threshold .4, resized to each volume without looking at it."""
    folder = shared("msd_hippocampus") / "labelsTr"
    files = sorted(folder.glob("*.nii.gz"))
    train, test = files[: len(files) * 4 // 5], files[len(files) * 4 // 5 :]
    grid = (40, 48, 40)
    prior = np.zeros((2, *grid))
    for path in train:
        labels = read_label_map(path).labels
        for label in (1, 2):
            prior[label - 1] += zoom((labels == label).astype(np.float32), np.divide(grid, labels.shape), order=1)
    (tmp_path / "reference").mkdir()
    (tmp_path / "prior").mkdir()
    for path in test:
        image = nibabel.load(path)
        shares = [zoom(part / len(train), np.divide(image.shape, grid), order=1) for part in prior]
        answer = np.where(shares[0] >= 0.4, 1, np.where(shares[1] >= 0.4, 2, 0)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(answer, image.affine), tmp_path / "prior" / path.name)
        nibabel.save(image, tmp_path / "reference" / path.name)
    scores = compare_places(tmp_path / "prior", tmp_path / "reference")
    _, values = patient_values(scores, DICE)
    assert values.mean(axis=0) == pytest.approx([0.751, 0.718], abs=5e-4)
    assert not math.isnan(scores["hd95"].max())
