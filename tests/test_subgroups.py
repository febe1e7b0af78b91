"""Scores by group: membership, scores, differences from the rest, and notes."""

from dataclasses import replace

import numpy as np
import pytest
from factories import make_predictions
from pytest import approx
from scipy.stats import norm
from sklearn.metrics import recall_score, roc_auc_score
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import confint_proportions_2indep

from zoo import BINARY, MULTICLASS, REGRESSION
from zoo.errors import UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score
from zoo.evaluation.thresholds import ThresholdTarget, choose_thresholds
from zoo.leaderboard.subgroups import KEPT, build_section
from zoo.leaderboard.tables import GroupBy, ReportOptions, ScoredRow, SectionRequest, parse_by
from zoo.report.reasons import reason_text, section_notes
from zoo.specs.metric import ScoringContext
from zoo.statistics.intervals import independent_difference, wilson_interval

METRIC = {metric.name: metric for metric in METRICS}
CARD = ScoringContext(task=BINARY, labels=("benign", "malignant"), positive=1)
BY_PATIENT = replace(CARD, has_patients=True)
FACTS = {"patient": "patient"}


def draw_run(seed=0, num=300, weak="none", columns=None, patients=None):
    """Predictions that follow the targets; not those of the images whose `scanner` is `weak`."""
    fixed, random, run = np.random.default_rng(5), np.random.default_rng(seed), {}
    for split in ("val", "test"):
        targets = fixed.integers(2, size=num)
        metadata = {"sex": fixed.choice(["F", "M"], num), "scanner": fixed.choice(["a", "b", "c"], num)}
        metadata["age"] = fixed.integers(20, 80, num).astype(str)
        metadata["age"][:30] = ""
        strength = np.where(metadata["scanner"] == weak, 0.0, 2.0)
        positive = 1 / (1 + np.exp(-(strength * (targets - 0.5) + random.normal(size=num))))
        metadata = metadata if columns is None else columns
        run[split] = make_predictions(targets, positive, patients=patients, prefix=split, metadata=metadata)
    return run


def section_of(*runs, by, card=CARD, primary="auroc", others=(), **options):
    rows = [ScoredRow(label="net", baseline=False, stored=[[run] for run in runs], seeds=tuple(range(len(runs))))]
    request = SectionRequest(
        rows=[*rows, *others],
        card=card,
        facts=FACTS,
        primary=METRIC.get(primary),
        threshold="val",
        options=ReportOptions(by=parse_by(by), **options),
    )
    return build_section(request)


def by_group(section):
    """The cells of every group, by column and group."""
    rows = [dict(zip(section.columns, cells, strict=True)) for cells in section.rows]
    return {(row["by"], row["group"]): row for row in rows}


# --- who is in which group -------------------------------------------------------------------------------------------
def test_by_texts_are_parsed_to_columns_and_widths():
    assert parse_by(("sex", "age:10", "b:1.5", "icd:10:5")) == (
        GroupBy(column="sex"),
        GroupBy(column="age", width=10.0),
        GroupBy(column="b", width=1.5),
        GroupBy(column="icd:10", width=5.0),
    )
    assert parse_by(("size:large",)) == (GroupBy(column="size:large"),)
    with pytest.raises(UsageError, match="a width is a number above 0"):
        parse_by(("age:0",))


def test_texts_are_sorted_groups_and_every_unit_is_in_one():
    run = draw_run()
    found = by_group(section_of(run, by=["sex", "scanner"]))
    assert list(found) == [("sex", "F"), ("sex", "M"), ("scanner", "a"), ("scanner", "b"), ("scanner", "c")]
    for column in ("sex", "scanner"):
        counts = {name: row["images"] for (by, name), row in found.items() if by == column}
        values, numbers = np.unique(run["test"].metadata[column], return_counts=True)
        assert counts == dict(zip(values, numbers, strict=True))


def test_a_width_bins_numbers_and_unknown_ones_are_a_separate_group():
    run = draw_run()
    found = by_group(section_of(run, by=["age:20"]))
    ages = run["test"].metadata["age"]
    known = np.array([float(age) for age in ages if age])
    assert list(found) == [("age:20", f"{low} to <{low + 20}") for low in (20, 40, 60)] + [("age:20", "unknown")]
    assert found["age:20", "40 to <60"]["images"] == ((known >= 40) & (known < 60)).sum()
    assert found["age:20", "unknown"]["images"] == 30


