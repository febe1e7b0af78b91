"""Named choices of protocols: losses, samplings, mixup and transforms, by reference values and in a run's identity."""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from factories import make_dataset_spec, make_samples
from test_training import SHORT, make, train
from torch.nn import functional

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION, SEGMENTATION, LossRequest
from zoo.conformance.catalogue import checks_of
from zoo.conformance.checking import CheckedSpec, Inapplicable
from zoo.data.decoded import cache_images
from zoo.data.opening import open_dataset
from zoo.errors import PluginError, UsageError
from zoo.images.contrast import equalize_locally
from zoo.images.resizing import fit_square
from zoo.registry.choices import find_choice, find_choices, plugins_of, reopen_choice
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_registry
from zoo.results.runs import Run, read_run
from zoo.runner.choices import check_choices, identify_choices
from zoo.runner.planning import apply_settings
from zoo.specs.choice import Choice, parse_choice, split_choices
from zoo.specs.protocol import PROTOCOLS, QUICK, override
from zoo.specs.suite import Suite
from zoo.specs.transform import TransformSpec, prepare_pixels
from zoo.trained.inputs import NewImage, read_new_image
from zoo.trained.seen import describe_images
from zoo.training.batches import Batches
from zoo.training.fitting import USES
from zoo.training.losses import FOCAL, TASK_LOSS, loss_of_mixed
from zoo.training.samplings import draw_balanced
from zoo.training.transforms import CLAHE, CUTOUT, cut_out

PAGE = Path(__file__).parents[1] / "docs" / "write-a-plugin.md"


@cache
def core():
    from zoo import builtin

    return load_registry([InstalledPlugin(name="zoo-bench", module="zoo.builtin", load=lambda: builtin)])


def choices_of(**settings):
    return find_choices(override(QUICK, settings), core())


# --- the identity of a run -------------------------------------------------------------------------------------------
# The first digits of ids before protocols had choices: results on disks have them.
IDS = {
    "finetune": "acfe241ce897a06c",
    "tuned": "3ba1a67dbe000887",
    "quick": "25e20a2d8a579896",
    "scratch": "7f1ff3d1a27c1122",
    "linear-probe": "62d5187f28c1e6d7",
    "knn": "7afe80ebb7fe304c",
    "tutorial": "a06595cd90235236",
    "medmnist": "1ee650edcca7a425",
    "segment": "e3cbc8d6a97da430",
    "segment-scratch": "d7a59c12ca89551c",
    "segment3d": "ba1c946109d9c48b",
    "segment3d-quick": "acbff7037feffcda",
    "segment-patches": "5fad79190d5a7672",
    "baseline": "1af1d073e15a3719",
}


def make_run(protocol, **fields):
    facts = {"dataset": "d", "content_hash": "c", "split_hash": "s", "fold": 0, "num_folds": 1, "network": "n"}
    model = {"model": "zoo-x:m", "shown": "m", "init": "random", "weights_tag": "", "weights_digest": ""}
    machine = {"image_size": 64, "precision": "fp32", "device_kind": "cpu", "threads": 1, "primary_metric": "auroc"}
    return Run(protocol=protocol, seed=0, **facts, **model, **machine, **fields)


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS if each.name in IDS], ids=lambda each: each.name)
def test_ids_of_runs_without_choices_are_those_of_before(protocol):
    assert make_run(protocol).id.startswith(IDS[protocol.name])


@pytest.mark.parametrize(
    "setting",
    ["loss=focal", "class_weights=inverse", "label_smoothing=.1", "sampling=balanced", "mixup=.2", "transforms=clahe"],
)
def test_every_choice_changes_the_id(setting):
    protocol = override(QUICK, dict([setting.split("=")]))
    assert make_run(protocol).id != make_run(QUICK).id


def test_the_version_of_a_choice_is_part_of_the_id():
    protocol = override(QUICK, {"loss": "focal"})
    newer = {"loss": [Choice(spec=replace(FOCAL, version=2), options=FOCAL.options)]}
    one, other = (identify_choices(each) for each in (choices_of(loss="focal"), newer))
    assert one == ("loss=zoo-bench:focal@1(gamma=2)",)
    assert make_run(protocol, choices=one).id != make_run(protocol, choices=other).id


def test_a_run_with_choices_can_be_read_again():
    run = make_run(override(QUICK, {"transforms": "clahe(clip=3),cutout"}), choices=("transforms=x", "transforms=y"))
    assert read_run(run.describe()).id == run.id


