"""Estimators on frozen features: answers equal to scikit-learn's, state, refusals, and rows on a board."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import make_fold
from sklearn.neighbors import NearestCentroid
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.conformance.checking import CheckedSpec
from zoo.conformance.estimator_claims import check_state, draw_request
from zoo.errors import RunError, UsageError
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predict import predict
from zoo.leaderboard.boards import build_leaderboard
from zoo.leaderboard.tables import ReportOptions
from zoo.models.estimators import ESTIMATORS, fit_boosting
from zoo.models.features import Features
from zoo.registry.lookup import Registry
from zoo.results.runs import read_run
from zoo.results.store import load_results
from zoo.runner.planning import plan_estimator
from zoo.specs.estimator import EstimatorSpec
from zoo.specs.protocol import KNN, LINEAR_PROBE, PROTOCOLS, SVM, ZERO_SHOT, Protocol, override, resolved_fields
from zoo.training.probes import fit_estimator, fit_knn, make_estimator_head

CENTROID, MACHINE, BOOSTING = ESTIMATORS
BY_NAME = {spec.name: spec for spec in METRICS}


# --- answers ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("task", [BINARY, MULTICLASS, ORDINAL], ids=str)
def test_the_nearest_centroid_is_that_of_scikit_learn(task):
    request, inputs = draw_request(task)
    scaler = StandardScaler().fit(request.inputs)
    reference = NearestCentroid().fit(scaler.transform(request.inputs), request.targets)
    decided = CENTROID.fit(request)(inputs).argmax(axis=1)
    assert decided.tolist() == reference.predict(scaler.transform(inputs)).tolist()


def test_the_values_of_a_machine_restored_from_arrays_are_those_of_scikit_learn():
    request, inputs = draw_request(BINARY)
    scaler = StandardScaler().fit(request.inputs)
    scaled = scaler.transform(request.inputs)
    reference = SVC(gamma=1 / scaled.shape[1]).fit(scaled, request.targets).decision_function(scaler.transform(inputs))
    answers = MACHINE.restore(MACHINE.state(MACHINE.fit(request)))(inputs)
    slope, offset = MACHINE.fit(request).arrays["machine0_numbers"][2:]
    assert slope > 0
    assert np.log(answers[:, 1] / answers[:, 0]) == pytest.approx(slope * reference + offset)


def test_a_machine_of_a_number_is_that_of_scikit_learn():
    request, inputs = draw_request(REGRESSION)
    scaler = StandardScaler().fit(request.inputs)
    reference = SVR(gamma=1 / request.inputs.shape[1]).fit(scaler.transform(request.inputs), request.targets)
    assert MACHINE.fit(request)(inputs)[:, 0] == pytest.approx(reference.predict(scaler.transform(inputs)))


def test_probabilities_of_a_machine_come_from_patients_that_the_fit_has_not_seen():
    """On noise, held-out decision values say nothing; in-sample ones would give a steep sigmoid."""
    rng = np.random.default_rng(0)
    request, _ = draw_request(BINARY)
    noise = replace(request, inputs=rng.normal(size=request.inputs.shape), targets=rng.integers(0, 2, 90))
    answers = MACHINE.fit(noise)(noise.inputs)
    assert np.abs(answers - 0.5).max() < 0.4


def test_an_unknown_label_is_left_out_of_its_own_fit_only():
    request, inputs = draw_request(MULTILABEL)
    targets = np.array(request.targets)
    targets[:, 0] = np.nan
    expected, answers = (CENTROID.fit(each)(inputs) for each in (request, replace(request, targets=targets)))
    assert answers[:, 1:] == pytest.approx(expected[:, 1:])
    assert np.ptp(answers[:, 0]) < 1e-12  # nothing is known of it


def test_boosting_ranks_new_images():
    request, inputs = draw_request(BINARY)
    from sklearn.metrics import roc_auc_score

    targets, _ = BINARY.targets.draw(np.random.default_rng(1), 120, 2)
    assert roc_auc_score(targets[90:], fit_boosting(request)(inputs)[:, 1]) > 0.9


# --- the head --------------------------------------------------------------------------------------------------------
def make_features(task=BINARY):
    request, inputs = draw_request(task)
    values = np.concatenate([request.inputs, inputs]).astype(np.float32)
    targets, _ = task.targets.draw(np.random.default_rng(1), len(values), len(make_fold(np.arange(5)).labels))
    dataset = make_fold(targets, task=task, split_of=np.repeat(["train", "val", "test"], [90, 15, 15]))
    return dataset, Features(values=torch.from_numpy(values), device="cpu")


def test_a_head_answers_what_the_estimator_answers_and_holds_its_state():
    dataset, features = make_features()
    head = fit_estimator(features, dataset, CENTROID, lambda _: 0.0, seed=0)
    stored = {name.removeprefix("arrays."): value.numpy() for name, value in head.state_dict().items()}
    expected = CENTROID.restore(stored)(features.of(dataset.index("test")))
    answers = predict(head, dataset, features, "test", precision="fp32").probabilities
    assert answers == pytest.approx(expected, abs=1e-6)
    assert head.to(torch.float16).state_dict()["arrays.center"].dtype == torch.float64


def test_a_state_keeps_the_shapes_of_its_arrays():
    arrays = {"count": np.array(3), "table": np.zeros((2, 3)).T}
    state = make_estimator_head("e", len, arrays, task=BINARY, num_labels=2).state_dict()
    assert [tuple(value.shape) for value in state.values()] == [(), (3, 2)]


class OnMps(torch.Tensor):
    """A tensor of a device without float64."""

    def double(self):
        raise TypeError("no float64")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_heads_convert_to_float64_on_the_host():
    dataset, features = make_features()
    heads = fit_estimator(features, dataset, CENTROID, lambda _: 0.0, seed=0), fit_knn(features, dataset, KNN)
    for head in heads:
        rows = features.values[:4]
        assert torch.equal(head(rows.as_subclass(OnMps)).as_subclass(torch.Tensor), head(rows))


def test_the_kit_refuses_a_state_that_a_module_cannot_hold():
    renamed = replace(
        CENTROID,
        tasks=("binary",),
        state=lambda predict: {"children": predict.arrays["center"], **predict.arrays},
    )
    with pytest.raises(AssertionError, match="children"):
        check_state(CheckedSpec(spec=renamed))


def answer_at_random(request):
    return lambda inputs: np.full((len(inputs), request.num_labels), 0.7)


def test_answers_that_are_not_probabilities_are_refused_by_name():
    dataset, features = make_features()
    spec = EstimatorSpec(name="careless", fit=answer_at_random)
    head = fit_estimator(features, dataset, spec, lambda _: 0.0, seed=0)
    with pytest.raises(RunError, match=r"'careless'.*do not sum to 1") as error:
        head(features.values[:4])
    assert error.value.code == "wrong-output"


def fit_by_val(request):
    fits = [lambda inputs, sign=sign: 1 / (1 + np.exp(sign * inputs[:, :2])) for sign in (-1, 1)]
    answers = [lambda inputs, fit=fit: fit(inputs) / fit(inputs).sum(axis=1, keepdims=True) for fit in fits]
    return max(answers, key=request.val_score)


def test_an_estimator_may_choose_between_fits_by_the_score_of_val():
    dataset, features = make_features()
    head = fit_estimator(features, dataset, EstimatorSpec(name="chooser", fit=fit_by_val), mean_logit, seed=0)
    worse = fit_estimator(features, dataset, EstimatorSpec(name="chooser", fit=fit_by_val), minus_mean_logit, seed=0)
    assert not torch.allclose(head(features.values), worse(features.values))


def mean_logit(logits):
    return float(logits[:, 0].mean())


def minus_mean_logit(logits):
    return -mean_logit(logits)


# --- planning --------------------------------------------------------------------------------------------------------
def fit_anything(request):
    raise AssertionError("planning fits nothing")


REGISTRY = Registry(estimators={"svm": MACHINE, "forest": EstimatorSpec(name="forest", fit=fit_anything, seeded=True)})


def test_an_estimator_that_depends_on_the_seed_needs_a_protocol_that_says_so():
    with pytest.raises(UsageError) as error:
        plan_estimator(override(SVM, {"estimator": "forest"}), REGISTRY)
    assert error.value.code == "bad-protocol" and "--set seeded=true" in error.value.fix
    planned = plan_estimator(override(SVM, {"estimator": "forest", "seeded": "true"}), REGISTRY)
    assert planned.spec.name == "forest"


def test_an_unknown_estimator_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="'svn'") as error:
        plan_estimator(override(SVM, {"estimator": "svn"}), REGISTRY)
    assert error.value.code == "unknown-estimator" and "svm" in error.value.fix


def test_one_run_is_enough_if_nothing_depends_on_the_seed():
    assert SVM.is_deterministic("pretrained") and SVM.is_deterministic("fixed") and not SVM.is_deterministic("random")
    assert not replace(SVM, seeded=True).is_deterministic("pretrained")


def test_an_estimator_goes_with_its_method_only():
    for protocol in ({"method": "estimator"}, {"method": "probe", "estimator": "svm"}):
        with pytest.raises(UsageError) as error:
            Protocol(name="x", **protocol)
        assert error.value.code == "bad-protocol"


def test_other_protocols_have_no_estimator_in_their_identity():
    assert not any({"estimator", "seeded"} & resolved_fields(each).keys() for each in PROTOCOLS if not each.estimator)
    assert resolved_fields(SVM)["estimator"] == "svm" and "estimator" not in resolved_fields(KNN)


# --- boards ----------------------------------------------------------------------------------------------------------
def rows_of(root, **options):
    boards = build_leaderboard(load_results(root)[0], BY_NAME, ReportOptions(**options))
    return {board.protocol: [row.label for row in board.rows if not row.baseline] for board in boards}


def test_a_model_without_weights_stands_on_the_boards_of_its_protocol(tmp_path, store):
    for init, model in (("random", "net"), ("fixed", "formula")):
        store(tmp_path, model=model, init=init, protocol=LINEAR_PROBE)
        store(tmp_path, model=model, init=init, protocol=SVM, estimator="zoo-bench:svm@v1")
    boards = rows_of(tmp_path)
    assert {name: sorted(rows) for name, rows in boards.items()} == {
        "linear-probe@1": ["formula", "net"],
        "svm@1": ["formula", "net"],
    }


def test_answers_without_training_stand_on_every_board_of_their_data(tmp_path, store):
    store(tmp_path, model="net")
    store(tmp_path, model="words", init="fixed", protocol=ZERO_SHOT)
    ((_, rows),) = rows_of(tmp_path).items()
    assert sorted(rows) == ["net", "words"]


def test_the_version_of_an_estimator_separates_runs(tmp_path, store):
    one, other = (
        read_run(store(tmp_path, protocol=SVM, estimator=f"zoo-bench:svm@v{version}").run) for version in (1, 2)
    )
    assert one.id != other.id and one.identity["estimator"] == "zoo-bench:svm@v1"


# --- commands --------------------------------------------------------------------------------------------------------
def example_of_docs():
    page = (Path(__file__).parents[1] / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    return re.search(r"## `EstimatorSpec`.*?```python\n(.*?)```", page, re.DOTALL)[1]


@pytest.mark.integration
def test_the_example_of_the_docs_is_ranked_kept_and_predicts(zoo, bench, tiny_data, tmp_path):
    (tmp_path / "texture.py").write_text(example_of_docs(), encoding="utf-8")
    plugin = ("--plugin", "texture.py")
    runs = ("--datasets", tiny_data / "binary.npz", "--models", "texture", "--set", "image_size=16", "--seeds", "2")
    status, document, said = bench(*plugin, *runs, "--protocol", "svm,forest,zero-shot", cwd=tmp_path)
    assert status != 0 and "wrong-method" in said
    status, document, said = bench(*plugin, *runs, "--protocol", "svm,forest", cwd=tmp_path)
    assert status == 0, said
    made = [(run["protocol"], run["seed"]) for run in document["runs"] if run["model"] == "texture"]
    assert sorted(made) == [
        ("forest@1+image_size=16", 0),
        ("forest@1+image_size=16", 1),
        ("svm@1+image_size=16", 0),
    ]
    assert "'forest': its models are not kept" in said
    from PIL import Image

    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "new.png")
    done = zoo("predict", *plugin, "binary/texture", "new.png", cwd=tmp_path)
    assert done.returncode == 0 and re.search(r"^new.png,[^,]*,[^,]+,0\.\d+,", done.stdout, re.MULTILINE), done.stderr
