"""The stages of a bench and of a run, with real worker processes, on datasets and networks that take a second."""

import io
import multiprocessing
import pickle
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from PIL import Image

from zoo.errors import ResultsError
from zoo.registry.context import Context
from zoo.registry.opening import open_registry
from zoo.results.store import load_result, load_results
from zoo.runner import decoding
from zoo.runner.assignments import assign_runs, longest_first
from zoo.runner.bench import bench as run_bench
from zoo.runner.bench import keep_best_weights
from zoo.runner.execution import conclude_all
from zoo.runner.planning import plan_bench
from zoo.runner.run import claim_and_execute, execute_run
from zoo.specs.model import BuildRequest
from zoo.specs.suite import Suite
from zoo.system.machine import can_fork
from zoo.system.progress import Console
from zoo.system.settings import Settings
from zoo.system.workers import Event, execute

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def registry(tiny_site):
    """All installed plugins and zoo-tiny, which a spawned worker finds on the same path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tiny_site))
        yield open_registry()


SUITE = Suite(
    name="flags", models=("tiny_cnn",), protocol="scratch", settings=(("image_size", "16"), ("steps", "4")), seeds=(0,)
)


@pytest.fixture
def bench(registry, tiny_data, tmp_path):
    """Run a bench in this process; the output goes to `bench.output`."""

    def run(*datasets, results=tmp_path / "results", settings=None, **changes):
        suite = replace(SUITE, datasets=tuple(str(tiny_data / name) for name in datasets or ("binary.npz",)), **changes)
        run.output = io.StringIO()
        chosen = Settings(results=results, device="cpu", offline=True, **(settings or {}))
        return run_bench(suite, Context(registry=registry, settings=chosen, console=Console(stream=run.output)))

    return run


@pytest.fixture
def assignments(registry, tiny_data, tmp_path):
    """The assignments of three runs: a network and the two baselines."""
    suite = replace(SUITE, datasets=(str(tiny_data / "binary.npz"),))
    settings = Settings(results=tmp_path / "assigned", device="cpu")
    context = Context(registry=registry, settings=settings, console=Console(stream=io.StringIO()))
    plan = plan_bench(suite, context)
    return assign_runs(plan.runs, plan, context)[0]


@pytest.mark.parametrize("protocol", ["linear-probe", "knn"])
def test_a_head_on_given_weights_predicts_the_same_bits_for_every_seed(registry, tiny_data, tmp_path, protocol):
    import torch
    from safetensors.torch import save_file

    random, spec = torch.Generator().manual_seed(0), registry.models["tiny_pretrained"]
    module = spec.build(BuildRequest(num_outputs=10, channels=3, image_size=16))
    state = {name: torch.randn(part.shape, generator=random) for name, part in module.state_dict().items()}
    save_file(state, tmp_path / "tiny_pretrained.demo.safetensors")
    suite = replace(
        SUITE,
        models=("tiny_pretrained",),
        datasets=(str(tiny_data / "binary.npz"),),
        protocol=protocol,
        settings=(("image_size", "16"),),
    )
    predictions = []
    for seed in (0, 1):  # each with a cache of its own, so that the second cannot reuse the features of the first
        settings = Settings(
            results=tmp_path / "r", cache=tmp_path / f"cache{seed}", weights_dir=tmp_path, device="cpu", offline=True
        )
        context = Context(registry=registry, settings=settings, console=Console(stream=io.StringIO()))
        plan = plan_bench(suite, context)
        run = replace(next(run for run in plan.runs if run.shown == "tiny_pretrained"), seed=seed)
        (assignment,) = assign_runs([run], plan, context)[0]
        execute_run(assignment, "cpu", lambda _: None, registry=registry)
        predictions.append(load_result(settings.results / run.folder).predictions())
    for split in ("val", "test"):
        one, other = (part[split] for part in predictions)
        assert one.probabilities.tobytes() == other.probabilities.tobytes()
        assert len(np.unique(one.probabilities)) > 2


def weights_below(root):
    return sorted(path.parent.name.split(".")[1] for path in root.rglob("model.safetensors"))


def test_a_second_bench_executes_no_run(bench):
    first = bench()
    assert {result.status for result in first.results.values()} == {"ok"}
    assert set(first.results) == {run.id for run in first.runs} and not first.reused
    second = bench()
    assert second.reused == set(first.results)
    assert {i: r.created for i, r in second.results.items()} == {i: r.created for i, r in first.results.items()}


def test_the_predictions_of_a_run_are_those_of_its_kept_weights(bench, registry, tiny_data):
    """Rebuild the network and its input with torch alone."""
    import torch
    from safetensors.torch import load_file

    outcome = bench(settings={"keep_weights": "all"})
    result = next(r for r in outcome.results.values() if r.run["shown"] == "tiny_cnn")
    state = load_file(result.folder / "model.safetensors")
    images = np.load(tiny_data / "binary.npz")["test_images"]
    mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    tensor = torch.from_numpy((images / 255 - mean) / std).float()[:, None]
    features = torch.relu(torch.conv2d(tensor, state["conv.weight"], state["conv.bias"], stride=2, padding=1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(features, 2).flatten(1)
    expected = torch.softmax(pooled @ state["fc.weight"].T + state["fc.bias"], dim=1).numpy()
    tolerance = 1e-5 if result.run["precision"] == "fp32" else 0.02
    np.testing.assert_allclose(result.predictions()["test"].probabilities, expected, atol=tolerance)


def test_assignments_can_be_pickled(assignments):
    again = pickle.loads(pickle.dumps(assignments))
    assert [a.run.id for a in again] == [a.run.id for a in assignments]
    assert pickle.loads(pickle.dumps(partial(claim_and_execute, registry=None))).func is claim_and_execute


@pytest.mark.skipif(not can_fork(), reason="without fork, all other tests spawn")
def test_a_spawned_worker_gives_the_results_of_a_forked_one(bench, assignments):
    chosen = [assignment for assignment in assignments if assignment.run.shown == "tiny_cnn"]
    carry_out = partial(claim_and_execute, registry=None)
    events = list(execute(chosen, carry_out, devices=["cpu"], reuse=False, start_method="spawn"))
    assert (events[-1].status, events[-1].message) == ("ok", "")
    (spawned,) = conclude_all(events[-1], Settings(results=chosen[0].results))
    forked = bench().results[spawned.id]
    for split in ("val", "test"):
        one, other = spawned.predictions()[split], forked.predictions()[split]
        np.testing.assert_array_equal(one.probabilities, other.probabilities)
    assert spawned.scores() == forked.scores()


def test_longest_runs_come_first(assignments):
    ordered = longest_first(assignments[::-1])
    assert ordered[0].run.shown == "tiny_cnn"


@pytest.mark.skipif(not can_fork(), reason="what decodes beside is forked")
def test_runs_start_while_the_images_of_another_dataset_are_decoded(registry, tiny_data, tmp_path, monkeypatch):
    """As with a GPU, whose host has idle cores."""
    monkeypatch.setattr("zoo.runner.execution.trains_beside", lambda device: True)
    decode = decoding.cache_decoded

    def decode_slowly(*arguments):
        time.sleep(4)
        return decode(*arguments)

    monkeypatch.setattr(decoding, "cache_decoded", decode_slowly)
    sets = tuple(str(tiny_data / name) for name in ("binary.npz", "folders"))
    settings = Settings(results=tmp_path / "results", cache=tmp_path / "cache", device="cpu", offline=True)
    context = Context(registry=registry, settings=settings, console=Console(stream=io.StringIO()))
    outcome = run_bench(replace(SUITE, datasets=sets), context)
    assert {result.status for result in outcome.results.values()} == {"ok"}
    assert {result.run["dataset"] for result in outcome.results.values()} == {"binary", "folders"}
    trained = min((result.folder / "result.json").stat().st_mtime for result in outcome.results.values())
    decoded = max(path.stat().st_mtime for path in (tmp_path / "cache").rglob("images.npy"))
    assert trained < decoded


# --- scores and units ------------------------------------------------------------------------------------------------
# --- tuning ----------------------------------------------------------------------------------------------------------
def test_tuning_runs_score_val_and_never_predict_test(bench):
    outcome = bench(settings={"keep_weights": "none"}, protocol="tuned")
    stored, _ = load_results(next(iter(outcome.results.values())).folder.parents[2])
    trials = [result for result in stored if result.run["purpose"] == "tune"]
    assert sorted(trial.run["protocol"]["learning_rate"] for trial in trials) == [1e-4, 3e-4, 9e-4]
    assert {tuple(trial.predictions()) for trial in trials} == {("val",)}
    assert not any(trial.scores() for trial in trials)
    best = max(trials, key=lambda trial: trial.details["val_score"])
    (scored,) = [r for r in outcome.results.values() if r.run["shown"] == "tiny_cnn"]
    assert scored.details["val_score"] is not None
    assert scored.run["protocol"]["learning_rate"] == best.run["protocol"]["learning_rate"]
    assert scored.run["tuned"].startswith(f"tuned learning_rate: {best.run['protocol']['learning_rate']:g} of 0.0001, ")
    assert scored.run["seed"] not in {trial.run["seed"] for trial in trials}
    again = bench(settings={"keep_weights": "none"}, protocol="tuned")
    assert again.reused == set(outcome.results)


def test_a_model_whose_tuning_runs_all_fail_is_reported(bench):
    outcome = bench(models=("raises",), protocol="tuned")
    (left_out,) = [run for run in outcome.runs if run.shown == "raises"]
    assert left_out.id not in outcome.results
    assert "raises on binary: all tuning runs failed" in bench.output.getvalue()


# --- weights ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("keep", "kept"), [("best", 1), ("all", 2), ("none", 0)])
def test_keep_weights_keeps_the_requested_weights(bench, tmp_path, keep, kept):
    bench(settings={"keep_weights": keep}, seeds=(0, 1))
    assert len(weights_below(tmp_path)) == kept


def test_keep_weights_best_keeps_the_run_with_the_best_val_score(bench, tmp_path):
    outcome = bench(seeds=(0, 1, 2))
    scores = {r.run["seed"]: r.details["val_score"] for r in outcome.results.values() if r.run["shown"] == "tiny_cnn"}
    assert weights_below(tmp_path) == [f"seed{max(scores, key=lambda seed: scores[seed])}"]


def test_a_finished_run_without_weights_is_repeated_for_keep_weights_all(bench, tmp_path):
    bench(settings={"keep_weights": "none"})
    assert len(bench(settings={"keep_weights": "none"}).reused) == 3
    outcome = bench(settings={"keep_weights": "all"})
    assert {run.shown for run in outcome.runs if run.id not in outcome.reused} == {"tiny_cnn"}
    assert weights_below(tmp_path) == ["seed0"]


def test_weights_that_were_all_kept_stay_when_more_seeds_are_run(bench, tmp_path):
    bench(settings={"keep_weights": "all"}, seeds=(0, 1))
    bench(settings={"keep_weights": "best"}, seeds=(0, 1, 2))
    assert {"seed0", "seed1"} <= set(weights_below(tmp_path))


def test_an_interrupted_bench_keeps_no_additional_weights(bench, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.runner.bench.keep_best_weights", lambda results: None)  # interrupted before it
        bench(seeds=(0, 1))
    assert len(weights_below(tmp_path)) == 2
    bench(seeds=(0, 1, 2))
    assert len(weights_below(tmp_path)) == 1


@pytest.mark.parametrize("backwards", [False, True])
def test_with_equal_val_scores_the_first_seed_keeps_its_weights(bench, tmp_path, backwards):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zoo.runner.bench.keep_best_weights", lambda results: None)
        results = bench(seeds=(0, 1, 2)).results.values()
    ended = [replace(r, details={**r.details, "val_score": 0.5}) for r in results]
    keep_best_weights(sorted(ended, key=lambda r: r.run["seed"], reverse=backwards))
    assert weights_below(tmp_path) == ["seed0"]


# --- failures --------------------------------------------------------------------------------------------------------
def test_a_dataset_with_an_unreadable_image_is_refused_and_the_others_run(bench, tmp_path):
    folder = tmp_path / "spoilt"
    for split, count in (("train", 40), ("val", 60), ("test", 20)):
        for number in range(count):
            place = folder / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([count, number]).integers(0, 255, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    victim = folder / "train" / "a" / "8.png"
    victim.write_bytes(victim.read_bytes()[:100])
    outcome = bench("binary.npz", str(folder), settings={"keep_weights": "none"})
    statuses = {(r.run["dataset"], r.status) for r in outcome.results.values()}
    assert statuses == {("binary", "ok")}
    assert list(outcome.refused) == ["spoilt"]
    assert "8.png" in outcome.refused["spoilt"]["message"]
    assert "spoilt: refused: " in bench.output.getvalue()


def test_a_failed_run_is_recorded_and_tried_again(bench):
    failed = bench(models=("raises",))
    (result,) = [r for r in failed.results.values() if r.run["shown"] == "raises"]
    assert (result.status, result.error["code"]) == ("failed", "run-error")
    assert result.error["message"].startswith("ValueError: no such layer (zoo_tiny.py:")
    assert len(bench(models=("raises",)).reused) == 2  # the baselines


def test_a_failure_does_not_replace_a_finished_result(bench, assignments):
    outcome = bench(results=assignments[0].results)
    run = assignments[0].run
    event = Event(work=assignments[0], kind="ended", status="crashed", code="crashed", message="killed by SIGSEGV")
    (failed,) = conclude_all(event, Settings(results=assignments[0].results))
    assert failed.status == "crashed"
    stored = {result.id: result for result in load_results(assignments[0].results)[0]}
    assert stored[run.id].ok and stored[run.id].created == outcome.results[run.id].created


def test_an_event_keeps_the_message_and_the_fix_of_an_error_apart(assignments):
    settings = Settings(results=assignments[0].results)
    event = Event(work=assignments[0], kind="ended", status="failed", code="x", message="a; fix: b", fix="c")
    (failed,) = conclude_all(event, settings)
    assert failed.error == {"code": "x", "message": "a; fix: b", "fix": "c"}
    with pytest.raises(ResultsError) as caught:
        conclude_all(replace(event, code="results-unusable"), settings)
    assert (caught.value.message, caught.value.fix) == ("a; fix: b", "c")


def test_no_worker_outlives_an_error_in_the_parent(registry, tiny_data, tmp_path):
    class Broken(io.StringIO):
        def write(self, text):
            if "[1 of 3]" in text:  # a baseline is done, and the network is training
                raise ZeroDivisionError
            return super().write(text)

    settings = (("image_size", "16"), ("steps", "600"))
    suite = replace(SUITE, models=("naps",), datasets=(str(tiny_data / "binary.npz"),), settings=settings)
    chosen = Settings(results=tmp_path, device="cpu", workers=2)
    context = Context(registry=registry, settings=chosen, console=Console(stream=Broken()))
    with pytest.raises(ZeroDivisionError):
        run_bench(suite, context)
    assert not multiprocessing.active_children()
