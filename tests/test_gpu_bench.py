"""Benches of all protocols on a GPU, and their failures, through the command line.

ZOO_TEST_DEVICE names the device; the default is cuda, and without a GPU the tests are skipped. With
`ZOO_TEST_DEVICE=cpu` all tests run except those of a captured step.

A command on a GPU starts in eight seconds, mostly for imports and CUDA. The benches that the selected tests need are
therefore started together, and each test reads the output of one of them.
"""

import functools
import json
import os
import re
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from test_external import write as write_folders
from warm import wait_for

DEVICE = os.environ.get("ZOO_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else "")
ON_CPU = DEVICE == "cpu"
pytestmark = pytest.mark.skipif(not DEVICE, reason="torch sees no GPU here; ZOO_TEST_DEVICE=cpu tries these on the CPU")
only_cuda = pytest.mark.skipif(not DEVICE.startswith("cuda"), reason="only CUDA records a step")

SECONDS = 400 if ON_CPU else 90  # for one command
AT_ONCE = 1 if ON_CPU else 8
ATOL = 0 if ON_CPU else 2e-2  # of probabilities: a GPU sums in varying order
SMALL = ["--set", "image_size=32"]
SCRATCH = ["--protocol", "scratch", *SMALL]
STEPS = 40  # of each network of one_bench_of_all_networks
FINETUNING = ("finetune", "medmnist", "quick", "scratch", "tuned", "tutorial")
PROTOCOLS = (*FINETUNING, "knn", "linear-probe")
TRAINABLE = ("ordinary", "drops_out", "drops_paths")
UNRECORDABLE = ("counts", "draws", "hooked", "reads_item")


# --- commands --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class Done:
    """The outcome of a bench: exit status, JSON document, stderr, results folder."""

    status: int
    document: dict
    stderr: str
    results: Path

    def stored(self, model: str, *, tested_on: str = "") -> list["Stored"]:
        """The results of a model without tuning runs, by dataset, fold and seed."""
        actual = [
            Stored(folder=path.parent, facts=json.loads(path.read_text(encoding="utf-8")))
            for path in self.results.glob("*/*/*/result.json")
        ]
        chosen = [
            one
            for one in actual
            if one.run["shown"] == model and one.run["tested_on"] == tested_on and one.run["purpose"] != "tune"
        ]
        return sorted(chosen, key=lambda one: (one.run["dataset"], one.run["fold"], one.run["seed"]))


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A run's folder and its result.json."""

    folder: Path
    facts: dict

    @property
    def run(self) -> dict:
        return self.facts["run"]

    @property
    def details(self) -> dict:
        return self.facts["details"]

    @functools.cached_property
    def predictions(self) -> dict:
        with np.load(self.folder / "predictions.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    @property
    def probabilities(self) -> np.ndarray:
        return self.predictions["test_probabilities"]

    def history(self) -> list[dict]:
        return [json.loads(line) for line in (self.folder / "history.jsonl").read_text().splitlines()]

    def weights(self) -> dict:
        from safetensors.torch import load_file

        return load_file(self.folder / "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Starts `zoo` in separate processes on the tested device."""

    words: list[str]
    environment: dict
    folder: Path
    data: Path

    def start(self, *arguments, **variables) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.words, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**self.environment, **variables},
            cwd=self.folder,
        )

    def run(self, *arguments, **variables) -> tuple[int, str, str]:
        """Exit status, stdout and stderr of a command."""
        process = self.start(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
        return process.returncode, out, err

    def bench(self, results, *arguments, **variables) -> Done:
        status, out, stderr = self.run(*self.bench_words(results, *arguments), **variables)
        assert out, stderr
        return Done(status=status, document=json.loads(out), stderr=stderr, results=self.folder / results)

    def bench_words(self, results, *arguments) -> list:
        return ["bench", *arguments, "--device", DEVICE, "--offline", "--json", "--results", self.folder / results]


# --- the benches -----------------------------------------------------------------------------------------------------
LONG_STEPS = 1_500 if ON_CPU else 4_000  # a few seconds


def bench_long(zoo, *, results="undisturbed"):
    return zoo.bench(results, *long_words(zoo))


def long_words(zoo):
    words = ["-m", "announces", "-d", zoo.data / "binary.npz", *SCRATCH, "--seeds", 1, "--set", f"steps={LONG_STEPS}"]
    return [*words, "--set", "precision=fp32", "--set", "learning_rate=0.0001", "--set", "select_by=last"]


def bench_long_after_sigterm(zoo):
    """End a bench by SIGTERM after the first training round, and start it again."""
    mark = zoo.folder / "mark"
    process = zoo.start(*zoo.bench_words("ended", *long_words(zoo)), ROUND_FILE=str(mark))
    try:
        wait_for(lambda: mark.exists() or process.poll() is not None, seconds=SECONDS)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 143, stderr
    return bench_long(zoo, results="ended")


def bench_elsewhere(zoo):
    """A bench that keeps all weights, and the same bench with an external validation."""
    here = write_folders(zoo.folder / "here", ("clear", "nodule"), 150, 0)
    there = write_folders(zoo.folder / "there", ("clear", "nodule"), 60, 1, splits=())
    words = ["-m", "tiny_cnn", "-d", here, "--protocol", "scratch", "--seeds", 2, "--keep-weights", "all"]
    words += ["--set", "image_size=16", "--set", "steps=60", "--set", "learning_rate=0.01", "--set", "precision=fp32"]
    return zoo.bench("kept", *words), zoo.bench("kept", *words, "--test-on", there), there


def bench_protocol(zoo, *, protocol):
    models = "resnet18" if protocol == "medmnist" else "resnet18,tiny_pretrained"  # its stem is made for ResNets
    words = ["-m", models, "-d", zoo.data / "binary.npz", "--protocol", protocol, *SMALL, "--seeds", 1]
    if protocol in FINETUNING:
        words += ["--set", "steps=8"]
    if protocol != "medmnist":
        words += ["--weights", "auto", "--weights-dir", zoo.folder / "weights"]
    return zoo.bench(protocol, *words)


def bench_folds(zoo):
    words = ["-m", "ordinary", "-d", zoo.data / "patients", *SCRATCH, "--set", "steps=8", "--seeds", 1, "--folds", 3]
    return zoo.bench("folds", *words)


def bench_tasks(zoo):
    datasets = ",".join(str(zoo.data / name) for name in ("table", "multilabel", "ordinal", "regression"))
    return zoo.bench("tasks", "-m", "ordinary", "-d", datasets, *SCRATCH, "--set", "steps=12", "--seeds", 1)


def bench_networks(zoo):
    names = ",".join((*TRAINABLE, *UNRECORDABLE, "hungry", "fails_midway"))
    words = ["-m", names, "-d", zoo.data / "binary.npz", *SCRATCH, "--seeds", 2, "--keep-weights", "all"]
    words += ["--set", f"steps={STEPS}", "--set", "rounds=4", "--set", "select_by=last"]
    return zoo.bench("networks", *words, HOOK_FILE=str(zoo.folder / "hooks"))


def bench_workers(zoo, *, workers):
    words = ["-m", "ordinary", "-d", zoo.data / "binary.npz", *SCRATCH, "--set", "steps=20", "--seeds", 4]
    return zoo.bench(f"{workers}-workers", *words, "--set", "precision=fp32", "--workers", workers)


def bench_fp16(zoo):
    words = ["-m", "ordinary,resnet18", "-d", zoo.data / "binary.npz", *SCRATCH, "--set", "steps=12", "--seeds", 1]
    return zoo.bench("fp16", *words, "--set", "precision=fp16")


def list_protocols(zoo):
    return zoo.run("list", "protocols", "--json")


def ask_doctor(zoo):
    return zoo.run("doctor", "--device", DEVICE)


JOBS = {  # the longest first
    "resumed": bench_long_after_sigterm,
    "networks": bench_networks,
    "undisturbed": bench_long,
    "elsewhere": bench_elsewhere,
    **{name: functools.partial(bench_protocol, protocol=name) for name in PROTOCOLS},
    "tasks": bench_tasks,
    "one worker": functools.partial(bench_workers, workers=1),
    "two workers": functools.partial(bench_workers, workers=2),
    "folds": bench_folds,
    "fp16": bench_fp16,
    "doctor": ask_doctor,
    "protocols": list_protocols,
}


@pytest.fixture(scope="module")
def commands(command, environment, install, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    site = folder / "site"
    site.mkdir()
    install(site, "zoo-gpu-tests", Path(__file__).with_name("gpu_plugin.py").read_text(encoding="utf-8"))
    write_weights(folder / "weights")
    return Commands(words=command, environment=environment(site), folder=folder, data=tiny_data)


def write_weights(folder):
    """Random weights for tiny_pretrained."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    shapes = {"conv.weight": (8, 3, 3, 3), "conv.bias": (8,), "fc.weight": (10, 32), "fc.bias": (10,)}
    folder.mkdir()
    state = {name: torch.randn(shape, generator=random) / 5 for name, shape in shapes.items()}
    save_file(state, folder / "tiny_pretrained.demo.safetensors")


@pytest.fixture(scope="module")
def started(request, commands):
    """Start the jobs that the selected tests of this file need; returns futures."""
    items = [item for item in request.session.items if item.module is request.module and hasattr(item, "callspec")]
    names = {name for item in items for name in item.callspec.params.get("done", ())}
    assert commands.run("list", "models")[0] == 0  # quarantines all plugins and compiles all modules once
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {name: pool.submit(job, commands) for name, job in JOBS.items() if name in names}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def done(request, started):
    """The results of the jobs that a test names by `reads`; a tuple for several jobs."""
    answers = tuple(started[name].result() for name in request.param)
    return answers if len(answers) > 1 else answers[0]


def reads(*names):
    """The jobs whose results a test reads together."""
    return pytest.mark.parametrize("done", [names], ids=["+".join(names)], indirect=True)


def reads_each(*names):
    """The jobs for which a test is repeated."""
    return pytest.mark.parametrize("done", [(name,) for name in names], ids=names, indirect=True)


# --- every protocol --------------------------------------------------------------------------------------------------
def assert_whole(done, *, status=0):
    """Assert that all runs of a bench are ok, with a primary score and finite predictions."""
    assert done.status == status, done.stderr
    assert done.document["refused"] == []
    for run in done.document["runs"]:
        assert run["status"] == "ok", (run["model"], run["error"])
        (stored,) = [one for one in stored_of(done, run) if one.facts["id"] == run["id"]]
        assert isinstance(run["scores"][stored.details["primary_metric"]]["value"], float), run["model"]
        assert np.isfinite(stored.probabilities).all(), run["model"]


def stored_of(done, run):
    return done.stored(run["model"], tested_on=run["tested_on"] or "")


@reads("protocols")
def test_all_protocols_are_tested(done):
    status, out, stderr = done
    assert status == 0, stderr
    assert {item["name"] for item in json.loads(out)["items"]} == {*PROTOCOLS, "baseline"}


@reads_each(*PROTOCOLS)
def test_every_protocol_runs_to_the_end_with_its_baselines(done, request):
    assert_whole(done)
    models = {run["model"] for run in done.document["runs"]}
    assert {"constant", "thumbnails", "resnet18"} <= models
    names = {run["protocol"].partition("@")[0] for run in done.document["runs"] if run["init"] == "pretrained"}
    assert names == set(request.node.callspec.params["done"]) - {"medmnist", "scratch"}  # they take no weights


@reads_each(*FINETUNING)
def test_a_fine_tuned_run_names_its_device_and_how_much_memory_it_took(done):
    for stored in (*done.stored("resnet18"), *done.stored("tiny_pretrained")):
        assert stored.facts["system"]["device"].partition(":")[0] == DEVICE.partition(":")[0]
        assert stored.facts["cost"]["peak_memory_bytes"] > 4 * stored.facts["cost"]["num_parameters"]
        if DEVICE.startswith("cuda"):
            assert stored.facts["system"]["gpu"] == torch.cuda.get_device_name(DEVICE)


@only_cuda
@reads_each(*FINETUNING)
def test_the_step_of_each_fine_tuning_protocol_is_captured(done):
    for stored in (*done.stored("resnet18"), *done.stored("tiny_pretrained")):
        assert stored.details["step"] == "captured", stored.details


@reads("tasks")
def test_every_other_task_is_trained(done):
    assert_whole(done)
    stored = {one.run["dataset"]: one for one in done.stored("ordinary")}
    assert set(stored) == {"table", "multilabel", "ordinal", "regression"}
    assert 20 < stored["regression"].probabilities.mean() < 90  # in years, not in standard deviations


@reads("folds")
def test_each_patient_is_tested_in_one_of_the_folds(done):
    assert_whole(done)
    parts = [stored.predictions["test_patients"] for stored in done.stored("ordinary")]
    assert len(parts) == 3
    assert sorted(name for part in parts for name in np.unique(part)) == [f"p{number:02}" for number in range(20)]


@reads("fp16")
def test_half_precision_gives_numbers(done):
    assert_whole(done)
    for stored in (*done.stored("ordinary"), *done.stored("resnet18")):
        assert stored.run["precision"] == "fp16"
        assert all(np.isfinite(row["loss"]) for row in stored.history())


# --- interruption, kept weights, repetition ------------------------------------------------------------------------
@reads("undisturbed", "resumed")
def test_a_bench_ended_by_sigterm_continues_to_the_same_predictions(done):
    (whole,), (resumed,) = (bench.stored("announces") for bench in done)
    for bench in done:
        assert_whole(bench)
    assert resumed.facts["id"] == whole.facts["id"]
    assert "resumed_at" not in whole.details
    assert 0 < resumed.details["resumed_at"] < LONG_STEPS
    assert [row["step"] for row in resumed.history()] == [row["step"] for row in whole.history()]
    np.testing.assert_allclose(resumed.probabilities, whole.probabilities, rtol=0, atol=ATOL)
    kept = [stored.weights() for stored in (whole, resumed)]
    assert [int(state["norm.num_batches_tracked"]) for state in kept] == [LONG_STEPS] * 2


@reads("elsewhere")
def test_kept_weights_are_validated_externally_without_training(done):
    first, again, _ = done
    assert_whole(first)
    assert_whole(again)
    reused = {(run["model"], bool(run["tested_on"])): run["reused"] for run in again.document["runs"]}
    assert reused["tiny_cnn", False] and not reused["tiny_cnn", True]
    external = again.stored("tiny_cnn", tested_on="there")
    assert [stored.details["weights"] for stored in external] == ["kept", "kept"]
    assert max(stored.details["val_differs"] for stored in external) <= (1e-6 if ON_CPU else 1e-3)


@reads("elsewhere")
def test_external_predictions_on_a_gpu_are_those_of_the_kept_weights(done):
    """Rebuild the network and its input with torch alone, on the CPU."""
    from PIL import Image

    _, again, there = done
    own = {stored.run["seed"]: stored.weights() for stored in again.stored("tiny_cnn")}
    for stored in again.stored("tiny_cnn", tested_on="there"):
        names = [str(name) for name in stored.predictions["test_sample_ids"]]
        images = np.stack([np.asarray(Image.open(there / name)) for name in names])
        expected = predict_tiny(own[stored.run["seed"]], images)
        np.testing.assert_allclose(stored.probabilities, expected, rtol=0, atol=1e-5 if ON_CPU else 5e-3)
        assert np.ptp(expected[:, 1]) > 0.2
        positive = [name.startswith("nodule") for name in names]
        scores = json.loads((stored.folder / "scores.json").read_text())["scores"]
        assert scores["auroc"]["value"] == pytest.approx(roc_auc_score(positive, stored.probabilities[:, 1]))


def predict_tiny(state, images):
    mean, std = np.mean([0.485, 0.456, 0.406]), np.mean([0.229, 0.224, 0.225])
    tensor = torch.from_numpy((images / 255 - mean) / std).float()[:, None]
    hidden = torch.relu(torch.conv2d(tensor, state["conv.weight"], state["conv.bias"], stride=2, padding=1))
    pooled = torch.nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1)
    return torch.softmax(pooled @ state["fc.weight"].T + state["fc.bias"], dim=1).numpy()


@reads("one worker", "two workers")
def test_two_workers_on_one_device_give_the_results_of_one(done):
    for bench in done:
        assert_whole(bench)
    alone, together = (bench.stored("ordinary") for bench in done)
    assert [stored.facts["id"] for stored in together] == [stored.facts["id"] for stored in alone]
    assert len(alone) == 4
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.probabilities, one.probabilities, rtol=0, atol=ATOL)
    differences = [np.abs(one.probabilities - alone[0].probabilities).max() for one in alone[1:]]
    assert min(differences) > 2 * ATOL  # between seeds; otherwise the comparison above could not fail


# --- networks of every kind ------------------------------------------------------------------------------------------
@reads("networks")
def test_a_network_that_fails_midway_is_one_line_and_the_others_finish(done):
    assert done.status == 3, done.stderr
    status = {run["model"]: run["status"] for run in done.document["runs"]}
    assert status.pop("fails_midway") == "failed"
    assert set(status.values()) == {"ok"}
    assert {*TRAINABLE, *UNRECORDABLE, "hungry", "constant", "thumbnails"} == set(status)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "the fifth step is too hard" in line]
    assert [re.search(r"fails_midway seed (\d)", line)[1] for line in sorted(lines)] == ["0", "1"]
    codes = [run["error"]["code"] for run in done.document["runs"] if run["model"] == "fails_midway"]
    assert codes == ["run-error"] * 2


@reads("networks")
def test_running_out_of_memory_splits_the_batch(done):
    for stored in done.stored("hungry"):
        assert {"kind": "batch-parts", "detail": [32, 8]} in stored.facts["deviations"]
        assert np.isfinite(stored.probabilities).all()


@reads("networks")
def test_training_calls_the_network_once_per_step(done):
    """BatchNorm counts its batches; steps of the warm-up before the first one must not count."""
    for model in ("ordinary", "drops_out", *UNRECORDABLE):
        for stored in done.stored(model):
            assert int(stored.weights()["norm.num_batches_tracked"]) == STEPS, model


@reads("networks")
def test_the_loss_falls_with_dropout_and_stochastic_depth(done):
    for model in TRAINABLE:
        for stored in done.stored(model):
            losses = [row["loss"] for row in stored.history()]
            assert losses[-1] < losses[0], (model, losses)


@reads("networks")
def test_two_seeds_train_two_networks(done):
    for model in TRAINABLE:
        one, other = done.stored(model)
        assert np.abs(one.probabilities - other.probabilities).max() > 1e-3, model


@reads("networks")
def test_dropout_differs_in_each_step(done):
    kept = [stored.weights()["middle.kept"].numpy() for stored in done.stored("drops_out")]
    for counts in kept:  # binomial: STEPS draws of probability .5, for 64 numbers
        assert counts.min() > 0 and counts.max() < STEPS
        assert abs(counts.mean() - STEPS / 2) < 5 * np.sqrt(STEPS / 4 / 64)
    assert not np.array_equal(*kept)


@reads("networks")
def test_a_forward_hook_is_called_in_each_step(done):
    calls = (done.results.parent / "hooks").read_text().split()
    assert len(calls) >= 2 * STEPS  # of two seeds
    assert set(calls) == {"32"}


@only_cuda
@reads("networks")
@pytest.mark.parametrize("model", TRAINABLE)
def test_the_step_of_an_ordinary_network_is_captured(done, model):
    for stored in done.stored(model):
        assert stored.details["step"] == "captured", stored.details


@only_cuda
@reads("networks")
@pytest.mark.parametrize("model", UNRECORDABLE)
def test_a_network_that_cannot_be_captured_on_a_bench_trains_eagerly(done, model):
    for stored in done.stored(model):
        assert stored.details["step"] == "eager"
        assert stored.details["eager_reason"].strip()


# --- the doctor ------------------------------------------------------------------------------------------------------
@reads("doctor")
def test_the_doctor_checks_the_device(done):
    status, out, stderr = done
    assert status == 0, stderr
    if DEVICE.startswith("cuda"):
        assert "captured" in out and "eager" in out
