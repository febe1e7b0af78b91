"""A plugin for the tests: networks whose runs take a second, and one network or dataset for each kind of failure.

`conftest.py` installs it as the distribution zoo-tiny, with the metadata of an installer.
"""

import ctypes
import os
import subprocess
import sys
import time
from functools import partial

from zoo import BINARY, DatasetSpec, ModelSpec, Samples, Weights, hookimpl, load_weights

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
    """A network that calls `fail` in its first training step."""
    module = build_tiny(request)

    def hook(module, images, logits):
        if module.training:
            return fail(logits)
        return logits

    module.register_forward_hook(hook)
    return module


def build_relative(request):
    """A network that divides each image by its contrast, so that flat images have no finite output."""
    module = build_tiny(request)

    def hook(module, inputs):
        (images,) = inputs
        return images / (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))

    module.register_forward_pre_hook(hook)
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
    """Start a child process, write both process ids to $TINY_PIDS, and hang."""
    apart = os.environ.get("TINY_APART") == "1"
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=apart)
    if os.environ.get("TINY_PIDS"):
        with open(os.environ["TINY_PIDS"], "a") as stream:
            stream.write(f"{os.getpid()}\n{child.pid}\n")
    time.sleep(600)


def run_out_of_memory(logits):
    raise MemoryError("cannot have 1 EB")


def nap(logits):
    time.sleep(0.1)
    return logits


def sleep(logits):
    """Sleep a minute per step; SIGTERM does not shorten it, because training saves its state after the step."""
    with open(os.environ["TINY_PIDS"], "a") as stream:
        stream.write(f"{os.getpid()}\n")
    time.sleep(60)
    return logits


def shout(logits):
    print("{not json}")
    os.write(1, b"{not json either}\n")
    return logits


trained = []


def note(logits):
    """Write the process id to $TINY_TRAININGS, once per process that trains."""
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
    "sleeps": sleep,
}
HEAD = {"classifier": "fc", "first_conv": "conv"}


@hookimpl
def register_models():
    return [
        ModelSpec(name="tiny_cnn", title="five layers", build=build_tiny, imports=("zoo_tiny",), **HEAD),
        ModelSpec(name="tiny_pretrained", build=build_tiny, weights=(Weights(tag="demo"),), **HEAD),
        ModelSpec(name="wrong_shape", build=partial(build_tiny, outputs=3), first_conv="conv"),
        ModelSpec(name="relative", build=build_relative, **HEAD),
        ModelSpec(name="unbuildable", build=raise_at_build, **HEAD),
        ModelSpec(name="binary_only", build=build_tiny, tasks=("binary",), **HEAD),
        *(ModelSpec(name=name, build=partial(build_failing, fail=fail), **HEAD) for name, fail in FAILURES.items()),
    ]


def fail_to_open(request):
    print("{not json}")
    raise KeyError("column 7")


def leave(request):
    sys.exit(0)


def leave_at_once(request):
    os._exit(0)


def interrupt(request):
    raise KeyboardInterrupt


def draw_samples(request, spoil):
    """Forty noise images of two classes; `spoil` changes the targets and one image."""
    import numpy as np
    import pandas as pd

    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    table = pd.DataFrame({"sample_id": [f"s{row:02}" for row in range(40)], "image": range(40)})
    targets, seventh = spoil(np.arange(40) % 2, images[7])
    return Samples(table=table, targets=targets, read=lambda row: seventh() if row == 7 else images[row])


def mislabel(targets, image):
    targets[7] = 2
    return targets, lambda: image


def tear(targets, image):
    def read():
        raise OSError("torn")

    return targets, read


def as_color(image):
    import numpy as np

    return np.stack([image, image[::-1], image.T], axis=2)


SPOILT = {
    "mislabeled": mislabel,
    "unreadable": tear,
    "colorful": lambda targets, image: (targets, lambda: as_color(image)),
    "flat": lambda targets, image: (targets, lambda: image[0]),
    "empty": lambda targets, image: (targets, lambda: image[:0]),
    "deeper": lambda targets, image: (targets, lambda: image.astype("uint16")),
    "wordy": lambda targets, image: (targets, lambda: "seven"),
    "quitting": lambda targets, image: (targets, sys.exit),
}


@hookimpl
def register_datasets():
    card = {"task": BINARY, "labels": ("a", "b"), "channels": 1}
    return [
        DatasetSpec(name="unopenable", **card, samples=fail_to_open),
        DatasetSpec(name="leaves", **card, samples=leave),
        DatasetSpec(name="leaves_at_once", **card, samples=leave_at_once),
        DatasetSpec(name="interrupts", **card, samples=interrupt),
        *(DatasetSpec(name=name, **card, samples=partial(draw_samples, spoil=spoil)) for name, spoil in SPOILT.items()),
    ]