# --- names -----------------------------------------------------------------------------------------------------------
def test_commas_in_parentheses_separate_options():
    assert split_choices("clahe(clip=2,tiles=4),cutout") == ("clahe(clip=2,tiles=4)", "cutout")
    assert parse_choice("clahe(clip=2, tiles=4)") == ("clahe", {"clip": 2.0, "tiles": 4.0})
    assert override(QUICK, {"transforms": "clahe(clip=2,tiles=4),cutout"}).transforms == (
        "clahe(clip=2,tiles=4)",
        "cutout",
    )
    assert override(override(QUICK, {"transforms": "clahe"}), {"transforms": "none"}).transforms == ()


@pytest.mark.parametrize(
    ("settings", "one"),
    [
        ({"loss": "focal(gamma=2)"}, "focal"),
        ({"loss": " focal( gamma=3.0 )"}, "focal(gamma=3)"),
        ({"loss": "zoo-bench:focal"}, "focal"),
        ({"loss": "zoo-bench:task"}, "task"),
        ({"transforms": "zoo-bench:clahe(clip=3),cutout"}, "clahe(clip=3),cutout"),
        ({"transforms": "clahe(tiles=8,clip=2),cutout"}, "clahe,cutout"),
        ({"transforms": "clahe(tiles=4,clip=3)"}, "clahe(clip=3,tiles=4)"),
        ({"transforms": "none"}, "none"),
        ({"loss": "task"}, "task"),
        ({"epochs": "3"}, "3"),
    ],
)
def test_all_texts_of_the_same_choices_are_one_protocol(settings, one):
    suite, (name,) = Suite(name="s", settings=tuple(settings.items())), settings
    protocol, expected = apply_settings(QUICK, suite, core()), override(QUICK, {name: one})
    assert (protocol, protocol.label) == (expected, expected.label)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"loss": "focl"}, "unknown-loss"),
        ({"sampling": "balancd"}, "unknown-sampling"),
        ({"transforms": "clah"}, "unknown-transform"),
        ({"loss": "focal(gama=1)"}, "bad-protocol"),
        ({"loss": "focal(gamma=one)"}, "bad-protocol"),
        ({"loss": "focal(gamma=1"}, "bad-protocol"),
        ({"loss": "focal(gamma=nan)"}, "bad-protocol"),
        ({"loss": "focal(gamma=1,gamma=2)"}, "bad-protocol"),
        ({"loss": "focal(gamma=-1)"}, "bad-protocol"),
        ({"transforms": "cutout(side=2)"}, "bad-protocol"),
        ({"loss": "focal,task"}, "usage"),  # planned, so it is no grid
    ],
)
def test_a_wrong_choice_is_an_error(settings, code):
    with pytest.raises(UsageError) as caught:
        choices_of(**settings)
    assert caught.value.code == code


def source_of(task, dims=2):
    return SimpleNamespace(task=task, spec=SimpleNamespace(name="dots", dims=dims))


@pytest.mark.parametrize(
    ("settings", "task", "code"),
    [
        ({"loss": "focal"}, REGRESSION, "wrong-task"),
        ({"loss": "focal"}, SEGMENTATION, "wrong-task"),
        ({"class_weights": "inverse"}, REGRESSION, "wrong-task"),
        ({"label_smoothing": "0.1"}, SEGMENTATION, "wrong-task"),
        ({"sampling": "balanced"}, MULTILABEL, "wrong-task"),
        ({"mixup": "0.2"}, REGRESSION, "wrong-task"),
        ({"mixup": "0.2"}, SEGMENTATION, "wrong-task"),
        ({"transforms": "clahe(tiles=0)"}, BINARY, "bad-protocol"),
    ],
)
def test_a_choice_that_does_not_suit_a_dataset_is_refused(settings, task, code):
    protocol = override(QUICK, settings)
    with pytest.raises(UsageError) as caught:
        check_choices(protocol, find_choices(protocol, core()), source_of(task))
    assert caught.value.code == code


def test_transforms_are_refused_for_volumes_and_augmentation_for_frozen_networks():
    protocol = override(QUICK, {"transforms": "cutout"})
    with pytest.raises(UsageError) as caught:
        check_choices(protocol, find_choices(protocol, core()), source_of(SEGMENTATION, dims=3))
    assert caught.value.code == "wrong-dims"
    probe = replace(protocol, method="probe")
    with pytest.raises(UsageError, match="augments images of training"):
        check_choices(probe, find_choices(probe, core()), source_of(BINARY))


