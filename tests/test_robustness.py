"""Corruptions by severity, and `zoo robustness`: the scores of a trained model under them."""

import csv
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage

from zoo import TransformSpec
from zoo.conformance.checking import CheckedSpec
from zoo.conformance.choice_claims import TRANSFORM_CHECKS
from zoo.errors import ResultsError, UsageError
from zoo.explaining.robustness import Robustness, draw_by_name, find_corruptions
from zoo.explaining.test_inputs import LabeledImages, corrupt, corrupt_volume
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_registry
from zoo.report.robustness import robustness_lines
from zoo.results.store import load_results
from zoo.specs.choice import Choice
from zoo.specs.hooks import hookimpl
from zoo.trained.volume_inputs import ReadVolume
from zoo.training import transforms
from zoo.training.transforms import GAUSSIAN_BLUR, GAUSSIAN_NOISE, LOW_CONTRAST, TRANSFORMS

CORRUPTIONS = [spec for spec in TRANSFORMS if spec.severities]
IMAGES = torch.rand((4, 3, 24, 20), generator=torch.Generator().manual_seed(0))
ALWAYS = torch.zeros(4, 2)


# --- the corruptions of the core -------------------------------------------------------------------------------------
@pytest.mark.parametrize("spec", CORRUPTIONS, ids=lambda spec: spec.name)
def test_each_severity_changes_an_image_more_than_the_one_before(spec):
    draws, images = torch.full((2, spec.num_draws), 0.5), torch.rand((2, 1, 64, 64))
    distances = [
        float((spec.augment(images, draws, **{**spec.options, **options}) - images).abs().mean())
        for options in spec.severities
    ]
    assert len(distances) == 5 and distances[0] > 0 and distances == sorted(distances)


@pytest.mark.parametrize("spec", CORRUPTIONS, ids=lambda spec: spec.name)
def test_they_conform_as_transforms(spec):
    for check in TRANSFORM_CHECKS:
        check.run(CheckedSpec(spec=spec))


def names_of(corruptions):
    return list(dict.fromkeys(case.corruption for case in corruptions.cases))


def test_a_corruption_of_volumes_alone_is_none_of_images():
    volumes = replace(GAUSSIAN_BLUR, name="blur3d", dims=(3,))
    plugin = SimpleNamespace(register_transforms=hookimpl(lambda: [GAUSSIAN_BLUR, volumes]))
    registry = load_registry([InstalledPlugin(name="zoo-blur", load=lambda: plugin)])
    found = find_corruptions((), registry, 2)
    assert names_of(found) == ["none", "blur"] and found.left_out == ("blur3d",)
    assert names_of(find_corruptions((), registry, 3)) == ["none", "blur", "blur3d"]
    with pytest.raises(UsageError, match="'blur3d' has no severities for images") as caught:
        find_corruptions(("blur3d",), registry, 2)
    assert caught.value.fix == "choose from blur"


def test_noise_is_normal_and_that_of_its_draw():
    images = torch.zeros(3, 1, 64, 64)
    draws = torch.tensor([[0, 0.3], [0, 0.3], [0, 0.7]])
    noise = GAUSSIAN_NOISE.augment(images, draws, share=1, deviation=0.5)
    assert noise[0].equal(noise[1]) and abs(float(np.corrcoef(noise[0].flatten(), noise[2].flatten())[0, 1])) < 0.05
    values = noise[2].flatten().numpy() / 0.5
    assert abs(values.mean()) < 4 / 64 and values.std() == pytest.approx(1, abs=0.04)
    assert np.mean(np.abs(values) < 1) == pytest.approx(math.erf(0.5**0.5), abs=0.03)
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.06


