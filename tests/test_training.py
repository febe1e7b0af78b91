"""Fine-tuning: the budget, the learning rates, the training loop, and the selection of a round."""

import math
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pytest
import torch
from factories import make_fold, make_predictions
from sklearn.metrics import log_loss, roc_auc_score
from torch import nn

from zoo import BINARY, MULTICLASS, MULTILABEL, ORDINAL, REGRESSION
from zoo.data.pixels import Pixels
from zoo.errors import RunError
from zoo.evaluation.predict import predict
from zoo.specs.deviation import Deviation
from zoo.specs.model import ModelSpec
from zoo.specs.protocol import FINETUNE, KNN, LINEAR_PROBE, MEDMNIST, Protocol
from zoo.training.batches import Batches, Feed, plan_steps
from zoo.training.fitting import FitRequest, fit
from zoo.training.loop import Training
from zoo.training.optimizer import build_optimizer, parameter_groups, schedule_factor
from zoo.training.selection import BestRound, selects_last

torch.set_num_threads(1)  # as in a run on a CPU; two threads wait for each other on a busy machine
SHORT = Protocol(name="short", steps=30, rounds=3, batch_size=16, learning_rate=0.02, augmentation="none")
SIDE = 8


def loss_of(predictions, task, spread=1.0):
    return task.answers.loss(predictions.probabilities, predictions.targets, spread)


def make(task=BINARY, count=200, symmetries=()):
    """Images that are bright where the target is high: 60 % train, 20 % val, 20 % test."""
    random = np.random.default_rng(0)
    num_labels = {"binary": 2, "regression": 1}.get(task.name, 3)
    targets = random.integers(0, max(num_labels, 2), count)
    images = np.clip(random.normal(60 + 60 * targets[:, None, None], 15, (count, SIDE, SIDE)), 0, 255).astype(np.uint8)
    if task == REGRESSION:
        targets = 50.0 + 10 * targets
    if task == MULTILABEL:
        targets = np.stack([targets == 0, targets > 0, targets == 2], axis=1).astype(float)
        targets[random.random(targets.shape) < 0.2] = np.nan
    dataset = make_fold(targets, task=task, symmetries=symmetries)
    one = torch.ones(1, 1, 1, 1)
    images = torch.from_numpy(images[..., None])
    return dataset, Pixels(images=images, scale=(0.0, 255.0), mean=0.5 * one, std=0.25 * one, device="cpu")


class Tiny(nn.Module):
    def __init__(self, outputs, dropout=0.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(4, outputs)

    def forward(self, images):
        return self.fc(self.dropout(self.norm(self.conv(images)).relu().mean(dim=(2, 3))))


TINY = ModelSpec(
    name="tiny",
    build=lambda request: Tiny(request.num_outputs),
    classifier="fc",
    channels=1,
    layer_groups=lambda m: [list(m.conv.parameters()), list(m.norm.parameters()), list(m.fc.parameters())],
)


def train(
    dataset,
    pixels,
    protocol=SHORT,
    *,
    seed=0,
    dropout=0.0,
    val_score=None,
    notify=lambda row: None,
    module=None,
    checkpoints=None,
    precision="fp32",
    choices=MappingProxyType({}),
):
    if module is None:
        torch.manual_seed(0)
        module = Tiny(dataset.task.head.num_outputs(len(dataset.labels)), dropout)
        torch.seed()  # training must not depend on the caller's random state
    request = FitRequest(
        spec=TINY,
        module=module,
        dataset=dataset,
        pixels=pixels,
        protocol=protocol,
        seed=seed,
        precision=precision,
        val_score=val_score or (lambda predictions: -loss_of(predictions, dataset.task, dataset.target_scale[1])),
        notify=notify,
        checkpoints=checkpoints,
        choices=choices,
    )
    return fit(request)


def same(one, other):
    pairs = zip(one.module.state_dict().values(), other.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def scores(*values):
    """A val score that returns the given values in order."""
    waiting = iter(values)
    return lambda predictions: next(waiting)


# --- the budget ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "num_train", "expected"),
    [
        ({}, 320, (500, 25)),  # 20 epochs of 10 steps are less than 500
        ({}, 3200, (2000, 100)),
        ({}, 3201, (2020, 101)),  # the last, smaller batch counts
        ({}, 1_000_000, (10_000, 500)),
        ({"epochs": None, "steps": 7}, 320, (7, 1)),  # steps are never clipped
        ({"epochs": None, "steps": 20_000}, 320, (20_000, 1000)),
        ({"min_steps": 0, "rounds": 0}, 320, (200, 10)),  # val once per epoch
        ({"min_steps": 0, "rounds": 0}, 5, (20, 1)),  # fewer images than a batch
    ],
)
def test_a_budget_becomes_steps_and_rounds(change, num_train, expected):
    assert plan_steps(replace(FINETUNE, **change), num_train) == expected


# --- learning rates --------------------------------------------------------------------------------------------------
def test_the_learning_rate_warms_up_linearly_then_follows_torchs_cosine():
    factors = [schedule_factor(FINETUNE, step, 100) for step in range(1, 101)]
    assert factors[:10] == pytest.approx(np.linspace(0.1, 1.0, 10))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90)
    for factor in factors[10:]:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        reference.step()
    assert factors[-1] < 0.001