def test_numbers_without_a_width_are_cut_at_quartiles_with_a_note():
    run = draw_run()
    section = section_of(run, by=["age"])
    counts = [row["images"] for (_, name), row in by_group(section).items() if name != "unknown"]
    assert len(counts) == 4 and max(counts) - min(counts) < 20
    assert any("cut at the quartiles of test" in note for note in section_notes(section))


def test_few_distinct_numbers_are_groups_unchanged():
    grades = np.random.default_rng(0).choice(["1", "2", "10"], 300)
    found = by_group(section_of(draw_run(columns={"grade": grades}), by=["grade"]))
    assert [name for _, name in found] == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("by", "said"),
    [
        ("sez", f"sez: no such column. Did you mean 'sex'? There are: sex, scanner, age; {KEPT}"),
        ("age:ten", "age:ten: 'ten' is not a width: write age:10 for groups of ten"),
        ("sex:10", "sex:10: the column holds texts, which have no width"),
        ("site", "site: all of test is 'one': there are no groups"),
    ],
)
def test_a_column_without_groups_is_noted_and_the_others_are_shown(by, said):
    run = draw_run()
    if by == "site":
        one = np.full(300, "one")
        run = {s: replace(p, metadata={**p.metadata, "site": one}) for s, p in run.items()}
    section = section_of(run, by=[by, "sex"])
    assert said in list(section_notes(section))
    assert {row["by"] for row in by_group(section).values()} == {"sex"}


def with_ages(run, changed):
    """The run with some cells of its column of ages, by position, made others."""
    ages = run["test"].metadata["age"].astype("U16")
    for place, cell in changed.items():
        ages[place] = cell
    return {s: replace(p, metadata={**p.metadata, "age": ages}) for s, p in run.items()}


@pytest.mark.parametrize("by", ["age:20", "age"])
def test_missing_value_texts_among_numbers_count_as_empty(by):
    run, texts = draw_run(), ("NA", "N/A", "NaN", "nan", "None", "unknown", "?")
    written = dict(enumerate(texts, start=40))
    said, empty = (section_of(with_ages(run, cells), by=[by]) for cells in (written, dict.fromkeys(written, "")))
    assert said.rows == empty.rows and said.notes == empty.notes
    assert "age: unknown for 37 of 300 images" in said.notes


def test_complete_columns_have_no_note_on_missing_values():
    assert not any("not known" in note for note in section_of(draw_run(), by=["sex"]).notes)


def test_none_among_texts_stays_a_group():
    cells = np.random.default_rng(0).choice(["none", "mild"], 300)
    assert list(by_group(section_of(draw_run(columns={"pain": cells}), by=["pain"]))) == [
        ("pain", "mild"),
        ("pain", "none"),
    ]


def test_a_patient_has_the_age_of_its_images_that_have_one():
    patients = np.array([f"p{i // 2:03}" for i in range(300)])
    ages = np.repeat([str(20 + i % 50) for i in range(150)], 2).astype("U16")
    ages[::2] = "NA"
    run = draw_run(columns={"age": ages}, patients=patients)
    run = {s: replace(p, targets=np.repeat(p.targets[::2], 2)) for s, p in run.items()}
    section = section_of(run, by=["age:25"], card=replace(BY_PATIENT, unit="patient"))
    found = {name: row["patients"] for (_, name), row in by_group(section).items()}
    assert found == {"0 to <25": 15, "25 to <50": 75, "50 to <75": 60}


def test_the_first_cell_that_is_not_a_number_is_named_with_a_fix():
    run = with_ages(draw_run(), {40: "NA", 41: "12 y", 42: "inf"})
    section = section_of(run, by=["age:20", "sex"])
    assert (
        "age:20: '12 y' is not a number (2 of 300 values): correct such cells, leave unknown ones empty, and run "
        "again with `zoo bench --fresh`"
    ) in list(section_notes(section))
    assert {row["by"] for row in by_group(section).values()} == {"sex"}


def test_a_numeric_column_read_as_text_names_the_odd_cell():
    section = section_of(with_ages(draw_run(), {41: "12 y"}), by=["age"])
    assert "age: read as texts: '12 y' is not a number (1 of 300 values)" in list(section_notes(section))


