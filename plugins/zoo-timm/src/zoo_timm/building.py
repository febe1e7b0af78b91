"""Build a timm module with its original head, and load its weights strictly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import BuildRequest, WeightsError, ZooError, load_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

RIGHT_FILE = "use a file made for this architecture, or --weights none"


def build_model(name: str, resizable: bool, request: BuildRequest) -> nn.Module:
    """Build the architecture as pretrained; the core then replaces its head and first convolution.

    Weights without a head (CLIP, DINOv2, masked autoencoders) get a new one where timm puts it.
    """
    size = {"img_size": request.image_size} if resizable else {}
    module = create_module(f"{name}.{request.tag}" if request.tag else name, request.weights, size)
    if module.num_classes == 0:
        module.reset_classifier(request.num_outputs)  # type: ignore[operator]
    return module


def create_module(
    name: str,
    weights: Path | None,
    size: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Create a timm module, with the tensors of a local file if there is one; nothing is downloaded.

    timm's own loader is used because it converts old parameter names and other image sizes.
    `config` replaces timm's pretrained configuration, `options` are further arguments of the architecture.
    """
    import timm

    arguments = {**(options or {}), **({"pretrained_cfg": dict(config)} if config else {})}
    if not timm.is_model(name.partition(".")[0]):
        raise ZooError(
            f"timm {timm.__version__} has no architecture {name!r}", fix="pip install --upgrade timm", code="plugin"
        )
    if weights is None:
        return timm.create_model(name, pretrained=False, **arguments, **size)
    if not weights.is_file():
        raise WeightsError("no such file", subject=weights, fix=RIGHT_FILE)
    if not timm.models.is_model_pretrained(name.partition(".")[0]):
        # timm has no weights to convert here; with `pretrained` some hybrids would download those of their backbone
        module = timm.create_model(name, pretrained=False, **arguments, **size)
        load_weights(module, weights)
        return module
    overlay = {"file": str(weights), "source": None, "custom_load": False}
    try:
        with missing_keys() as missing:
            module = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **arguments, **size)
    except Exception as error:  # timm's converters fail in many ways on a file of another architecture
        load_weights(timm.create_model(name, pretrained=False, **arguments), weights)  # names the wrong keys
        reason = str(error).partition("\n")[0]
        raise WeightsError(
            f"does not fit {name} {dict(size)}: {reason}", subject=weights, fix=RIGHT_FILE, code="weights-misfit"
        ) from error
    refuse_missing(weights, module, [key for line in missing for key in line])
    return module


@contextmanager
def missing_keys() -> Iterator[list[list[str]]]:
    """Collect the missing keys that timm only logs where it loads leniently (DLA, DaViT, SigLIP)."""
    logger = logging.getLogger("timm.models._builder")
    keys: list[list[str]] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            start, _, rest = record.getMessage().partition(" (")
            if start == "Missing keys":
                keys.append(rest.partition(")")[0].split(", "))

    collector, level, propagate = Collector(logging.INFO), logger.level, logger.propagate
    logger.addHandler(collector)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield keys
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
        logger.propagate = propagate


def refuse_missing(path: Path, module: nn.Module, missing: list[str]) -> None:
    """Raise for a parameter that stayed random, unless it belongs to the head of weights that have none."""
    if module.num_classes == 0:
        missing = [key for key in missing if not key.startswith("head.")]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise WeightsError(
            f"does not fit {type(module).__name__}: " + "; ".join(f"missing {key}" for key in missing[:3]) + more,
            subject=path,
            fix=RIGHT_FILE,
            code="weights-misfit",
        )


def features(module: nn.Module, images: Tensor) -> Tensor:
    """Input of the classifier: pooled and normalized features (N, D)."""
    pooled: Tensor = module.forward_head(module.forward_features(images), pre_logits=True)  # type: ignore[operator]
    return pooled


def layer_groups(module: nn.Module) -> list[list[nn.Parameter]]:
    """Group the trainable parameters from stem to head as timm's layer-wise decay does; the heads are last."""
    named = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    heads = module.pretrained_cfg.get("classifier") or ()  # type: ignore[operator]
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    groups = [[name for name in group if name in named] for group in group_names(module)]
    groups = [group for group in groups if group]
    if not all(name in groups[-1] for name in named if name.startswith(prefixes)):
        groups = [[name for name in group if not name.startswith(prefixes)] for group in groups]
        groups.append([name for name in named if name.startswith(prefixes)])
    return [[named[name] for name in group] for group in groups if group]


def group_names(module: nn.Module) -> list[list[str]]:
    """Parameter names by layer, as timm's matcher groups them; one group per block if there is no matcher."""
    from timm.models import group_parameters

    if hasattr(module, "group_matcher"):
        order = group_parameters(module, module.group_matcher(coarse=False))  # type: ignore[operator]
        return [order[at] for at in sorted(order)]
    blocks: dict[str, list[str]] = {}
    for name, _ in module.named_parameters():
        blocks.setdefault(".".join(name.split(".")[:2]), []).append(name)  # stem.conv, stages.0, head.fc
    return list(blocks.values())