def test_the_step_schedule_is_torchs_multistep():
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[50, 75], gamma=0.1)
    for step in range(1, 101):
        assert schedule_factor(MEDMNIST, step, 100) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


def test_a_constant_schedule_without_warm_up_is_constant():
    protocol = replace(FINETUNE, schedule="constant", warmup=0.0)
    assert {schedule_factor(protocol, step, 7) for step in range(1, 8)} == {1.0}


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_short_budgets_have_positive_learning_rates(num_steps):
    assert all(0 < schedule_factor(FINETUNE, step, num_steps) <= 1 for step in range(1, num_steps + 1))


# --- parameter groups ------------------------------------------------------------------------------------------------
def test_each_parameter_is_in_exactly_one_group():
    module = Tiny(2)
    grouped = [p for group in parameter_groups(TINY, module, FINETUNE) for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, module.parameters()))


def test_norms_and_biases_have_no_weight_decay():
    module = Tiny(2)
    groups = parameter_groups(TINY, module, FINETUNE)
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(module.conv.weight), id(module.fc.weight)}
    assert {group["weight_decay"] for group in groups} == {0.0, 0.05}


def test_learning_rates_decrease_geometrically_from_head_to_stem():
    module = Tiny(2)
    module.norm = nn.GroupNorm(2, 4)
    groups = parameter_groups(TINY, module, FINETUNE)
    shares = {id(p): group["share"] for group in groups for p in group["params"]}
    stem, middle, head = (shares[id(part.weight)] for part in (module.conv, module.norm, module.fc))
    assert (stem, middle, head) == pytest.approx((0.1, 0.1**0.5, 1.0))


def test_a_network_with_batch_norm_has_one_learning_rate():
    assert {group["share"] for group in parameter_groups(TINY, Tiny(2), FINETUNE)} == {1.0}
    slow = replace(FINETUNE, stem_to_head_ratio=0.25)
    assert min(group["share"] for group in parameter_groups(TINY, Tiny(2), slow)) == pytest.approx(0.25)


def test_a_parameter_outside_all_layer_groups_has_the_heads_learning_rate():
    module = Tiny(2)
    module.norm = nn.GroupNorm(2, 4)
    spec = replace(TINY, layer_groups=lambda m: [list(m.conv.parameters()), [m.norm.weight]])
    shares = {id(p): g["share"] for g in parameter_groups(spec, module, FINETUNE) for p in g["params"]}
    assert shares[id(module.fc.weight)] == shares[id(module.fc.bias)] == shares[id(module.norm.weight)] == 1.0


def test_a_model_without_layer_groups_has_one_learning_rate():
    module = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    groups = parameter_groups(replace(TINY, layer_groups=None), module, FINETUNE)
    assert [(len(g["params"]), g["share"], g["weight_decay"]) for g in groups] == [(1, 1.0, 0.05), (3, 1.0, 0.0)]