# --- losses ----------------------------------------------------------------------------------------------------------
def build_loss(spec, task, num_labels, **fields):
    request = {"task": task, "num_labels": num_labels, "device": "cpu", "options": spec.options, **fields}
    return spec.build(LossRequest(**request))


def draw_classes(num_labels=3, count=50):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, num_labels, generator=generator), torch.randint(
        0, num_labels, (count,), generator=generator
    )


def test_the_loss_of_the_task_is_its_own_function():
    assert build_loss(TASK_LOSS, SEGMENTATION, 2) == SEGMENTATION.head.loss


def test_class_weights_and_label_smoothing_are_those_of_torch():
    logits, targets = draw_classes()
    weights = torch.tensor([0.5, 1.0, 3.0])
    weighted = build_loss(TASK_LOSS, MULTICLASS, 3, class_weights=weights)(logits, targets)
    assert weighted.item() == pytest.approx(functional.cross_entropy(logits, targets, weights).item(), rel=1e-6)
    smooth = build_loss(TASK_LOSS, MULTICLASS, 3, label_smoothing=0.2)(logits, targets)
    expected = functional.cross_entropy(logits, targets, label_smoothing=0.2)
    assert smooth.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weights_of_present_labels_leave_out_unknown_ones():
    logits, _ = draw_classes()
    targets = torch.tensor([[1.0, 0.0, torch.nan]]).repeat(50, 1)
    weights = torch.tensor([2.0, 5.0, 7.0])
    loss = build_loss(TASK_LOSS, MULTILABEL, 3, class_weights=weights)(logits, targets)
    each = functional.binary_cross_entropy_with_logits(logits[:, :2], targets[:, :2], reduction="none")
    expected = (each * torch.tensor([2.0, 1.0])).sum() / (3 * 50)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_focal_loss_of_classes_is_that_of_the_paper():
    logits, targets = draw_classes()
    of_target = logits.double().softmax(dim=1)[torch.arange(50), targets]
    expected = -((1 - of_target) ** 2 * of_target.log()).mean()
    assert build_loss(FOCAL, MULTICLASS, 3)(logits, targets).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_focal_loss_of_labels_is_that_of_torchvision():
    logits = torch.linspace(-3, 3, 12).reshape(4, 3)
    flags = torch.tensor([[0.0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 1]])
    # torchvision 0.29.2: sigmoid_focal_loss(logits, flags, alpha=-1, gamma=2, reduction="mean")
    assert build_loss(FOCAL, MULTILABEL, 3)(logits, flags).item() == pytest.approx(0.5701849460601807, rel=1e-6)


def test_gamma_0_is_the_loss_of_the_task():
    logits, targets = draw_classes()
    for task, outputs in ((MULTICLASS, logits), (ORDINAL, logits[:, :2])):
        loss = build_loss(FOCAL, task, 3, options={"gamma": 0.0})(outputs, targets)
        assert loss.item() == pytest.approx(task.head.loss(outputs, targets).item(), rel=1e-6)


def test_class_weights_are_the_balanced_ones_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.array([0] * 50 + [1] * 30 + [2] * 7)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    np.testing.assert_allclose(MULTICLASS.targets.inverse_frequencies(targets, 3), expected)
    flags = np.array([[1.0, 0.0], [0.0, 0.0], [0.0, np.nan]])
    np.testing.assert_allclose(MULTILABEL.targets.inverse_frequencies(flags, 2), [2.0, 1.0])
    assert REGRESSION.targets.inverse_frequencies(np.ones(3), 1) is None


def test_mixed_losses_are_those_of_mixed_targets():
    logits, targets = draw_classes()
    share, one_hot = torch.full((50,), 0.3), functional.one_hot(targets, 3).float()
    mixed = loss_of_mixed(MULTICLASS.head.loss, logits, (targets, targets.flip(0), share))
    expected = functional.cross_entropy(logits, 0.3 * one_hot + 0.7 * one_hot.flip(0))
    assert mixed.item() == pytest.approx(expected.item(), rel=1e-6)


# --- samplings -------------------------------------------------------------------------------------------------------
def test_balanced_passes_have_equally_many_of_each_class_and_no_image_twice_too_early():
    members = (np.arange(70), np.arange(70, 95), np.arange(95, 100))
    draw = draw_balanced(torch.Generator().manual_seed(0), members=members).numpy()
    counts = [np.isin(draw, rows).sum() for rows in members]
    assert len(draw) == 100 and sorted(counts) == [33, 33, 34]
    assert np.bincount(draw, minlength=100)[:70].max() == 1
    assert set(np.bincount(draw, minlength=100)[95:]) <= {6, 7}


