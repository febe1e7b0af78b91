"""Export a trained model as ONNX, for torch.export, or as safetensors with a loader, and compare it with torch."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import RunError, UsageError, ZooError, message_of
from zoo.results.store import REFERENCE_FILE, WEIGHTS_FILE
from zoo.system.files import folder_written_whole
from zoo.trained.card import CARD_FILE, NOTICE, ModelCard, card_bytes, file_metadata, shareable_card, transform_texts
from zoo.trained.loader import LOADER_FILE, write_loader
from zoo.trained.modules import load_plain, rebuild
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import Rules, apply_rules, find_rules, make_answers

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCHES = (1, 2, 5)
TOLERANCE = 1e-3  # of a logit
EXTRAS = {"onnx": ("onnx", "onnxscript", "onnxruntime")}
OUTPUT_FILES = {"onnx": "model.onnx", "torch-export": "model.pt2"}  # targets that are one graph
Respond = Callable[[Array], Array]  # levels float32 (B, C, H, W) -> logits (B, outputs)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How the exported model's answers differ from torch's on images of val."""

    target: str
    images: int
    batches: tuple[int, ...]
    largest_difference: float  # of a logit
    flipped_decisions: int
    tolerance: float = TOLERANCE

    @property
    def ok(self) -> bool:
        return self.largest_difference <= self.tolerance and not self.flipped_decisions