def test_a_frozen_parameter_is_in_no_group():
    module = Tiny(2)
    module.conv.weight.requires_grad_(False)
    grouped = {id(p) for group in parameter_groups(TINY, module, FINETUNE) for p in group["params"]}
    assert id(module.conv.weight) not in grouped


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_the_optimizer_is_the_protocols_and_follows_the_schedule(name, kind):
    protocol = replace(FINETUNE, optimizer=name, stem_to_head_ratio=0.25)
    dataset, pixels = make()
    drawn = feed(dataset, pixels, protocol)
    assert type(drawn.optimizer) is kind
    for step in range(70):  # more than are planned at a time
        drawn.prepare(step)
        drawn.read()
        rates = sorted({group["lr"].item() for group in drawn.optimizer.param_groups})
        peak = 3e-4 * schedule_factor(protocol, step + 1, 100)
        assert rates == pytest.approx([0.25 * peak, 0.5 * peak, peak])


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
def test_a_learning_rate_in_a_tensor_gives_the_same_bits_as_a_float(optimizer):
    """Learning rates are tensors, so that a captured step reads their current values."""
    protocol = replace(FINETUNE, optimizer=optimizer)
    updated = []
    for kind in (float, lambda rate: torch.tensor(rate, dtype=torch.float64)):
        torch.manual_seed(0)
        module = Tiny(2)
        own = build_optimizer(TINY, module, protocol)
        for step in range(3):
            module(torch.rand(4, 1, 8, 8)).sum().backward()
            for group in own.param_groups:
                group["lr"] = kind(3e-4 / (step + 3))
            own.step()
        updated.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert torch.equal(*updated)


def test_a_model_without_trainable_parameters_is_an_error(golden):
    module = Tiny(2)
    module.requires_grad_(False)
    with pytest.raises(RunError, match="'tiny'") as caught:
        build_optimizer(TINY, module, FINETUNE)
    assert caught.value.code == "nothing-to-train"
    golden(caught.value)


def test_a_renewed_scaler_ignores_a_step_that_ended_before_its_update():
    """As in a capture that fails in gradient clipping, in half precision."""
    dataset, pixels = make()
    module, protocol = Tiny(2), replace(SHORT, optimizer="sgd")
    optimizer = build_optimizer(TINY, module, protocol)
    drawn = Feed(Batches(dataset, pixels, protocol, {"order": 1, "augmentation": 2}), optimizer, protocol, 30)
    training = Training(
        module=module,
        loss=dataset.task.head.loss,
        precision="fp16",
        feed=drawn,
        keeper=BestRound(module, select_last=True),
    )
    training.take_step()
    scale = training.scaler.get_scale()
    training.scaler.unscale_(optimizer)
    training.renew_scaler()
    training.take_step()  # a second unscale_ without an update would raise
    assert training.scaler.get_scale() == scale


# --- batches ---------------------------------------------------------------------------------------------------------
def feed(dataset, pixels, protocol, seeds=None):
    drawn = Batches(dataset, pixels, protocol, seeds or {"order": 1, "augmentation": 2})
    return Feed(drawn, build_optimizer(TINY, Tiny(2), protocol), protocol, num_steps=100)


def batches(dataset, pixels, protocol, count, seeds=None):
    drawn, actual = feed(dataset, pixels, protocol, seeds), []
    for step in range(count):
        drawn.prepare(step)
        actual.append(drawn.read())
    return actual


def test_each_image_is_drawn_once_per_epoch_with_its_target():
    dataset, pixels = make(count=160)  # 96 in train: 6 batches of 16
    row_of = {tuple(image.flatten().tolist()): row for row, image in enumerate(pixels.images[:96])}
    drawn = batches(dataset, pixels, replace(SHORT, symmetries=False), 18)
    for epoch in (drawn[:6], drawn[6:12], drawn[12:]):
        images, targets = torch.cat([images for images, _ in epoch]), torch.cat([targets for _, targets in epoch])
        levels = (images * 0.25 + 0.5).mul(255).round().int()
        rows = [row_of[tuple(image.flatten().tolist())] for image in levels]
        assert sorted(rows) == list(range(96))
        assert targets.tolist() == dataset.targets[rows].tolist()
    assert drawn[0][1].tolist() != drawn[6][1].tolist()  # in another order


def test_all_batches_are_full_across_epochs():
    dataset, pixels = make(count=50)  # 30 in train
    assert {len(images) for images, _ in batches(dataset, pixels, SHORT, 9)} == {16}
    assert {len(images) for images, _ in batches(dataset, pixels, replace(SHORT, batch_size=64), 3)} == {30}


def test_order_and_augmentation_have_separate_seeds():
    dataset, pixels = make(symmetries=("hflip",))
    first = batches(dataset, pixels, SHORT, 3)
    again = batches(dataset, pixels, SHORT, 3)
    flips = batches(dataset, pixels, SHORT, 3, {"order": 1, "augmentation": 5})
    order = batches(dataset, pixels, SHORT, 3, {"order": 5, "augmentation": 2})
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(first, flips, strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, flips, strict=True))
    assert not all(torch.equal(a[1], b[1]) for a, b in zip(first, order, strict=True))


