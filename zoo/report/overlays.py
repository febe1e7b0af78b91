"""Draw a map beside its image, in colors that color-blind readers can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.images.placement import Placement
from zoo.trained.card import NOTICE

if TYPE_CHECKING:
    from PIL.Image import Image

# Inferno of matplotlib: rises evenly in lightness, also for color-blind readers and in print (Nuñez et al. 2018).
COLORS = (
    (0, 0, 4),
    (32, 12, 74),
    (87, 16, 110),
    (138, 34, 106),
    (188, 55, 84),
    (228, 90, 49),
    (249, 142, 9),
    (249, 203, 53),
    (252, 255, 164),
)
OPACITY = 0.7  # of the color where the map is highest; 0 where it is 0, so that the image stays visible
PANEL_SIDE = 320  # pixels of the longer side of a panel
PANEL_GAP = 8
LEVELS = 65535  # of a stored map: 1


def shown_part(values: Array, placement: Placement) -> Array:
    """The part of an array (size, size, ...) in which the image lies, without the padding."""
    (top, left), (height, width) = placement.offset, placement.resized
    part: Array = values[top : top + height, left : left + width]
    return part


def as_shares(values: Array) -> Array:
    """A map as shares of its maximum, 0 to 1; zeros stay zeros."""
    peak = float(values.max())
    shares: Array = values / peak if peak > 0 else np.zeros_like(values)
    return shares


def gray_or_color(square: Array, intensity: tuple[float, float]) -> Image:
    """A square (H, W, channels) as an 8-bit image; `intensity` are the levels shown as black and white."""
    from PIL import Image

    low, high = intensity
    shown = np.rint((square.astype(np.float32) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)
    return Image.fromarray(shown[..., 0] if shown.shape[2] == 1 else shown).convert("RGB")


def lay_over(image: Image, shares: Array) -> Image:
    """The image with the colors of a map, shares (H, W) of its maximum, enlarged to the image."""
    from PIL import Image

    enlarged = np.asarray(
        Image.fromarray(shares.astype(np.float32)).resize(image.size, Image.Resampling.BILINEAR), dtype=np.float64
    )
    steps = np.linspace(0, 1, len(COLORS))
    color = np.stack([np.interp(enlarged, steps, np.array(COLORS)[:, channel]) for channel in range(3)], axis=2)
    opacity = OPACITY * enlarged[..., None]
    mixed = np.asarray(image) * (1 - opacity) + color * opacity
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def draw_panels(square: Array, values: Array, placement: Placement, intensity: tuple[float, float]) -> Image:
    """The image and, at its right, the image under its map."""
    from PIL import Image

    image = fit_to_panel(gray_or_color(shown_part(square, placement), intensity))
    sheet = Image.new("RGB", (2 * image.width + PANEL_GAP, image.height), (255, 255, 255))
    sheet.paste(image, (0, 0))
    sheet.paste(lay_over(image, as_shares(shown_part(values, placement))), (image.width + PANEL_GAP, 0))
    return sheet


def fit_to_panel(image: Image, resampling: int | None = None, side: int = PANEL_SIDE) -> Image:
    """The image with a longer side of this length, resized bicubic by default."""
    zoom = side / max(image.size)
    return image.resize(tuple(max(1, round(side * zoom)) for side in image.size), resampling)  # type: ignore[arg-type]


def save_map(shares: Array, path: Path) -> None:
    """Write a map (H, W) of 0 to 1 as a gray PNG of 16 bits; 1 is 65535."""
    from PIL import Image

    save_png(Image.fromarray(np.rint(shares * LEVELS).astype(np.uint16)), path)


def save_png(image: Image, path: Path) -> None:
    """Write a PNG with the notice in a text chunk."""
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text("Disclaimer", NOTICE)  # a keyword of the PNG specification
    image.save(path, pnginfo=texts)
