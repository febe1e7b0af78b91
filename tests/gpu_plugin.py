"""A plugin for test_gpu_bench.py: small networks whose training step a GPU can capture and replay, and others.

`test_gpu_bench.py` installs it as the distribution zoo-gpu-tests. The networks differ only in their middle layer, which
is a function below: (layer, images) -> images.
"""

import os
import random
from functools import partial
from pathlib import Path

from zoo import ModelSpec, hookimpl

CHANNELS = 16


def build(request, middle):
    from collections import OrderedDict

    import torch
    from torch import nn

    class Middle(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.calls = 0
            self.norms = [norm]  # in a list, so that it is no submodule
            self.register_buffer("kept", torch.zeros(64))

        def forward(self, images):
            return middle(self, images)

    norm = nn.BatchNorm2d(CHANNELS)
    layers = OrderedDict(
        conv=nn.Conv2d(3, CHANNELS, 3, stride=2, padding=1),
        norm=norm,
        act=nn.ReLU(),
        middle=Middle(norm),
        last=nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1),
        pool=nn.AdaptiveAvgPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(4 * CHANNELS, 10),
    )
    return nn.Sequential(layers)


# --- ordinary --------------------------------------------------------------------------------------------------------
def do_nothing(layer, images):
    return images


def drop_out(layer, images):
    """Apply dropout, and count in a buffer how often each of 64 numbers was kept."""
    import torch
    from torch.nn import functional

    if layer.training:
        with torch.no_grad():
            layer.kept += functional.dropout(torch.ones_like(layer.kept), 0.5) > 0
    return functional.dropout(images, 0.3, layer.training)


def announce_rounds(layer, images):
    """Apply dropout; create the file $ROUND_FILE when a network in training predicts."""
    if not layer.training and "ROUND_FILE" in os.environ and int(layer.norms[0].num_batches_tracked) > 0:
        Path(os.environ["ROUND_FILE"]).touch()
    return drop_out(layer, images)


def build_with_drop_path(request):
    """A small transformer: cuDNN needs seconds for the first depthwise convolution of a process."""
    import timm

    return timm.create_model("test_vit", img_size=request.image_size, drop_path_rate=0.5)


# --- impossible to capture --------------------------------------------------------------------------------------------
def read_item(layer, images):
    return images / 2 if images.abs().mean().item() > 0.5 else images


def count_calls(layer, images):
    if layer.training:
        layer.calls += 1
    return images * (1 + 1 / (10 + layer.calls))


def draw_in_python(layer, images):
    return images / 2 if layer.training and random.random() < 0.5 else images


def build_with_hook(request):
    """A network whose forward hook writes a line to the file $HOOK_FILE for each training forward."""
    module = build(request, do_nothing)

    def note(module, images, logits):
        if module.training:
            with open(os.environ["HOOK_FILE"], "a") as stream:
                stream.write(f"{len(logits)}\n")

    module.register_forward_hook(note)
    return module


# --- failures --------------------------------------------------------------------------------------------------------
def fail_at_the_fifth(layer, images):
    if layer.training:
        layer.calls += 1
        if layer.calls == 5:
            raise ValueError("the fifth step is too hard")
    return images


def need_a_petabyte(layer, images):
    """Run out of memory with more than eight images."""
    import torch

    if len(images) > 8:
        if images.device.type == "cpu":  # there torch raises a plain RuntimeError
            raise torch.OutOfMemoryError("cannot have a petabyte")
        torch.empty(1 << 50, dtype=torch.uint8, device=images.device)
    return images


MIDDLES = {
    "ordinary": do_nothing,
    "drops_out": drop_out,
    "announces": announce_rounds,
    "reads_item": read_item,
    "counts": count_calls,
    "draws": draw_in_python,
    "fails_midway": fail_at_the_fifth,
    "hungry": need_a_petabyte,
}


@hookimpl
def register_models():
    head = {"classifier": "fc", "first_conv": "conv"}
    return [
        *(ModelSpec(name=name, build=partial(build, middle=middle), **head) for name, middle in MIDDLES.items()),
        ModelSpec(name="hooked", build=build_with_hook, **head),
        ModelSpec(name="drops_paths", build=build_with_drop_path, classifier="head", first_conv="patch_embed.proj"),
    ]