def test_a_protocol_without_symmetries_ignores_the_datasets():
    dataset, pixels = make(symmetries=("hflip",))
    plain, _ = make()
    for (one, _), (other, _) in zip(
        batches(dataset, pixels, replace(SHORT, symmetries=False), 2), batches(plain, pixels, SHORT, 2), strict=True
    ):
        assert torch.equal(one, other)


# --- the loop --------------------------------------------------------------------------------------------------------
def test_finetuning_learns_a_separable_dataset():
    dataset, pixels = make()
    fitted = train(dataset, pixels)
    actual = predict(fitted.module, dataset, pixels, "test", precision="fp32")
    assert roc_auc_score(actual.targets, actual.probabilities[:, 1]) > 0.99
    assert fitted.history[-1]["loss"] < 0.5 * math.log(2)


@pytest.mark.parametrize("task", [MULTICLASS, ORDINAL, MULTILABEL, REGRESSION], ids=str)
def test_finetuning_lowers_the_loss_of_every_task(task):
    dataset, pixels = make(task)
    fitted = train(dataset, pixels, replace(SHORT, rounds=6))
    assert fitted.history[-1]["val_loss"] < 0.7 * fitted.history[0]["val_loss"]


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    dataset, pixels = make(symmetries=("hflip",))
    protocol = replace(SHORT, augmentation="one-of")
    first = train(dataset, pixels, protocol, dropout=0.3, seed=1)
    assert same(train(dataset, pixels, protocol, dropout=0.3, seed=1), first)
    assert not same(train(dataset, pixels, protocol, dropout=0.3, seed=2), first)


def test_training_does_not_change_the_callers_random_state():
    dataset, pixels = make()
    module = Tiny(2, dropout=0.5)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    train(dataset, pixels, module=module)
    assert torch.equal(torch.rand(3), expected)


def test_val_is_scored_after_each_round_and_at_the_last_step():
    dataset, pixels = make()
    rows = []
    fitted = train(dataset, pixels, replace(SHORT, steps=10, rounds=3), notify=rows.append)
    assert [row["step"] for row in fitted.history] == [4, 8, 10]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert all("val_score" in row for row in rows if row["step"] in {4, 8, 10})
    assert fitted.images_per_second == pytest.approx(160 / fitted.train_seconds)


def test_the_loss_of_a_round_is_the_mean_over_its_steps():
    dataset, pixels = make()
    protocol = replace(SHORT, learning_rate=0.0, batch_size=120, steps=5, rounds=2)
    torch.manual_seed(0)
    module = Tiny(2).train()
    logits = module(pixels.normalize(pixels.batch(torch.arange(120))))
    expected = nn.functional.cross_entropy(logits, torch.from_numpy(dataset.targets[:120])).item()
    losses = [row["loss"] for row in train(dataset, pixels, protocol).history]
    assert losses == pytest.approx([expected, expected], rel=1e-4)


def test_gradients_are_clipped_to_the_protocols_norm():
    dataset, pixels = make()
    protocol = replace(SHORT, steps=1, rounds=1, warmup=0.0, optimizer="sgd", momentum=0.0, learning_rate=1.0)
    torch.manual_seed(0)
    before = nn.utils.parameters_to_vector(Tiny(2).parameters())
    steps = [
        (nn.utils.parameters_to_vector(train(dataset, pixels, p).module.parameters()) - before).norm().item()
        for p in (
            replace(protocol, clip_norm=1e-3, weight_decay=0.0),
            replace(protocol, clip_norm=None, weight_decay=0.0),
        )
    ]
    assert steps[0] == pytest.approx(1e-3, rel=0.01)
    assert steps[1] > 0.01


def test_a_loss_that_is_not_finite_is_a_run_error(golden):
    dataset, pixels = make()
    module = Tiny(2)
    with torch.no_grad():
        module.fc.bias.fill_(torch.nan)
    with pytest.raises(RunError, match="step 10 of 30") as caught:
        train(dataset, pixels, module=module)
    assert caught.value.code == "diverged"
    golden(caught.value)


class Pooled(Tiny):
    """Normalizes one value per image and channel, like a ResNet's last stage at 32 px."""

    def forward(self, images):
        return self.fc(self.norm(self.conv(images).mean(dim=(2, 3), keepdim=True)).flatten(1))