def drawn_with(settings, count=20, task=BINARY):
    dataset, pixels = make(task)
    protocol = override(SHORT, settings)
    seeds = {name: number for number, name in enumerate(USES)}
    return Batches(dataset, pixels, protocol, seeds, find_choices(protocol, core())), count


ALL_CHOICES = {"sampling": "balanced", "mixup": "0.4", "transforms": "cutout"}


def test_draws_do_not_depend_on_how_batches_are_grouped():
    one, count = drawn_with(ALL_CHOICES)
    other, _ = drawn_with(ALL_CHOICES)
    whole = one.plan(count).tensors()
    parts = [other.plan(count // 4).tensors() for _ in range(4)]
    assert set(whole) > {"partners", "shares", "transforms"}
    for name, tensor in whole.items():
        assert torch.equal(tensor, torch.cat([part[name] for part in parts])), name


def test_draws_continue_from_a_checkpoint():
    batches, _ = drawn_with(ALL_CHOICES)
    batches.plan(3)
    state = {name: tensor.clone() for name, tensor in batches.state().items()}
    expected = batches.plan(5).tensors()
    again, _ = drawn_with(ALL_CHOICES)
    again.restore(state)
    for name, tensor in again.plan(5).tensors().items():
        assert torch.equal(tensor, expected[name]), name


def test_batches_of_mixed_images_have_the_targets_of_both():
    batches, _ = drawn_with({"mixup": "1"})
    plain, _ = drawn_with({})
    planned = {name: tensor[0] for name, tensor in batches.plan(1).tensors().items()}
    images, targets, partners, shares = batches.compute(batches.unpack(planned))
    own = {name: tensor[0] for name, tensor in plain.plan(1).tensors().items()}
    unmixed, own_targets = plain.compute(plain.unpack(own))
    share, order = shares[0], planned["partners"]
    torch.testing.assert_close(images, share * unmixed + (1 - share) * unmixed[order])
    assert torch.equal(targets, own_targets) and torch.equal(partners, own_targets[order])


@pytest.mark.parametrize("task", [BINARY, MULTICLASS, ORDINAL, MULTILABEL], ids=str)
def test_a_training_with_every_choice_learns(task):
    balanced = {"sampling": "balanced"} if task.classes else {}
    settings = {"loss": "focal", "class_weights": "inverse", "label_smoothing": "0.05", "mixup": "0.2", **balanced}
    protocol = override(SHORT, {**settings, "transforms": "cutout(side=0.3)"})
    dataset, pixels = make(task)
    fitted = train(dataset, pixels, protocol, choices=find_choices(protocol, core()))
    first, *_, last = (row["val_loss"] for row in fitted.history)
    assert last < first


# --- transforms ------------------------------------------------------------------------------------------------------
# cv2.createCLAHE(3, (3, 3)).apply(image) of OpenCV 5.0.0
OPENCV = (
    "143d7090bcd1fc2a5a778fb8d814335c8fc9f21e4c85acd0ff40708f7ab8e01d4d94bef544709ecf1e52d42663aae32268a5e62d70ace133"
    "7cc3fc50a0e23788c10c5aa5e8472e8fd12a8ace2b89c7267dc623701a7dd9369aec57adfe62bf1d80d73daeff73c63ea6f776cb429bf55e"
    "84ea5bba47ae1490ec68d64fae33f266dd51c94ec24ebb37a3198afc940f99139d129e14a016961c911e40d970f387ff9a2fb044c250cd59"
)


def test_clahe_is_that_of_opencv():
    y, x = np.mgrid[:12, :14]
    image = ((17 * y * y + 31 * x + 7 * x * y) % 200 + 20).astype(np.uint8)
    expected = np.frombuffer(bytes.fromhex(OPENCV), np.uint8).reshape(12, 14)
    np.testing.assert_array_equal(equalize_locally(image, clip=3, tiles=3), expected)


def test_clahe_widens_the_levels_of_16_bits_and_keeps_gray_colors_gray():
    random = np.random.default_rng(0)
    deep = random.integers(1000, 1400, (64, 64)).astype(np.uint16)
    assert equalize_locally(deep, clip=2, tiles=4).std() >= deep.std()
    gray = random.integers(100, 140, (32, 32)).astype(np.uint8)
    color = equalize_locally(np.repeat(gray[..., None], 3, axis=2), clip=2, tiles=4)
    np.testing.assert_array_equal(color, np.repeat(equalize_locally(gray, clip=2, tiles=4)[..., None], 3, axis=2))


def test_cutout_sets_a_square_of_each_image_to_0():
    images = cut_out(torch.ones(2, 1, 8, 8), torch.tensor([[0.5, 0.5], [0.0, 1.0]]), side=0.5)
    assert images[0, 0].eq(0).sum() == 16 and images[0, 0, 2:6, 2:6].eq(0).all()
    assert images[1, 0].eq(0).sum() == 4 and images[1, 0, :2, 6:].eq(0).all()


def test_the_cache_and_a_new_image_are_preprocessed_alike(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (10, 20, 30)).astype(np.uint8)
    source = open_dataset(make_dataset_spec(make_samples(images, np.arange(10) % 2), channels=1), tmp_path)
    (clahe,) = choices_of(transforms="clahe(tiles=2)")["transforms"]
    path = cache_images(source, 16, tmp_path, None, [clahe])
    plain, stronger = (
        cache_images(source, 16, tmp_path, None, each)
        for each in ([], choices_of(transforms="clahe(tiles=2,clip=5)")["transforms"])
    )
    assert len({path, plain, stronger}) == 3
    cached = np.load(path)
    np.testing.assert_array_equal(
        cached[3, ..., 0], fit_square(equalize_locally(images[3], clip=2, tiles=2), 16), strict=True
    )
    card = SimpleNamespace(image_size=16, channels=1, seen={**describe_images(source), "dtype": "uint8"})
    read = read_new_image(card, NewImage(name="a", file="a", source=(lambda row: images[row], 3)), [clahe])
    np.testing.assert_array_equal(read.pixels, cached[3])


@pytest.mark.parametrize(
    "prepare", [lambda pixels: pixels[::2], lambda pixels: pixels / 2, lambda pixels: pixels.no_such_method()]
)
def test_a_step_that_fails_or_changes_the_shape_is_named(prepare):
    step = Choice(spec=TransformSpec(name="odd", prepare=prepare), plugin="zoo-odd")
    with pytest.raises(PluginError, match="transform 'odd' of zoo-odd") as caught:
        prepare_pixels(np.zeros((4, 4), np.uint8), [step])
    assert caught.value.code == "transform-failed"


def test_a_transform_is_either_of_preprocessing_or_of_augmentation():
    with pytest.raises(TypeError, match="exactly one"):
        replace(CLAHE, augment=CUTOUT.augment)


# --- plugins ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def documented():
    """The plugin in the docs, as a module."""
    section = PAGE.read_text(encoding="utf-8").partition("## Losses, samplings and transforms")[2]
    module = ModuleType("documented_choices")
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], vars(module))
    return module