def test_results_without_metadata_name_the_fix():
    section = section_of(draw_run(columns={}), by=["sex"])
    assert section.rows == ()
    (told,) = section_notes(section)
    assert told.startswith("these results hold no metadata; results keep columns of numbers")
    assert "correct or empty each cell" in told and told.endswith("run again with `zoo bench --fresh`")


def test_an_older_row_without_metadata_takes_them_from_another_that_was_tested_on_the_same_images():
    old, other = draw_run(1, columns={}), draw_run(2, columns={}, num=200)
    rows = [
        ScoredRow(label=label, baseline=False, stored=[[run]], seeds=(0,))
        for label, run in (("old", old), ("elsewhere", other))
    ]
    section = section_of(draw_run(), by=["sex"], others=rows)
    assert [row[0] for row in section.rows] == ["net", "net", "old", "old"]
    assert "elsewhere: left out, tested on other images" in list(section_notes(section))


def test_the_section_is_built_only_if_requested():
    assert section_of(draw_run(), by=[]) is None


# --- scores ----------------------------------------------------------------------------------------------------------
def test_a_groups_scores_equal_scikit_learns_at_the_threshold_of_all_of_val():
    run = draw_run()
    found, test = by_group(section_of(run, by=["scanner"])), run["test"]
    (threshold,) = choose_thresholds(run["val"], CARD, "val")
    for name in "abc":
        inside = test.metadata["scanner"] == name
        targets, positive = test.targets[inside], test.probabilities[inside, 1]
        row = found["scanner", name]
        assert row["auroc"].value == approx(roc_auc_score(targets, positive))
        assert row["sensitivity"].value == approx(recall_score(targets, positive >= threshold))
        assert row["specificity"].value == approx(recall_score(targets, positive >= threshold, pos_label=0))
        assert (row["images +"], row["images -"]) == (targets.sum(), (1 - targets).sum())
        assert row["auroc"].low < row["auroc"].value < row["auroc"].high


def test_the_threshold_is_the_requested_one():
    run = draw_run()
    rule = ThresholdTarget(metric="sensitivity", least=0.95)
    (threshold,) = choose_thresholds(run["val"], CARD, rule)
    inside = run["test"].metadata["sex"] == "F"
    expected = recall_score(run["test"].targets[inside], run["test"].probabilities[inside, 1] >= threshold)
    assert by_group(section_of(run, by=["sex"], reach=rule))["sex", "F"]["sensitivity"].value == approx(expected)


@pytest.mark.integration
def test_several_seeds_are_averaged_and_widen_the_interval():
    runs = [draw_run(seed) for seed in range(3)]
    alone = [by_group(section_of(run, by=["sex"]))["sex", "F"]["auroc"] for run in runs]
    together = by_group(section_of(*runs, by=["sex"]))["sex", "F"]["auroc"]
    assert together.value == approx(np.mean([found.value for found in alone]))
    assert together.method.text == "logit-DeLong (patients + seeds)"


def test_a_group_with_too_few_cases_is_counted_and_not_scored():
    site = np.array(["rare"] * 15 + ["common"] * 285)
    found = by_group(section_of(draw_run(columns={"site": site}), by=["site"]))
    rare, common = found["site", "rare"], found["site", "common"]
    assert rare["images"] == 15
    for name in ("auroc", "sensitivity", "specificity", "auroc less rest's"):
        assert rare[name].value is None and rare[name].reason.code == "too-few"
    assert rare["p (Holm)"] is None and common["p (Holm)"] is None
    assert common["auroc"].value is not None
    assert reason_text(common["auroc less rest's"].reason).startswith("the rest: too few: ")


def test_too_few_counts_patients_not_images():
    patients = np.repeat([f"p{i}" for i in range(30)], 10)
    sex = np.repeat(["F", "M"], [80, 220])
    found = by_group(section_of(draw_run(columns={"sex": sex}, patients=patients), by=["sex"], card=BY_PATIENT))
    assert (found["sex", "F"]["images"], found["sex", "F"]["patients +"]) == (80, 8)
    assert reason_text(found["sex", "F"]["auroc"].reason) == "too few: 8 positives (patients), 10 are needed"
    assert found["sex", "M"]["auroc"].method.code == "clustered-newcombe"