def test_batch_normalization_of_one_image_is_a_run_error(golden):
    dataset, pixels = make()
    one = replace(SHORT, batch_size=1)
    with pytest.raises(RunError, match="--set batch_size=2") as caught:
        train(dataset, pixels, one, module=Pooled(2))
    assert caught.value.code == "batch-of-one"
    golden(caught.value)
    without = Pooled(2)
    without.norm = nn.GroupNorm(1, 4)
    assert train(dataset, pixels, one, module=without).details["steps"] == 30
    assert train(dataset, pixels, one).details["steps"] == 30, "6x6 values of one image are enough"


def test_an_epoch_of_batch_size_plus_one_images_has_no_batch_of_one():
    dataset, pixels = make(count=55)  # 33 in train
    protocol = replace(SHORT, batch_size=32, steps=None, epochs=3)
    assert train(dataset, pixels, protocol, module=Pooled(2)).details["steps"] == 6


# --- selection on val ------------------------------------------------------------------------------------------------
BEST = replace(
    SHORT, schedule="constant", warmup=0.0, select_by="best"
)  # so that a shorter run equals the start of a longer one


def test_fit_returns_the_weights_of_the_best_round():
    dataset, pixels = make()
    fitted = train(dataset, pixels, BEST, val_score=scores(0.6, 0.9, 0.7))
    assert fitted.selected_step == 20
    shorter = train(dataset, pixels, replace(BEST, steps=20, rounds=2), val_score=scores(0.6, 0.9))
    assert same(fitted, shorter)


def test_fit_returns_the_last_round_if_the_protocol_selects_it():
    dataset, pixels = make()
    fitted = train(dataset, pixels, replace(BEST, select_by="last"), val_score=scores(0.9, 0.8, 0.7))
    assert (fitted.selected_step, fitted.details["selected_by"]) == (30, "last step")
    assert same(fitted, train(dataset, pixels, BEST, val_score=scores(0.7, 0.8, 0.9)))


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ([(1, 0.8, 0.5), (2, 0.9, 0.6), (3, 0.9, 0.5), (4, 0.9, 0.55)], 3),
        ([(1, 0.9, 0.5), (2, 0.9, 0.5)], 1),
        ([(1, None, 0.9), (2, 0.1, 2.0), (3, None, 0.1)], 2),
        ([(1, None, 0.9), (2, None, 0.3), (3, None, None)], 2),
    ],
    ids=["ties go to the lower loss", "then to the earlier round", "undefined loses", "loss where no score is defined"],
)
def test_the_best_round_has_the_highest_score_then_the_lowest_loss(offered, selected):
    keeper = BestRound(nn.Linear(1, 1), select_last=False)
    for step, score, loss in offered:
        keeper.offer(step, score, loss)
    assert keeper.step == selected


def with_val(task, targets):
    dataset, _ = make(task)
    return replace(dataset, targets=np.asarray(targets), split_of=np.full(len(targets), "val"))


def test_the_size_of_val_is_counted_in_scored_units():
    dataset = with_val(BINARY, np.repeat([0, 1] * 29, 5))
    patients = np.repeat(np.arange(58), 5).astype(str)
    by_patient = replace(dataset, sample_ids=np.arange(290).astype(str), patients=patients, unit="patient")
    assert not selects_last(replace(by_patient, unit="image"), FINETUNE)
    assert selects_last(by_patient, FINETUNE)


@pytest.mark.parametrize(
    ("task", "targets", "expected"),
    [
        (BINARY, [0] * 30 + [1] * 30, False),
        (BINARY, [0] * 300 + [1] * 29, True),
        (BINARY, [0] * 100, True),
        (MULTICLASS, [0] * 40 + [1] * 40 + [2] * 29, True),
        (MULTICLASS, [0] * 40 + [1] * 40, False),  # a class absent from val does not count
        (MULTILABEL, [[1, 0, np.nan]] * 29 + [[0, 0, 1]] * 40, True),
        (MULTILABEL, [[1, 0, np.nan]] * 30 + [[0, 0, 1]] * 30, False),  # one label can be selected on
        (REGRESSION, np.arange(29.0), True),
        (REGRESSION, np.arange(30.0), False),
    ],
)
def test_a_val_split_too_small_to_select_a_round_gives_the_last_step(task, targets, expected):
    dataset = with_val(task, targets)
    assert selects_last(dataset, FINETUNE) == expected
    assert not selects_last(dataset, replace(FINETUNE, select_by="best"))
    assert selects_last(dataset, replace(FINETUNE, select_by="last"))