def export_model(model: OpenModel, target: str, output: Path, texts: Mapping[str, str] | None = None) -> Parity:
    """Write a folder with the exported model, its card, `parity.json` and `texts`; nothing is written if they disagree.

    The graph takes stored levels, float32 (B, C, size, size), and normalizes them itself; resizing and padding stay
    outside, as libraries round them differently. Raises UsageError if a library is missing, RunError for a difference
    above `TOLERANCE` or a flipped decision.
    """
    missing = [name for name in EXTRAS.get(target, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--to {target} needs {', '.join(missing)}", fix="pip install 'zoo-bench[onnx]'", code="extra-missing"
        )
    if output.exists():
        raise UsageError(f"{output}: exists already", fix="name another folder, or remove it")
    card = model.card
    if card.inputs:
        raise UsageError(
            f"{card.name} takes metadata beside the image, which exported folders do not",
            fix="use `zoo predict` with the results folder",
            code="export",
        )
    if target in OUTPUT_FILES and card.layout != "plain":
        raise UsageError(
            f"{card.name}: a head of method {card.method} cannot be exported to {target}",
            fix="use --to safetensors, or export a fine-tuned model or a linear probe",
            code="export",
        )
    with folder_written_whole(output) as folder:
        respond = EXPORTERS[target](model, folder)
        parity = compare_with_torch(model, respond, target)
        if not parity.ok:
            raise RunError(
                f"{card.name}: {target} differs from torch by {parity.largest_difference:.2g} of a logit, and flips "
                f"{parity.flipped_decisions} of {parity.images} decisions",
                fix="use another target; this one was not written",
                code="parity",
            )
        (folder / CARD_FILE).write_bytes(card_bytes(shareable_card(card)))
        document = {
            **asdict(parity),
            "input": describe_input(card),
            "answers": card.task_kind.answers.formula,
            "loader": (folder / LOADER_FILE).exists(),
            "notice": NOTICE,
        }
        (folder / "parity.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        for name, text in (texts or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
    return parity


def describe_input(card: ModelCard) -> dict[str, Any]:
    """How a file becomes the graph's input."""
    if card.volumes:
        return describe_voxels(card, card.volumes)
    patch = patch_of(card)
    if patch:
        return {
            "shape": ["batch", card.channels, *patch],
            "dtype": "float32",
            "values": describe_levels(card),
            "preprocessing": transform_texts(card),
            "resizing": f"the longer side to {card.image_size} pixels, antialiased bilinear (Pillow)",
            "tiles": TILES,
        }
    return {
        "shape": ["batch", card.channels, card.image_size, card.image_size],
        "dtype": "float32",
        "values": describe_levels(card),
        "preprocessing": transform_texts(card),  # before resizing
        "resizing": "the longer side to the size, antialiased bilinear (Pillow), centered, padded with 0",
    }


def describe_levels(card: ModelCard) -> str:
    return f"levels as read, {card.seen['dtype']}; the graph maps {list(card.intensity)} to 0..1 and normalizes"


TILES = "patches at most half a patch apart; logits are averaged with Gaussian weights, SD 1/8 of a side"


def describe_voxels(card: ModelCard, volumes: Mapping[str, Any]) -> dict[str, Any]:
    """How a volume becomes the graph's input: patch by patch for masks, else as a cube."""
    values = "each channel minus its mean over the whole volume, over its standard deviation"
    if volumes["window"]:
        values = f"values of the file; the graph maps {volumes['window']} to -2 and 2, and clips"
    described = {
        "shape": ["batch", card.channels, *volumes["patch"]],
        "dtype": "float32",
        "values": values,
        "axes": "right to left, back to front, foot to head, as RAS+",
    }
    if not card.task_kind.targets.spatial:
        size = f"of {volumes['spacing'][0]:g} mm" if volumes["spacing"] else "of which the longest side has all"
        return described | {
            "spacing": f"equal voxels {size}: means of voxels along axes that become shorter, trilinear along others",
            "padding": "with the mean of the volume, evenly at both ends of each axis; what is beyond is cut off",
        }
    return described | {
        "spacing": volumes["spacing"] and [*volumes["spacing"], "mm, trilinear"],
        "padding": "with the mean of the volume, at the end of each axis",
        "tiles": TILES,
    }


def patch_of(card: ModelCard) -> tuple[int, ...]:
    """The sides of the graph's input if it is a part of an image or of a volume; () if it is a whole image."""
    patch = tuple(card.volumes["patch"] if card.volumes else card.protocol_fields.get("patch", ()))
    return patch * 2 if len(patch) == 1 else patch


# --- parity ----------------------------------------------------------------------------------------------------------
def compare_with_torch(model: OpenModel, respond: Respond, target: str) -> Parity:
    """Compare an exported model with torch in float32, on val's images in batches of 1, 2 and 5."""
    levels = levels_of(model)
    reference = torch_responder(graph_of(model))
    rules, largest, flipped = find_rules([model]), 0.0, 0
    for size in BATCHES:
        for start in range(0, len(levels), size):
            batch = levels[start : start + size]
            expected, got = reference(batch), respond(batch)
            if not (np.isfinite(expected).all() and np.isfinite(got).all()):
                raise RunError(
                    f"{model.card.name}: the output for an image of val is not finite in torch or in {target}",
                    fix="use another target; this one was not written",
                    code="parity",
                )
            largest = max(largest, float(np.abs(expected - got).max()))
            flipped += count_flips(model.card, expected, got, rules)
    return Parity(
        target=target, images=len(levels), batches=BATCHES, largest_difference=largest, flipped_decisions=flipped
    )


def count_flips(card: ModelCard, expected: Array, got: Array, rules: Rules) -> int:
    """The decisions that differ between two arrays of logits (B, outputs).

    Of masks (B, outputs, ...), the pixels whose label differs although the largest logit is so by over `TOLERANCE`.
    """
    if card.task_kind.targets.spatial:
        second, first = np.sort(expected, axis=1)[:, -2:].swapaxes(0, 1)
        return int(((expected.argmax(axis=1) != got.argmax(axis=1)) & (first - second > TOLERANCE)).sum())
    decided = [
        [answer.decision for answer in apply_rules(card, rules, make_answers(card, [logits]))]
        for logits in (expected, got)
    ]
    return sum(not np.array_equal(a, b) for a, b in zip(*decided, strict=True) if a is not None)


def levels_of(model: OpenModel) -> Array:
    """The kept images of val as stored levels, float32 (N, C, H, W). Raises UsageError if there are none."""
    if model.images is None or not len(model.images):
        raise UsageError(
            f"{model.folder}: has no images of val to compare with", fix="export the run's own folder", code="no-images"
        )
    levels: Array = np.ascontiguousarray(np.moveaxis(model.images, -1, 1)).astype(np.float32)
    for axis, length in enumerate(patch_of(model.card), start=2):  # of an image, the part in the middle
        start = max(0, (levels.shape[axis] - length) // 2)
        levels = levels.take(range(start, min(start + length, levels.shape[axis])), axis=axis)
    return levels


def torch_responder(graph: Callable[[Tensor], Tensor]) -> Respond:
    import torch

    def respond(levels: Array) -> Array:
        with torch.inference_mode():
            logits: Array = graph(torch.from_numpy(levels)).double().numpy()
        return logits

    return respond


def graph_of(model: OpenModel, folder: Path | None = None) -> nn.Module:
    """The module with its normalization in front, in float32 on the CPU: stored levels to logits.

    Its weights are read from `folder`, by default that of the run.
    """
    import torch
    from torch import nn

    card, weights = model.card, (folder or model.folder) / WEIGHTS_FILE

    class Graph(nn.Module):
        mean: Tensor
        std: Tensor

        def __init__(self) -> None:
            super().__init__()
            plain = card.layout == "plain"
            self.module = (
                load_plain(card, weights, model.spec) if plain else rebuild(card, weights, model.spec, model.estimator)
            )
            shape = (1, -1, *(1,) * (3 if card.volumes else 2))
            self.register_buffer("mean", torch.tensor(card.mean).reshape(shape), persistent=False)
            self.register_buffer("std", torch.tensor(card.std).reshape(shape), persistent=False)

        def forward(self, levels: Tensor) -> Tensor:
            low, high = card.intensity
            images = ((levels - low) / (high - low) - self.mean) / self.std
            if card.volumes and card.volumes["window"]:
                images = images.clamp(-2, 2)
            return self.module(images)  # type: ignore[no-any-return]

    return Graph().eval()


@contextmanager
def capture_failure(card: ModelCard, what: str) -> Iterator[None]:
    """Turn the exception of an exporter into one line."""
    try:
        with warnings.catch_warnings(action="ignore"), quiet_logs():
            yield
    except ZooError:
        raise
    except Exception as error:  # exporters raise many types for what they do not support
        cause: BaseException = error
        while cause.__cause__:  # the outer ones say at which step
            cause = cause.__cause__
        reason = re.sub(r"\x1b\[\d*m", "", (message_of(cause).strip().splitlines() or [""])[0])
        raise RunError(
            f"{card.name}: {what} cannot express this model: {type(cause).__name__}: {reason}".rstrip(": "),
            fix="use --to safetensors",
            code="export",
        ) from error


@contextmanager
def quiet_logs() -> Iterator[None]:
    import logging

    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(previous)


# --- targets ---------------------------------------------------------------------------------------------------------
def example(model: OpenModel) -> tuple[tuple[Tensor], dict[str, Any]]:
    """Two images and the dynamic batch axis: a batch of one would be taken as a constant."""
    import torch

    levels = levels_of(model)
    batch = np.concatenate([levels, levels])[:2]
    return (torch.from_numpy(batch),), {"levels": {0: torch.export.Dim("batch")}}


def write_onnx(model: OpenModel, folder: Path) -> Respond:
    import onnxruntime
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    path, (inputs, dynamic) = folder / OUTPUT_FILES["onnx"], example(model)
    # MATH: the exporter cannot decompose the fused attention of windows (maxvit) for batches of any size
    with capture_failure(model.card, "ONNX"), sdpa_kernel(SDPBackend.MATH):
        program = torch.onnx.export(
            graph_of(model),
            inputs,
            dynamo=True,
            input_names=["levels"],
            output_names=["logits"],
            dynamic_shapes=dynamic,
            verbose=False,
        )
        assert program is not None
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # has paths of this machine
        program.model.doc_string = NOTICE
        program.model.metadata_props.update(file_metadata(model.card))
        program.save(path, external_data=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda levels: np.asarray(session.run(["logits"], {"levels": levels})[0], dtype=np.float64)


def write_torch_export(model: OpenModel, folder: Path) -> Respond:
    import torch

    path, (inputs, dynamic) = folder / OUTPUT_FILES["torch-export"], example(model)
    with capture_failure(model.card, "torch.export"):
        program = torch.export.export(graph_of(model), inputs, dynamic_shapes=dynamic)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # has paths of this machine
        torch.export.save(program, path, extra_files={"metadata.json": json.dumps(file_metadata(model.card))})
        loaded = torch.export.load(path).module()
    return torch_responder(loaded)


def write_safetensors(model: OpenModel, folder: Path) -> Respond:
    """The weights and features of val, and `load.py` if plain library code gives the same logits from these weights."""
    shutil.copyfile(model.folder / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    save_reference(model, folder)
    respond = torch_responder(graph_of(model, folder))
    has_loader = model.card.layout == "plain" and not model.card.volumes
    logits = write_loader(model.card, model.spec, folder) if has_loader else None
    if logits is None:
        return respond
    loaded, levels = torch_responder(logits), levels_of(model)
    if np.abs(loaded(levels) - respond(levels)).max() <= TOLERANCE:
        return loaded
    (folder / LOADER_FILE).unlink()
    return respond


def save_reference(model: OpenModel, folder: Path) -> None:
    """Copy the features of val, without its images."""
    if model.reference is None:
        return
    from safetensors.numpy import save_file

    features = {"features": model.reference.features.astype(np.float16)}
    save_file(features, folder / REFERENCE_FILE, file_metadata(model.card))


EXPORTERS: dict[str, Callable[[OpenModel, Path], Respond]] = {
    "safetensors": write_safetensors,
    "hub-folder": write_safetensors,
    "onnx": write_onnx,
    "torch-export": write_torch_export,
}
