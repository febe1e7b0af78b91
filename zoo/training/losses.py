"""The losses of the core, and the loss of a training."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from zoo.specs.choice import Choice
from zoo.specs.loss import Loss, LossRequest, LossSpec
from zoo.specs.protocol import Protocol
from zoo.tasks.kinds import CORE_TASKS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from zoo.data.dataset import DecodedFold

SMALLEST_ERROR = 1e-7  # of 1 - P(target): a power of 0 has no finite gradient
WITH_LIKELIHOOD = tuple(task.name for task in CORE_TASKS if task.head.likelihood)


def mean_target_loss(logits: Tensor, targets: Tensor, *, request: LossRequest, exponent: float = 0.0) -> Tensor:
    """Weighted mean of -(1 - P)^exponent * log P over the known targets of a batch.

    P is the probability of the target; label smoothing changes only the logarithm.
    """
    head, smoothing = request.task.head, request.label_smoothing
    losses = head.target_losses(logits, targets, smoothing)
    if exponent:
        unsmoothed = head.target_losses(logits, targets) if smoothing else losses
        losses = losses * (-(-unsmoothed).expm1()).clamp(min=SMALLEST_ERROR) ** exponent
    weights = head.target_weights(targets, request.class_weights).expand_as(losses)
    return (losses * weights).sum() / weights.sum().clamp(min=SMALLEST_ERROR)


def build_task_loss(request: LossRequest) -> Loss:
    """The loss of the task; with class weights or label smoothing, the same from its parts."""
    if request.class_weights is None and not request.label_smoothing:
        return request.task.head.loss
    return partial(mean_target_loss, request=request)


def build_focal_loss(request: LossRequest) -> Loss:
    return partial(mean_target_loss, request=request, exponent=request.options["gamma"])


TASK_LOSS = LossSpec(
    name="task",
    build=build_task_loss,
    title="the task's own: cross-entropy, or squared error of numbers; of masks, cross-entropy + Dice",
    class_weights=True,
    label_smoothing=True,
)
FOCAL = LossSpec(
    name="focal",
    build=build_focal_loss,
    title="cross-entropy times (1 - P)^gamma: less of images that are already right",
    citation="Lin et al. 2017, Focal loss for dense object detection, ICCV, arXiv:1708.02002",
    options={"gamma": 2.0},
    bounds={"gamma": (0.0, math.inf)},
    tasks=WITH_LIKELIHOOD,
    class_weights=True,
    label_smoothing=True,
)
LOSSES = (TASK_LOSS, FOCAL)


def open_loss(choice: Choice, dataset: DecodedFold, protocol: Protocol, device: str) -> Loss:
    """The loss of a training, on its device; class weights are measured on train."""
    import torch

    weights = None
    if protocol.class_weights == "inverse":
        train = dataset.targets[dataset.index("train")]
        frequencies = dataset.task.targets.inverse_frequencies(train, len(dataset.labels))
        assert frequencies is not None  # `check_choices` refuses tasks without labels
        weights = torch.from_numpy(frequencies).float().to(device)
    request = LossRequest(
        task=dataset.task,
        num_labels=len(dataset.labels),
        device=device,
        options=choice.options,
        class_weights=weights,
        label_smoothing=protocol.label_smoothing,
    )
    loss: Loss = choice.spec.build(request)
    return loss


def loss_of_mixed(loss: Loss, logits: Tensor, targets: Sequence[Tensor]) -> Tensor:
    """The loss of a batch: of its targets or, of mixed images, of the targets of both by the shares.

    `targets` is (targets,) or (targets, those of the partners, share of the first). The share is one number per batch,
    repeated (B,) so that parts of a batch have it too. The losses are mixed rather than the targets, as in the code of
    Zhang et al. (2018): for cross-entropy both are the same.
    """
    own, *others = targets
    if not others:
        return loss(logits, own)
    partners, shares = others
    return shares[0] * loss(logits, own) + (1 - shares[0]) * loss(logits, partners)
