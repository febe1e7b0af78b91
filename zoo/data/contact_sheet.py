"""Draw labeled thumbnails to one PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError, clean
from zoo.images.resizing import fit_with_placement
from zoo.images.volumes import central_slice
from zoo.system.files import written_whole

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw


SHEET_COLUMNS = 5
THUMBNAIL_SIDE, MARGIN, CAPTION = 160, 8, 18  # pixels
PAPER, INK = 255, 0
FILL = (86, 180, 233)
OUTLINES = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))  # Okabe and Ito 2008


@dataclass(frozen=True, kw_only=True, eq=False)
class Thumbnail:
    """An image with the text below it, the outlines of its mask, and a predicted mask, filled."""

    pixels: Array  # (H, W) or (H, W, 3), uint8 or uint16
    label: str = ""
    mask: Array | None = None  # label map (H, W), or that of the whole volume
    predicted: Array | None = None  # the same


def draw_contact_sheet(thumbnails: Sequence[Thumbnail], intensity: tuple[float, float], path: Path) -> Path:
    """Write the sheet, reproducibly to the byte. `intensity`: the levels displayed as black and white."""
    from PIL import Image, ImageDraw

    rows = -(-len(thumbnails) // SHEET_COLUMNS)
    width = SHEET_COLUMNS * (THUMBNAIL_SIDE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, rows * (THUMBNAIL_SIDE + CAPTION + MARGIN) + MARGIN), (PAPER,) * 3)
    draw = ImageDraw.Draw(sheet)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, SHEET_COLUMNS)
        corner = (MARGIN + column * (THUMBNAIL_SIDE + MARGIN), MARGIN + row * (THUMBNAIL_SIDE + CAPTION + MARGIN))
        sheet.paste(to_image(thumbnail, intensity), corner)
        draw.text((corner[0], corner[1] + THUMBNAIL_SIDE + 2), shorten(draw, thumbnail.label), fill=(INK,) * 3)
    try:
        with written_whole(path) as temporary:
            sheet.save(temporary, "PNG")
    except OSError as error:
        raise UsageError(f"--sheet {path}: {error.strerror}", fix="name a file that can be written") from error
    return path


def to_image(thumbnail: Thumbnail, intensity: tuple[float, float]) -> Image:
    from PIL import Image

    square, placement = fit_with_placement(thumbnail.pixels, THUMBNAIL_SIDE)
    if square.dtype != np.uint8:
        low, high = intensity
        square = np.rint((square.astype(np.float32) - low).clip(0, high - low) * (255 / (high - low))).astype(np.uint8)
    image = Image.fromarray(square).convert("RGB")
    if thumbnail.mask is None:
        return image
    drawn = np.array(image)
    if thumbnail.predicted is not None:
        filled = placement.mask_to_input(to_plane(thumbnail.predicted), THUMBNAIL_SIDE) > 0
        drawn[filled] = (drawn[filled] * 0.5 + np.array(FILL) * 0.5).astype(np.uint8)
    mask = placement.mask_to_input(to_plane(thumbnail.mask), THUMBNAIL_SIDE)
    edges = find_outlines(mask)
    drawn[edges] = np.array(OUTLINES, np.uint8)[(mask[edges].astype(int) - 1) % len(OUTLINES)]
    return Image.fromarray(drawn)


def to_plane(mask: Array) -> Array:
    """The part of a label map that belongs to the picture: of a volume, its middle slice."""
    return central_slice(mask) if mask.ndim == 3 else mask


def find_outlines(mask: Array) -> Array:
    """The pixels of labels beside another label or the background: bool (H, W)."""
    padded = np.pad(mask, 1)
    neighbors = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edges: Array = (mask > 0) & np.any([beside != mask for beside in neighbors], axis=0)
    return edges


def shorten(draw: ImageDraw, label: str) -> str:
    """Shorten a label to the width of its thumbnail."""
    text = clean(label[:THUMBNAIL_SIDE])  # no letter is narrower than a pixel
    if draw.textlength(text) <= THUMBNAIL_SIDE:
        return text
    while text and draw.textlength(f"{text}...") > THUMBNAIL_SIDE:
        text = text[:-1]
    return f"{text}..."