@pytest.fixture(scope="module")
def installed(documented):
    from zoo import builtin

    plugins = [("zoo-bench", builtin), ("zoo-robust", documented)]
    return load_registry(
        [InstalledPlugin(name=name, version="1.0", load=lambda module=module: module) for name, module in plugins]
    )


def test_the_plugin_in_the_docs_conforms(documented):
    for spec in (
        *documented.register_losses(),
        *documented.register_samplings(),
        *documented.register_transforms(),
    ):
        for check in checks_of(CheckedSpec(spec=spec).kind):
            if check.id not in {"light-import", "spawn"}:  # it is no file that another process could import
                try:
                    check.run(CheckedSpec(spec=spec))
                except Inapplicable:
                    continue


def test_the_plugin_in_the_docs_trains(installed):
    settings = {"loss": "gce(q=0.5)", "sampling": "by-patient", "transforms": "gamma,noise(deviation=0.01)"}
    protocol = override(SHORT, settings)
    choices = find_choices(protocol, installed)
    dataset, pixels = make(BINARY)
    fitted = train(dataset, pixels, protocol, choices=choices)
    assert fitted.history[-1]["val_loss"] < fitted.history[0]["val_loss"]
    assert plugins_of(choices) == ("zoo-robust",)
    assert choices["transforms"][0].identity == "zoo-robust:gamma@1(exponent=0.5)"


def test_a_trained_model_needs_the_plugin_and_version_of_its_steps(installed):
    described = find_choice("transform", "gamma", installed).describe()
    assert reopen_choice("transform", described, installed).identity == "zoo-robust:gamma@1(exponent=0.5)"
    with pytest.raises(PluginError, match="zoo-robust is not installed"):
        reopen_choice("transform", described, core())
    with pytest.raises(PluginError, match="has version 1 of it"):
        reopen_choice("transform", {**described, "version": 2}, installed)