def test_the_blur_is_that_of_scipy():
    deviation = 1.5
    blurred = GAUSSIAN_BLUR.augment(IMAGES, ALWAYS[:, :1], share=1, deviation=deviation / 24)
    expected = ndimage.gaussian_filter(IMAGES.numpy(), (0, 0, deviation, deviation), mode="mirror", radius=(0, 0, 5, 5))
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_contrast_keeps_the_mean_of_each_image():
    changed = LOW_CONTRAST.augment(IMAGES, ALWAYS[:, :1], share=1, factor=0.25)
    torch.testing.assert_close(changed.mean((1, 2, 3)), IMAGES.mean((1, 2, 3)))
    torch.testing.assert_close(changed.std((1, 2, 3)), IMAGES.std((1, 2, 3)) / 4)


def test_corruptions_of_volumes_are_those_of_images_along_three_axes():
    volumes = torch.rand((2, 1, 12, 10, 14), generator=torch.Generator().manual_seed(0))
    blurred = GAUSSIAN_BLUR.augment(volumes, ALWAYS[:2, :1], share=1, deviation=1 / 14)
    expected = ndimage.gaussian_filter(volumes.numpy(), (0, 0, 1, 1, 1), mode="mirror", radius=(0, 0, 3, 3, 3))
    np.testing.assert_allclose(blurred, expected, atol=1e-5)
    changed = LOW_CONTRAST.augment(volumes, ALWAYS[:2, :1], share=1, factor=0.25)
    torch.testing.assert_close(changed.mean((1, 2, 3, 4)), volumes.mean((1, 2, 3, 4)))


def test_noise_does_not_depend_on_how_many_values_are_drawn_at_once(monkeypatch):
    whole = GAUSSIAN_NOISE.augment(IMAGES, ALWAYS, share=1, deviation=0.5)
    monkeypatch.setattr(transforms, "NOISE_AT_ONCE", 100)
    assert GAUSSIAN_NOISE.augment(IMAGES, ALWAYS, share=1, deviation=0.5).equal(whole)


def read_volume(values):
    return ReadVolume(values=values, spacing=None, differs=())


def test_volumes_are_corrupted_between_the_ends_of_their_window_or_of_each_channel():
    values = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8, 2)).astype(np.int16)
    values[..., 1] = 5
    half = Choice(spec=replace(LOW_CONTRAST, augment=lambda images, _, **__: images.clamp(max=0.5)), options={})
    draws = np.zeros((1, 1), np.float32)
    own = corrupt_volume(read_volume(values), draws, half, None).values
    middle = (values[..., 0].min().astype(float) + values[..., 0].max()) / 2
    np.testing.assert_array_equal(own[..., 0], np.minimum(values[..., 0], np.rint(middle)))
    np.testing.assert_array_equal(own[..., 1], 5)
    (first,) = np.moveaxis(values[..., :1], -1, 0)
    np.testing.assert_array_equal(
        corrupt_volume(read_volume(first), draws, half, (-160, 240)).values, np.minimum(first, 40)
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int16])
def test_the_largest_value_of_a_file_stays_its_largest(kind):
    brighter = Choice(spec=replace(LOW_CONTRAST, augment=lambda images, _, **__: images + 1), options={})
    values = np.full((2, 2, 2), np.iinfo(kind).max, kind)
    changed = corrupt_volume(read_volume(values), np.zeros((1, 1), np.float32), brighter, None).values
    np.testing.assert_array_equal(changed, values)


def test_an_output_that_is_not_finite_names_its_image():
    ids, model = np.array(["a", "b"]), SimpleNamespace(card=SimpleNamespace(name="m"))
    inputs = LabeledImages(model=model, test=SimpleNamespace(sample_ids=ids), squares=np.zeros((2, 4, 4, 1)))
    with pytest.raises(ResultsError, match="for b is not finite"):
        inputs.answer_logits(np.array([[0.0], [np.nan]]))


def test_what_does_not_take_volumes_is_named():
    robustness = Robustness(
        model="a/b",
        metric="dice",
        inputs="volumes",
        num_inputs=3,
        num_patients=3,
        has_patients=False,
        left_out=("speckle",),
        rows=(),
    )
    assert robustness_lines(robustness)[-1] == "left out: speckle does not take volumes"


