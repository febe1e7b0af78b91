"""Metrics that read patients and metadata: values, resamples, influence and boards, by hand and against each other."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nonconforming
import numpy as np
import pytest
from factories import FACTS
from pytest import approx
from sklearn.metrics import roc_auc_score

from zoo import BINARY, Undefined
from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec, Inapplicable
from zoo.data.dataset import count_images
from zoo.evaluation.evidence import unit_influence
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.scoring import score, val_score
from zoo.evaluation.thresholds import decide
from zoo.evaluation.values import repeat_units
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.pairwise import compare_models
from zoo.leaderboard.ranking_metrics import find_rank_fault
from zoo.results.store import load_results
from zoo.specs.metric import ScoringContext
from zoo.statistics.weighted import sum_by_patient

PAGE = Path(__file__).parents[1] / "docs" / "write-a-plugin.md"
NUM_PATIENTS = 40
CARD = ScoringContext(task=BINARY, labels=tuple(FACTS["labels"]), positive=1, has_patients=True)


@pytest.fixture(scope="module")
def metrics():
    """The metrics in the docs by name."""
    module = ModuleType("documented_metrics")
    text = PAGE.read_text(encoding="utf-8").partition("### Metrics of patients and groups")[2]
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], vars(module))
    return {spec.name: spec for spec in module.register_metrics()}


def draw(seed=0, noise=1.5, prefix=""):
    """One to four images of each patient in random order; a positive patient may have negative images."""
    rng = np.random.default_rng(seed)
    of_patient = np.repeat(np.arange(NUM_PATIENTS), np.random.default_rng(9).integers(1, 5, NUM_PATIENTS))
    of_patient = np.random.default_rng(8).permutation(of_patient)
    num = len(of_patient)
    targets = (of_patient % 2 == 1) & (np.random.default_rng(7).random(num) < 0.7)
    logits = targets + rng.normal(0, noise, num)
    high = 1 / (1 + np.exp(-logits))
    return Predictions(
        sample_ids=np.array([f"{prefix}{place:03}" for place in range(num)]),
        patients=np.array([f"{prefix}p{number:02}" for number in of_patient]),
        targets=targets.astype(np.int64),
        probabilities=np.column_stack([1 - high, high]),
        metadata={"sex": np.array(["f", "m", "m"])[of_patient % 3]},
    )


def run_of(seed=0, noise=1.5):
    return {"val": draw(100 + seed, noise, "v"), "test": draw(seed, noise, "t")}


@pytest.fixture(scope="module")
def decided():
    return decide(run_of(), CARD, "val")


def detected_share(patients, targets, decisions):
    """The reference: patients one by one."""
    ill = {p for p, t in zip(patients, targets, strict=True) if t}
    called = {p for p, d in zip(patients, decisions, strict=True) if d}
    return len(ill & called) / len(ill)


# --- values and resamples --------------------------------------------------------------------------------------------
def test_the_metrics_in_the_docs_conform(metrics):
    for spec in metrics.values():
        for check in checks_of("metric"):
            if check.id not in {"light-import", "spawn"}:  # it is no file that another process could import
                try:
                    check.run(CheckedSpec(spec=spec))
                except Inapplicable:
                    assert check.id not in {"metric-value", "metric-direction", "metric-degenerate"}


def test_the_values_are_those_of_single_patients_and_groups(metrics, decided):
    test, request = draw(0, prefix="t"), decided.request
    sensitivity, worst = (metrics[name] for name in ("patient_sensitivity", "worst_auroc_by_sex"))
    expected = detected_share(test.patients, request.targets, request.decisions)
    assert sensitivity.compute(decided.request_of(sensitivity)) == expected and 0.5 < expected < 1
    areas = [
        roc_auc_score(test.targets[test.metadata["sex"] == sex], test.probabilities[test.metadata["sex"] == sex, 1])
        for sex in "fm"
    ]
    assert worst.compute(decided.request_of(worst)) == approx(min(areas), abs=1e-12)


def test_a_metric_receives_what_its_spec_asks_for_and_nothing_else(metrics, decided):
    plain, patients, groups = (
        decided.request_of(spec) for spec in (METRICS[0], metrics["patient_sensitivity"], metrics["worst_auroc_by_sex"])
    )
    assert (plain.patients, dict(plain.metadata)) == (None, {})
    assert dict(patients.metadata) == {} and len(np.unique(patients.patients)) == NUM_PATIENTS
    assert groups.patients is None and list(groups.metadata) == ["sex"]
    for values in (patients.patients, groups.metadata["sex"]):
        assert not values.flags.writeable


def test_a_patient_drawn_twice_is_two_patients(metrics, decided):
    spec = metrics["patient_sensitivity"]
    request, patients = decided.request_of(spec), decided.patients
    drawn = np.where(patients == "tp01", 2, np.where(patients == "tp03", 0, 1))
    again = repeat_units(request, drawn)
    assert len(np.unique(again.patients)) == NUM_PATIENTS  # one left, one twice
    copies = np.concatenate([patients, np.char.add(patients[patients == "tp01"], "b")])
    rows = np.concatenate([np.arange(len(patients)), np.flatnonzero(patients == "tp01")])
    kept = copies != "tp03"
    expected = detected_share(copies[kept], request.targets[rows][kept], request.decisions[rows][kept])
    assert spec.compute(again) == approx(expected, abs=1e-12)
    assert spec.resample(request, drawn[None].astype(float)) == approx([expected], abs=1e-12)


def test_the_interval_without_resample_is_the_same(metrics):
    spec = replace(metrics["patient_sensitivity"], counts=None)
    runs = [[run_of(seed)] for seed in range(2)]
    both = {"fast": spec, "slow": replace(spec, resample=None)}
    scores = score(runs, both, CARD, threshold="val")
    fast, slow = scores["fast"], scores["slow"]
    assert fast.method.code == "bootstrap" and fast.low < fast.value < fast.high
    assert (slow.value, slow.low, slow.high) == approx((fast.value, fast.low, fast.high), abs=1e-9)


def test_folds_are_averaged(metrics):
    spec = metrics["patient_sensitivity"]
    folds = [run_of(seed) for seed in range(2)]
    (found,) = score([folds], {spec.name: spec}, CARD, threshold="val").values()
    each = [score([[fold]], {spec.name: spec}, CARD, threshold="val", intervals=False)[spec.name] for fold in folds]
    assert found.value == approx(np.mean([alone.value for alone in each]), abs=1e-12)
    assert found.method.code == "bootstrap" and found.low < found.value < found.high


def test_counts_of_patients_give_wilsons_interval_although_patients_have_several_images(metrics):
    spec = metrics["patient_sensitivity"]
    (found,) = score([[run_of()]], {spec.name: spec}, CARD, threshold="val").values()
    assert found.method.code == "wilson"


def test_a_column_that_is_not_stored_is_the_reason_why_there_is_no_value(metrics):
    worst = metrics["worst_auroc_by_sex"]
    run = {split: replace(part, metadata={}) for split, part in run_of().items()}
    (found,) = score([[run]], {"worst": worst}, CARD, threshold="val").values()
    reason = "the stored predictions have no column 'sex'"
    assert found.value is None and reason in str(found.reason.detail)
    assert find_rank_fault(worst, run, CARD, "val") == reason
    assert find_rank_fault(worst, run_of(), CARD, "val") == ""
    assert np.isnan(val_score(run["val"], worst, CARD))
    with pytest.raises(Undefined):
        unit_influence(worst, decide(run, CARD, "val"))


def test_a_column_without_a_value_is_the_reason_why_there_is_no_value(metrics, decided):
    blank = replace(decided, metadata={"sex": np.full(len(decided.patients), "")})
    with pytest.raises(Undefined, match="no image has a group"):
        metrics["worst_auroc_by_sex"].compute(blank.request_of(metrics["worst_auroc_by_sex"]))


def test_val_is_scored_by_patient(metrics):
    spec = metrics["patient_sensitivity"]
    val = draw(3)
    request = decide({"val": val, "test": val}, CARD, "val").request
    assert val_score(val, spec, CARD) == detected_share(val.patients, request.targets, request.decisions)


def test_a_row_is_a_patient_where_the_unit_is_the_patient(metrics):
    decided = decide(run_of(), replace(CARD, unit="patient"), "val")
    request = decided.request_of(metrics["patient_sensitivity"])
    assert request.patients.tolist() == list(range(NUM_PATIENTS))


# --- influence and tests ---------------------------------------------------------------------------------------------
def test_the_influence_of_a_patient_is_that_of_a_ratio(metrics, decided):
    spec = metrics["patient_sensitivity"]
    request = decided.request
    owners = np.unique(decided.patients)
    ill = np.array([request.targets[decided.patients == p].any() for p in owners])
    called = np.array([request.decisions[decided.patients == p].any() for p in owners])
    value = (ill & called).sum() / ill.sum()
    expected = NUM_PATIENTS * ((ill & called) - value * ill) / ill.sum()
    patients, by_weights = sum_by_patient(unit_influence(spec, decided), decided.patients)
    assert patients.tolist() == owners.tolist() and by_weights == approx(expected, abs=1e-4)
    _, left_out = sum_by_patient(unit_influence(replace(spec, resample=None), decided), decided.patients)
    alone = [
        detected_share(*(each[decided.patients != p] for each in parts))
        for p in owners
        for parts in [(decided.patients, request.targets, request.decisions)]
    ]
    assert left_out == approx((NUM_PATIENTS - 1) * (value - np.array(alone)), abs=1e-9)


def test_the_kit_refuses_a_resample_that_counts_a_patient_drawn_twice_once():
    (check,) = [check for check in checks_of("metric") if check.id == "metric-resample"]
    check.run(CheckedSpec(spec=nonconforming.PATIENTS))
    with pytest.raises(AssertionError, match="for the same units `resample` gives"):
        check.run(CheckedSpec(spec=replace(nonconforming.PATIENTS, resample=nonconforming.each_patient_once)))


def test_a_resample_that_writes_into_the_weights_has_the_same_influence(decided):
    def write(request, weights):
        weights /= weights.sum(axis=1, keepdims=True)
        return nonconforming.resampled_accuracy(request, weights)

    spec = replace(nonconforming.COMPLETE, resample=write)
    assert unit_influence(spec, decided) == approx(unit_influence(nonconforming.COMPLETE, decided))


def test_a_resample_that_keeps_what_it_computed_of_the_weights_has_the_same_influence(decided):
    def resample(request, weights):
        return request.resample_once(nonconforming.resampled_accuracy, weights)

    kept = replace(nonconforming.COMPLETE, resample=resample)
    assert unit_influence(kept, decided) == approx(unit_influence(nonconforming.COMPLETE, decided))
    assert unit_influence(kept, decided).any()


# --- boards and commands ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def stored(tmp_path_factory, store):
    """Two models, one much worse, whose primary metric is that of the docs."""
    root = tmp_path_factory.mktemp("results")
    counts = {split: count_images(BINARY, CARD.labels, part.targets, part.patients) for split, part in run_of().items()}
    splits = {**FACTS["splits"], **counts}
    facts = {**FACTS, "has_patients": True, "patient": "patient_id", "splits": splits}
    for model, noise, seeds in (("net", 0.7, 2), ("other_net", 6.0, 1)):
        for seed in range(seeds):
            named = ("patient_sensitivity", "auroc")
            store(root, model=model, seed=seed, facts=facts, metrics=named, predictions=run_of(seed, noise))
    return root


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """The flag of a command for the plugin in the docs."""
    file = tmp_path_factory.mktemp("plugin") / "kit_patients.py"
    text = PAGE.read_text(encoding="utf-8").partition("### Metrics of patients and groups")[2]
    file.write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    return "--plugin", file


def test_the_test_between_two_models_is_by_patient(metrics, stored):
    known = {spec.name: spec for spec in METRICS} | metrics
    (board,) = build_leaderboard(load_results(stored)[0], known, sections=())
    (contrast,) = compare_models([board], "net", "other_net")
    detected = []
    for row in contrast.rows:
        request = decide(row.stored[0][0], CARD, "val").request
        owners = row.stored[0][0]["test"].patients
        parts = [[each[owners == p].any() for p in np.unique(owners)] for each in (request.targets, request.decisions)]
        ill, called = map(np.array, parts)
        detected.append((ill & called)[ill])
    differences = detected[0].astype(float) - detected[1]
    # of a mean over the positive patients; the others have no influence
    deviation = np.sqrt(np.sum((differences - differences.mean()) ** 2) / len(differences) ** 2)
    assert contrast.single.method == "z of the paired influence by patient"
    assert contrast.single.difference == approx(differences.mean(), abs=1e-12)
    width = contrast.single.high - contrast.single.low
    assert width == approx(2 * 1.959964 * deviation * np.sqrt(NUM_PATIENTS / (NUM_PATIENTS - 1)), rel=1e-3)


@pytest.mark.integration
def test_report_and_compare_accept_metrics_of_patients_and_groups(main, stored, plugin):
    plugin = (*plugin, "--results", stored)
    status, out, err = main("report", *plugin, "--metrics", "worst_auroc_by_sex", "--format", "json")
    assert status == 0, err
    first = json.loads(out)["leaderboard"][0]
    assert first["metric"] == "patient_sensitivity" and first["scores"]["worst_auroc_by_sex"]["low"] is not None
    status, out, err = main("compare", "net", "other_net", *plugin, "--json")
    assert status == 0 and "influence by patient" in out, err


@pytest.mark.integration
@pytest.mark.parametrize(
    ("columns", "defined"), [pytest.param(("--metadata", "sex"), True, marks=pytest.mark.slow), ((), False)]
)
def test_scored_runs_are_bundled_and_verified_with_and_without_their_columns(
    main, stored, plugin, tmp_path, columns, defined
):
    shutil.copytree(stored, tmp_path / "results")
    status, out, err = main("score", *plugin, "--metrics", "patient_sensitivity,worst_auroc_by_sex")
    assert (status, out) == (0, "3 runs scored\n"), err
    status, out, err = main("bundle", "shared", *plugin, *columns)
    assert status == 0, err
    status, out, err = main("verify", "shared", *plugin, "--json")
    assert status == 0 and json.loads(out)["recomputed"]["scores"] == 9, out + err
    status, out, err = main("report", *plugin, "--results", "shared", "--format", "json")
    scores = json.loads(out)["leaderboard"][0]["scores"]
    assert scores["patient_sensitivity"]["value"] is not None
    assert (scores["worst_auroc_by_sex"]["value"] is not None) == defined