def predictions(targets, probabilities):
    return make_predictions(targets, probabilities, prefix="")


def test_the_loss_of_val_is_scikit_learns_log_loss():
    random = np.random.default_rng(0)
    targets, probabilities = random.integers(0, 3, 50), random.dirichlet([1, 1, 1], 50)
    actual = loss_of(predictions(targets, probabilities), MULTICLASS)
    assert actual == pytest.approx(log_loss(targets, probabilities))


def test_the_loss_of_val_ignores_unknown_labels():
    random = np.random.default_rng(0)
    targets, probabilities = random.integers(0, 2, (50, 3)).astype(float), random.random((50, 3))
    targets[::4, 1] = np.nan
    known = ~np.isnan(targets)
    actual = loss_of(predictions(targets, probabilities), MULTILABEL)
    assert actual == pytest.approx(log_loss(targets[known], probabilities[known]))


def test_a_certain_and_wrong_prediction_has_a_finite_loss():
    actual = loss_of(predictions([0, 1], [[0.0, 1.0], [0.0, 1.0]]), BINARY)
    assert 5 < actual < 50


# --- frozen networks -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", [LINEAR_PROBE, KNN], ids=lambda protocol: protocol.name)
def test_a_frozen_method_fits_without_a_history(protocol):
    dataset, pixels = make()
    fitted = train(
        dataset, pixels, protocol, val_score=lambda actual: roc_auc_score(actual.targets, actual.probabilities[:, 1])
    )
    actual = predict(fitted.module, dataset, pixels, "test", precision="fp32")
    assert roc_auc_score(actual.targets, actual.probabilities[:, 1]) > 0.95
    assert (fitted.history, fitted.selected_step, fitted.images_per_second) == ((), None, None)


def test_a_penalty_with_an_undefined_score_is_not_selected():
    dataset, pixels = make()
    protocol = replace(LINEAR_PROBE, regularizations=(1.0, 0.1, 0.01))
    fitted = train(dataset, pixels, protocol, val_score=scores(math.nan, 0.5, math.nan))
    assert fitted.details == {"regularization": 0.1, "val_score": 0.5}


# --- out of memory ---------------------------------------------------------------------------------------------------
class Greedy(Tiny):
    """Runs out of memory above a number of images; records the batch sizes."""

    def __init__(self, outputs, most):
        super().__init__(outputs)
        self.most, self.batch_sizes = most, []
        self.norm = nn.Identity()  # a norm over a batch would not be the same in parts

    def forward(self, images):
        if len(images) > self.most:
            raise torch.OutOfMemoryError(f"{len(images)} images are too many")
        self.batch_sizes.append(len(images))
        return super().forward(images)


def fit_greedy(most, **changes):
    dataset, pixels = make()
    torch.manual_seed(3)
    module = Greedy(2, most)
    return module, train(dataset, pixels, replace(SHORT, **changes), module=module)


def test_a_batch_that_does_not_fit_is_halved_and_gives_the_same_weights():
    whole, actual = fit_greedy(1000)
    parts, again = fit_greedy(5)
    assert actual.deviations == () and again.deviations == (Deviation("batch-parts", (16, 4)),)
    assert set(parts.batch_sizes) == {4} and max(whole.batch_sizes) > 16
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert again.history[-1]["loss"] == pytest.approx(actual.history[-1]["loss"], rel=1e-4)


def test_parts_of_unequal_size_weight_all_images_equally():
    whole, _ = fit_greedy(1000, batch_size=11)
    parts, actual = fit_greedy(4, batch_size=11)
    assert actual.deviations == (Deviation("batch-parts", (11, 3)),)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_single_image_that_does_not_fit_ends_the_run():
    with pytest.raises(torch.OutOfMemoryError, match="1 images are too many"):
        fit_greedy(0)


def test_prediction_halves_its_batches_when_memory_runs_out():
    dataset, pixels = make()
    torch.manual_seed(3)
    module = Greedy(2, 1000)
    expected = predict(module, dataset, pixels, "test", precision="fp32").probabilities
    module.most = 3
    actual = predict(module, dataset, pixels, "test", precision="fp32").probabilities
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert max(module.batch_sizes[1:]) <= 3