def test_severities_are_options_of_an_augmentation():
    for fields in ({"prepare": len}, {"augment": len, "options": {"factor": 1.0}}):
        with pytest.raises(TypeError):
            TransformSpec(name="x", severities=({"side": 1.0},), **fields)


def test_corrupted_images_have_the_levels_of_a_file():
    squares = np.random.default_rng(0).integers(0, 4096, (3, 8, 8, 1)).astype(np.uint16)
    draws = draw_by_name("contrast", np.array(["a", "b", "a"]), 1)
    assert (draws[0] == draws[2]).all() and (draws[0] != draws[1]).all() and draws.dtype == np.float32
    nothing, gray, over = (
        corrupt(squares, draws, Choice(spec=LOW_CONTRAST, options={"share": 1.0, "factor": factor}), (100.0, 3000.0))
        for factor in (1.0, 0.0, 1000.0)
    )
    assert nothing.dtype == np.uint16 and np.array_equal(nothing, squares)
    np.testing.assert_array_equal(gray[:, 0, 0, 0], squares.mean((1, 2, 3)).round())
    assert over.min() == 0 and over.max() == np.iinfo(np.uint16).max


# --- the command -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def trained(zoo, tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    budget = ("--set", "steps=6", "--set", "rounds=1", "--seeds", "1")
    common = ("--models", "tiny_cnn", "--weights", "none", "--protocol", "quick", "--results", folder)
    done = zoo("bench", *common, "--datasets", tiny_data / "folders", *budget)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.integration
@pytest.mark.parametrize("metric, worse", [("auroc", -1), pytest.param("brier", 1, marks=pytest.mark.slow)])
def test_the_scores_of_each_severity_beside_that_of_the_run(zoo, trained, tiny_data, tmp_path, metric, worse):
    words = ("--results", trained, "--data", tiny_data / "folders", "-o", tmp_path / "table.csv", "--metric", metric)
    done = zoo("robustness", "folders/tiny_cnn", "--corruptions", "contrast,blur", *words)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "table.csv", encoding="utf-8", newline="") as stream:
        first, *rows = list(csv.DictReader(stream))
    assert [(row["corruption"], row["severity"]) for row in (first, *rows)] == [
        ("none", "0"),
        *((corruption, str(severity)) for corruption in ("contrast", "blur") for severity in range(1, 6)),
    ]
    (own,) = [result for result in load_results(trained)[0] if result.run["model"].endswith("tiny_cnn")]
    assert first["metric"] == metric
    assert float(first["score"]) == pytest.approx(own.scores()[metric].value, abs=1e-6)
    for row in rows:
        assert float(row["drop"]) == pytest.approx(worse * (float(row["score"]) - float(first["score"])), abs=1e-9)
        assert float(row["drop_low"]) <= float(row["drop"]) <= float(row["drop_high"])
    assert "above 0 is worse" in done.stdout and len(done.stdout.splitlines()) < 20


@pytest.mark.integration
def test_a_transform_without_severities_and_a_model_of_other_data_are_one_line(zoo, trained, tiny_data):
    for words, code in (
        (("--corruptions", "cutout"), "unknown-transform"),
        (("--data", tiny_data / "table"), "no-dataset"),
        (("--metric", "dice"), "usage"),
    ):
        done = zoo("robustness", "folders/tiny_cnn", "--results", trained, *words)
        assert done.returncode == 2 and f"error[{code}]" in done.stderr.splitlines()[-1], done.stderr


def test_a_corruption_of_large_integers_does_not_overflow():
    brighter = Choice(spec=TransformSpec(name="brighter", augment=lambda images, draws: images + 1), plugin="own")
    stored = np.full((1, 2, 2, 1), 2**31 - 1, np.int32)
    changed = corrupt(stored, np.zeros((1, 0), np.float32), brighter, (0.0, 1000.0))
    np.testing.assert_array_equal(changed, stored)