def test_if_patients_are_scored_they_are_counted_and_grouped_by_their_images():
    run = draw_run()
    patients = np.array([f"p{t}-{i % 30:02}" for i, t in enumerate(run["test"].targets)])
    sex = np.array(["F" if int(name[-2:]) % 2 else "M" for name in patients])
    age = np.array([str(30 + int(name[-2:]) + i % 2) for i, name in enumerate(patients)])
    run["test"] = replace(run["test"], patients=patients, metadata={"sex": sex, "age": age})
    section = section_of(run, by=["sex", "age:10"], card=replace(BY_PATIENT, unit="patient"))
    found, units = by_group(section), run["test"].by_unit("patient")
    assert found["sex", "F"]["patients"] == sum(int(name[-2:]) % 2 for name in units.patients)
    inside = np.array([int(name[-2:]) % 2 == 1 for name in units.patients])
    expected = roc_auc_score(units.targets[inside], units.probabilities[inside, 1])
    assert found["sex", "F"]["auroc"].value == approx(expected)
    assert sum(row["patients"] for (by, _), row in found.items() if by == "age:10") == len(units)


def test_groups_are_scored_by_fold_and_averaged():
    folds = [draw_run(fold) for fold in range(2)]
    folds[1] = {s: replace(p, sample_ids=np.char.add("x", p.sample_ids)) for s, p in folds[1].items()}
    folds = [{s: replace(p, patients=p.sample_ids) for s, p in run.items()} for run in folds]
    row = ScoredRow(label="net", baseline=False, stored=[folds], seeds=(0,))
    request = SectionRequest(
        rows=[row], card=CARD, facts=FACTS, primary=METRIC["auroc"], threshold="val",
        options=ReportOptions(by=parse_by(["sex"])),
    )  # fmt: skip
    found = by_group(build_section(request))["sex", "F"]
    areas = []
    for run in folds:
        test, inside = run["test"], run["test"].metadata["sex"] == "F"
        areas.append(roc_auc_score(test.targets[inside], test.probabilities[inside, 1]))
    assert found["auroc"].value == approx(np.mean(areas))


@pytest.mark.integration
def test_a_group_without_an_interval_has_a_reason_for_its_missing_p():
    """One ill patient of the group in each of twelve folds: hardly a resample has one in all of them."""
    columns = {"sex": np.array(["F"] * 4 + ["M"] * 20)}
    folds = [draw_run(fold, num=24, columns=columns) for fold in range(12)]
    ill = np.r_[1, 1, 0, 0]
    folds = [
        {s: replace(p, sample_ids=np.char.add(f"{n}.", p.sample_ids), patients=np.arange(24) // 2 + 100 * n,
                    targets=np.r_[ill, p.targets[4:]])
         for s, p in run.items()} for n, run in enumerate(folds)
    ]  # fmt: skip
    row = ScoredRow(label="net", baseline=False, stored=[folds], seeds=(0,))
    section = build_section(
        SectionRequest(
            rows=[row], card=BY_PATIENT, facts=FACTS, primary=METRIC["average_precision"], threshold="val",
            options=ReportOptions(by=parse_by(["sex"])),
        )
    )  # fmt: skip
    found = by_group(section)["sex", "F"]
    assert found["average_precision"].value is not None and found["p (Holm)"] is None
    (note,) = [note for note in section_notes(section) if note.startswith("net, sex F: no p: no interval: ")]
    assert "undefined in" in note


def test_for_multiclass_tasks_only_the_primary_metric_is_shown():
    random = np.random.default_rng(0)
    targets = random.integers(3, size=300)
    probabilities = random.dirichlet(np.ones(3), 300) * 0.5 + np.eye(3)[targets] * 0.5
    run = {s: replace(p, targets=targets, probabilities=probabilities) for s, p in draw_run().items()}
    section = section_of(run, by=["sex"], card=ScoringContext(task=MULTICLASS, labels=("a", "b", "c")))
    assert section.columns == ("model", "by", "group", "images", "auroc", "auroc less rest's", "p (Holm)")
    assert all(row["auroc"].value is not None for row in by_group(section).values())


# --- differences -----------------------------------------------------------------------------------------------------
def test_the_difference_is_the_groups_score_minus_that_of_all_other_units():
    run = draw_run(weak="c")
    found, test = by_group(section_of(run, by=["scanner"]))["scanner", "c"], run["test"]
    inside = test.metadata["scanner"] == "c"
    areas = [roc_auc_score(test.targets[kept], test.probabilities[kept, 1]) for kept in (inside, ~inside)]
    difference = found["auroc less rest's"]
    assert difference.value == approx(areas[0] - areas[1])
    assert difference.low < difference.value < difference.high < 0
    assert found["p (Holm)"] < 0.001


