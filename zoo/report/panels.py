"""Draw what is known of an image or volume side by side: masks, where they are unsure, slices and their maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.contact_sheet import OUTLINES, find_outlines
from zoo.errors import clean
from zoo.explaining.explanations import ExplainedImage
from zoo.images.placement import Placement
from zoo.images.volumes import slice_at
from zoo.report.overlays import PANEL_GAP, PANEL_SIDE, as_shares, fit_to_panel, gray_or_color, lay_over, shown_part

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN_DEVIATIONS = (-2.0, 2.0)  # from the mean of a volume; of a window, its ends
MAX_PANEL_SIDE = 640  # pixels of a panel with a mask: thin structures are lost in smaller ones
FILLED = 0.4  # opacity of a predicted mask
LETTER_HEIGHT, CAPTION_HEIGHT = 15, 21  # pixels of their size, and above a panel


def join_panels(panels: Iterable[tuple[str, Image]]) -> tuple[Image, int]:
    """Panels of one size in a row, each below its caption, and their number."""
    from PIL import Image, ImageDraw, ImageFont

    joined = list(panels)
    width, height = joined[0][1].size
    sheet = Image.new("RGB", (len(joined) * (width + PANEL_GAP) - PANEL_GAP, height + CAPTION_HEIGHT), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(LETTER_HEIGHT)
    for number, (caption, panel) in enumerate(joined):
        left = number * (width + PANEL_GAP)
        draw.text((left, 0), clean(caption)[: 2 * width // LETTER_HEIGHT], fill=(0, 0, 0), font=font)
        sheet.paste(panel, (left, CAPTION_HEIGHT))
    return sheet, len(joined)


def volume_panels(cube: Array, values: Array) -> Iterator[tuple[str, Image]]:
    """The middle slice of a volume and that with most evidence, each as the network gets it and under its map.

    `cube` is the network's input (size, size, size, channels), `values` the map of all its positions.
    """
    size, shares = len(values), as_shares(values)
    sums = values.sum(axis=(0, 1))
    most = np.flatnonzero(sums >= 0.999 * sums.max())  # a coarse map has the same evidence in many slices
    for caption, place in (("middle", size // 2), ("most evidence", int(most[len(most) // 2]))):
        image = fit_to_panel(gray_or_color(slice_at(cube, place)[..., None], SHOWN_DEVIATIONS))
        yield f"slice {place + 1} of {size}: {caption}", image
        yield "evidence", lay_over(image, slice_at(shares, place))


def mask_panels(explained: ExplainedImage, intensity: tuple[float, float]) -> Iterator[tuple[str, Image]]:
    """An image, its masks, where the predicted one is unsure, and the evidence for each label."""
    mask, placement = explained.mask, explained.placement
    assert mask is not None and placement is not None and explained.square is not None
    side = min(max(*placement.resized, PANEL_SIDE), MAX_PANEL_SIDE)
    image = fit_to_panel(gray_or_color(shown_part(explained.square, placement), intensity), side=side)
    yield "image", image
    filled = fill_mask(image, fit_label_map(mask.decided, placement, side))
    if mask.reference is None:
        yield "mask", filled
    else:
        yield "mask; reference outlined", outline_mask(filled, fit_label_map(mask.reference, placement, side))
    for name, values in mask.uncertainty.items():
        yield name, lay_over(image, shown_part(values, placement))
    for each in explained.explanations:
        yield f"evidence for {each.output.label}", lay_over(image, as_shares(shown_part(each.map, placement)))


def fit_label_map(label_map: Array, placement: Placement, side: int) -> Array:
    """A label map of the network's input at the size of a panel."""
    from PIL import Image

    part = Image.fromarray(shown_part(label_map, placement))
    return np.asarray(fit_to_panel(part, Image.Resampling.NEAREST, side))


def fill_mask(image: Image, label_map: Array) -> Image:
    """The image with the labels of a mask in their colors."""
    from PIL import Image

    drawn, inside = np.array(image), label_map > 0
    drawn[inside] = np.rint(drawn[inside] * (1 - FILLED) + colors_of(label_map[inside]) * FILLED)
    return Image.fromarray(drawn)


def outline_mask(image: Image, label_map: Array) -> Image:
    """The image with the outlines of a mask."""
    from PIL import Image

    drawn, edges = np.array(image), find_outlines(label_map)
    drawn[edges] = colors_of(label_map[edges])
    return Image.fromarray(drawn)


def colors_of(labels: Array) -> Array:
    """The colors (n, 3) of labels from 1."""
    colors: Array = np.array(OUTLINES, np.uint8)[(labels.astype(int) - 1) % len(OUTLINES)]
    return colors
