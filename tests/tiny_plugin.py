"""A plugin for the tests: networks so small that a run takes a second, and one for each way in which a run can fail.

`conftest.py` installs it, with metadata as an installer writes them, as the distribution zoo-tiny.
"""

import ctypes
import os
import subprocess
import sys
import time
from functools import partial

from zoo import BINARY, DatasetSpec, ModelSpec, Weights, hookimpl, load_weights

CHANNELS = 8


def build_tiny(request, outputs=None):
    from collections import OrderedDict

    from torch import nn

    module = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1),
            act=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * CHANNELS, outputs or 10),
        )
    )
    if request.weights:
        load_weights(module, request.weights)
    return module


def build_failing(request, fail):
    """A network that does something terrible in its first training step."""
    module = build_tiny(request)

    def hook(module, images, logits):
        if module.training:
            return fail(logits)
        return logits

    module.register_forward_hook(hook)
    return module


def raise_value_error(logits):
    raise ValueError("no such layer")


def give_nan(logits):
    return logits * float("nan")


def exit_at_once(logits):
    print("last words of a network", file=sys.stderr, flush=True)
    os._exit(7)


def exit_politely(logits):
    sys.exit(0)


def segfault(logits):
    ctypes.string_at(0)


def hang(logits):
    """Start a child of its own, tell whoever asks about it, and never come back."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    if os.environ.get("TINY_PIDS"):
        with open(os.environ["TINY_PIDS"], "a") as stream:
            stream.write(f"{os.getpid()}\n{child.pid}\n")
    time.sleep(600)


def run_out_of_memory(logits):
    raise MemoryError("cannot have 1 EB")


def nap(logits):
    time.sleep(0.1)
    return logits


def shout(logits):
    print("{not json}")
    os.write(1, b"{not json either}\n")
    return logits


trained = []


def note(logits):
    """Write down, once in a process, that a network is trained here."""
    if not trained:
        trained.append(True)
        with open(os.environ["TINY_TRAININGS"], "a") as stream:
            stream.write(f"{os.getpid()}\n")
    return logits


def raise_at_build(request):
    raise ValueError("cannot be built")


FAILURES = {
    "raises": raise_value_error,
    "gives_nan": give_nan,
    "exits": exit_at_once,
    "exits_politely": exit_politely,
    "segfaults": segfault,
    "hangs": hang,
    "eats_memory": run_out_of_memory,
    "naps": nap,
    "noted": note,
    "shouts": shout,
}
HEAD = {"classifier": "fc", "first_conv": "conv"}


@hookimpl
def register_models():
    return [
        ModelSpec(name="tiny_cnn", title="five layers", build=build_tiny, imports=("zoo_tiny",), **HEAD),
        ModelSpec(name="tiny_pretrained", build=build_tiny, weights=(Weights(tag="demo"),), **HEAD),
        ModelSpec(name="wrong_shape", build=partial(build_tiny, outputs=3), first_conv="conv"),
        ModelSpec(name="unbuildable", build=raise_at_build, **HEAD),
        ModelSpec(name="binary_only", build=build_tiny, tasks=("binary",), **HEAD),
        *(ModelSpec(name=name, build=partial(build_failing, fail=fail), **HEAD) for name, fail in FAILURES.items()),
    ]


def fail_to_open(request):
    print("{not json}")
    raise KeyError("column 7")


@hookimpl
def register_datasets():
    return [DatasetSpec(name="unopenable", task=BINARY, labels=("a", "b"), samples=fail_to_open)]
