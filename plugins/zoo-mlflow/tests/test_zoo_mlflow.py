"""The runs that MLflow reads."""

import sys
from importlib.util import find_spec

import pytest
from factories import store_result

from zoo.results.runs import read_run
from zoo.runner.observing import Observers, round_finished, run_finished, run_started
from zoo.system.progress import Console

if not find_spec("mlflow"):  # perf: importing it takes .4 s, also where all these tests are left out
    pytest.skip("mlflow is not installed", allow_module_level=True)
zoo_mlflow = pytest.importorskip("zoo_mlflow")
pytestmark = pytest.mark.integration

(OBSERVER,) = zoo_mlflow.register_observers()


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """MLflow's own client, on what was logged of a finished, a failed and an interrupted run."""
    root = tmp_path_factory.mktemp("results")
    done, failed = store_result(root), store_result(root, seed=1, status="failed")
    begun = store_result(root, seed=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        observers = Observers([OBSERVER], Console(sys.stderr))
        observers.emit({"event": "bench_started", "results": str(root)})
        observers.emit(run_started(read_run(done.run)))
        for result, step in ((done, 2), (begun, 2), (done, 4)):
            numbers = {"step": step, "num_steps": 4, "loss": 1 / step, "val_score": None, "val_loss": 0.25}
            observers.emit(round_finished(read_run(result.run), numbers))
        observers.emit(run_finished(done))
        observers.emit(run_finished(failed))
        observers.close("interrupted")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        client = MlflowClient((root / "mlruns").as_uri())
        client.result = done
        yield client


@pytest.fixture(scope="module")
def runs(client):
    experiment = client.get_experiment_by_name("dots")
    return {run.data.params["seed"]: run for run in client.search_runs([experiment.experiment_id])}


def test_each_run_ends_with_its_status(runs):
    assert {seed: run.info.status for seed, run in runs.items()} == {"0": "FINISHED", "1": "FAILED", "2": "KILLED"}
    assert runs["1"].data.tags["error"] == "the loss is nan"


def test_rounds_have_steps(client, runs):
    history = client.get_metric_history(runs["0"].info.run_id, "loss")
    assert [(each.step, each.value) for each in history] == [(2, 0.5), (4, 0.25)]
    assert "val_score" not in runs["0"].data.metrics  # undefined in every round


def test_scores_have_their_intervals(client, runs):
    score, metrics = client.result.scores()["auroc"], runs["0"].data.metrics
    assert [metrics[name] for name in ("auroc", "auroc_low", "auroc_high")] == [score.value, score.low, score.high]
    assert metrics["num_parameters"] == 1234


def test_params_are_those_of_the_run_where_the_protocol_leaves_them_open(runs):
    params = runs["0"].data.params
    assert (params["model"], params["image_size"], params["precision"], params["steps"]) == ("net", "28", "fp32", "4")
    assert runs["0"].data.tags["zoo.folder"].startswith("dots/net.random/")


def test_a_name_that_mlflow_refuses_is_changed():
    assert zoo_mlflow.NOT_IN_NAMES.sub("_", "sensitivity@0.9 (val)/a-b_c") == "sensitivity_0.9 _val_/a-b_c"


def test_two_benches_share_an_experiment_that_both_create(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    observers = [OBSERVER.start() for _ in range(2)]
    for observer in observers:
        observer.bench_started({"results": str(tmp_path)})
    first = observers[0].open_experiment("dots")
    monkeypatch.setattr(observers[1].client, "get_experiment_by_name", Late(observers[0].client))
    assert observers[1].open_experiment("dots") == first


@pytest.mark.parametrize("form", ["{}", "file://{}", "file:{}"])
def test_benches_with_their_own_results_lock_the_folder_that_they_share(tmp_path, form):
    store, folders = form.format(tmp_path / "shared runs"), (tmp_path / "a", tmp_path / "b")
    (lock,) = {zoo_mlflow.lock_of(store, folder) for folder in folders}
    assert lock.parent == tmp_path
    assert len({zoo_mlflow.lock_of("https://host:5000", folder) for folder in folders}) == 2


class Late:
    """Find no experiment in the first call, as if another bench created it after that."""

    def __init__(self, client):
        self.client, self.calls = client, 0

    def __call__(self, name):
        self.calls += 1
        return self.client.get_experiment_by_name(name) if self.calls > 1 else None
