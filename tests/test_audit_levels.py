"""The levels check: association of file groups with the label, compared with scipy's tests."""

from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from dicom_files import write
from scipy.stats import chi2_contingency, fisher_exact, kruskal

from zoo import BINARY, MULTICLASS, MULTILABEL, REGRESSION
from zoo.auditing.audit import run_audit
from zoo.auditing.levels import find_associations
from zoo.data.fingerprints import take_fingerprints
from zoo.data.opening import open_dataset
from zoo.data.splits import draw_split
from zoo.sources.opening import find_source


def write_ct(root, lost):
    """Write CT files of 24 patients, the first half well; files whose number is in `lost` have no rescaling."""
    for number in range(24):
        pixels = np.random.default_rng(number).normal(1100, 60, (64, 64)).astype(np.uint16)
        rescaling = {} if number in lost else {"RescaleSlope": 1, "RescaleIntercept": -1024}
        folder = root / ("well" if number < 12 else "ill")
        write(folder / f"{number}.dcm", pixels, BitsStored=12, HighBit=11, PatientID=f"P{number}", **rescaling)
    return root


def examine(root, cache):
    source = open_dataset(find_source(root), cache)
    fingerprints = take_fingerprints(source, cache)
    return run_audit(source, draw_split(source, fingerprints=fingerprints), fingerprints)


def source_of(groups, targets, task, patients=None, labels=("a", "b", "c")):
    return SimpleNamespace(
        samples=SimpleNamespace(table=pandas.DataFrame({"levels_by_depth": groups}), targets=np.asarray(targets)),
        patients=np.array(patients or range(len(groups))).astype(str),
        task=task,
        spec=SimpleNamespace(labels=labels),
    )


def test_rescaling_associated_with_the_label_is_a_warning(tmp_path):
    audited = examine(write_ct(tmp_path / "set", lost=range(12, 19)), tmp_path)
    (finding,) = [finding for finding in audited.findings if finding.check == "levels"]
    assert finding.verdict == "warn" and finding.count == 7
    assert "rescaling" in finding.message and "'without rescaling'" in finding.message


def test_rescaling_independent_of_the_label_is_no_warning(tmp_path):
    audited = examine(write_ct(tmp_path / "set", lost=(0, 1, 2, 12, 13, 14)), tmp_path)
    assert "levels" in audited.scope.passed(audited.failed_checks)


def test_the_check_is_not_listed_for_a_dataset_without_groups(tmp_path):
    assert "levels" not in examine(write_ct(tmp_path / "set", lost=()), tmp_path).scope.checks


def test_p_values_are_those_of_fishers_exact_and_the_chi_squared_test():
    groups, targets = ["8"] * 10 + ["12"] * 6, [0] * 9 + [1] * 7
    (binary,) = find_associations(source_of(groups, targets, BINARY))
    assert binary.p_value == pytest.approx(fisher_exact([[9, 1], [0, 6]])[1])
    assert (binary.fact, binary.group, binary.rows.tolist()) == ("depth", "12", list(range(10, 16)))
    groups, targets = ["8"] * 12 + ["12"] * 12, [0] * 6 + [1] * 6 + [1] * 2 + [2] * 10
    (multiclass,) = find_associations(source_of(groups, targets, MULTICLASS))
    assert multiclass.p_value == pytest.approx(chi2_contingency([[6, 6, 0], [0, 2, 10]])[1])


def test_slices_of_one_patient_count_once():
    groups, targets = ["8"] * 30 + ["12"] * 30, [0] * 30 + [1] * 30
    by_image = source_of(groups, targets, BINARY)
    by_patient = source_of(groups, targets, BINARY, patients=[number // 15 for number in range(60)])
    assert list(find_associations(by_image))
    assert not list(find_associations(by_patient))


def test_regression_uses_the_kruskal_wallis_test():
    groups, targets = ["8"] * 10 + ["12"] * 10, [*range(10), *range(8, 18)]
    (association,) = find_associations(source_of(groups, np.array(targets, float), REGRESSION))
    assert association.p_value == pytest.approx(kruskal(targets[:10], targets[10:])[1])


def test_multilabel_names_the_associated_label_and_ignores_unknown_targets():
    targets = np.tile([[0.0, 1.0, np.nan], [1.0, 0.0, np.nan]], (12, 1))
    targets[:, 1] = [0] * 12 + [1] * 12
    (association,) = find_associations(source_of(["8"] * 12 + ["12"] * 12, targets, MULTILABEL))
    assert association.label == "'b'"


def test_a_weak_association_in_a_large_dataset_is_no_finding():
    groups = ["8", "12"] * 5000
    targets = np.random.default_rng(0).permutation([0, 1] * 5000)
    targets[0:1500:2] = 0
    source = source_of(groups, targets, BINARY)
    p_value = chi2_contingency(pandas.crosstab(np.array(groups), targets))[1]
    assert p_value < 0.01
    assert not list(find_associations(source))
