"""Train a module on a dataset by a protocol, and go on where a training was interrupted."""

from zoo.training.batches import plan_steps
from zoo.training.check import check_device
from zoo.training.checkpoints import Checkpoints, find_checkpoints
from zoo.training.fitting import Fitted, fit, reopen
from zoo.training.probes import solve_linear

__all__ = [
    "Checkpoints",
    "Fitted",
    "check_device",
    "find_checkpoints",
    "fit",
    "plan_steps",
    "reopen",
    "solve_linear",
]