def test_the_interval_of_two_proportions_equals_statsmodels_newcombe():
    first, second = wilson_interval(56, 70), wilson_interval(48, 80)
    low, high, p = independent_difference(56 / 70, 48 / 80, first, second)
    assert (low, high) == approx((0.0524, 0.3339), abs=5e-5)  # Newcombe 1998, Statistics in Medicine 17:873, method 10
    expected = confint_proportions_2indep(56, 70, 48, 80, method="newcomb")
    assert (low, high) == approx(expected, abs=1e-9)
    assert p < 0.05


def test_p_is_5_percent_if_the_interval_ends_at_0():
    low, _, p = independent_difference(0.2, 0.0, (0.0, 0.3), (-0.1, 0.0))
    assert low == approx(0.0) and p == approx(0.05)
    assert independent_difference(0.5, 0.5, (0.4, 0.6), (0.4, 0.6))[2] == 1.0
    z = norm.isf(0.001 / 2) / norm.isf(0.025)
    assert independent_difference(0.0, z, (0.0, 0.6), (z - 0.8, 1.0))[2] == approx(0.001)


@pytest.mark.integration
def test_p_values_are_adjusted_by_holm_over_all_groups_of_a_model():
    run = draw_run(weak="c")
    found = by_group(section_of(run, by=["scanner", "age:20"]))
    raw = []
    for row in found.values():
        difference = row["auroc less rest's"]
        half = difference.value - difference.low if difference.value > 0 else difference.high - difference.value
        raw.append(2 * norm.sf(abs(difference.value) / half * norm.isf(0.025)))
    expected = multipletests(raw, method="holm")[1]
    assert [row["p (Holm)"] for row in found.values()] == approx(expected)


def test_the_test_of_two_groups_is_counted_once():
    alone = by_group(section_of(draw_run(), by=["sex"]))
    female, male = alone["sex", "F"], alone["sex", "M"]
    difference = female["auroc less rest's"]
    assert male["auroc less rest's"].value == approx(-difference.value)
    half = difference.high - difference.value if difference.value < 0 else difference.value - difference.low
    expected = 2 * norm.sf(abs(difference.value) / half * norm.isf(0.025))
    assert female["p (Holm)"] == male["p (Holm)"] == approx(expected)


def test_a_perfect_group_has_a_difference_with_an_interval():
    run = draw_run()
    test = run["test"]
    sure = test.metadata["sex"] == "F"
    probabilities = np.where(sure[:, None], 0.05 + 0.9 * np.eye(2)[test.targets], test.probabilities)
    run["test"] = replace(test, probabilities=probabilities)
    found = by_group(section_of(run, by=["sex"]))["sex", "F"]
    assert found["auroc"].value == 1.0 and found["auroc"].method.text == "Newcombe's method 5"
    assert 0 < found["auroc less rest's"].low < found["auroc less rest's"].value


def test_a_score_by_group_is_the_score_of_those_units_alone():
    run = draw_run()
    inside = run["test"].metadata["scanner"] == "a"
    names = ("sample_ids", "patients", "targets", "probabilities")
    part = Predictions(**{name: getattr(run["test"], name)[inside] for name in names})
    expected = score([[{**run, "test": part}]], {"auroc": METRIC["auroc"]}, CARD, threshold="val")["auroc"]
    assert by_group(section_of(run, by=["scanner"]))["scanner", "a"]["auroc"] == expected


def test_the_difference_of_an_error_metric_keeps_its_sign():
    run = draw_run(weak="c")
    found = by_group(section_of(run, by=["scanner"], primary="brier"))["scanner", "c"]
    assert found["brier less rest's"].value > 0


@pytest.mark.parametrize(
    ("task", "words"),
    [(BINARY, "under 10 positive or under 10 negative images"), (REGRESSION, "under 10 images")],
    ids=str,
)
def test_the_note_on_small_groups_has_the_words_of_the_task(task, words):
    run = draw_run()
    if task == REGRESSION:
        run = {split: replace(part, probabilities=part.probabilities[:, :1]) for split, part in run.items()}
    card = ScoringContext(task=task, labels=("age",) if task == REGRESSION else CARD.labels)
    section = section_of(run, by=("sex",), card=card, primary="mae" if task == REGRESSION else "auroc")
    assert f"too few: {words}; such a group is not scored" in list(section_notes(section))
