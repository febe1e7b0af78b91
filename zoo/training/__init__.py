"""From a built module, a dataset and a protocol to a fitted module, which goes on where it was interrupted."""

from zoo.training.check import check_device
from zoo.training.checkpoints import Checkpoints, find_checkpoints
from zoo.training.fitting import Fitted, fit, plan_steps, reopen
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
