"""Draw example slices with the boxes of their lesions: `python -m zoo_phantom PATH.png [DATASET]`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_phantom import PARAMETERS, boxes, draw, find_lesions, paint
from zoo_phantom.parameters import PhantomParameters
from zoo_phantom.scenes import Scenes

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = 6
ZOOM = 3
WINDOW = (24.0, 1424.0)  # -1000 to 400 HU
COLORS = ((64, 160, 255), (255, 96, 64), (255, 208, 64), (96, 224, 128))  # one per label


def choose_slices(scenes: Scenes) -> list[list[int]]:
    """Choose a row of slices for every label: the first half plain, then faint, each of another patient if possible."""
    rows = []
    for label in range(scenes.present.shape[1]):
        row: list[int] = []
        for faint, upto in ((False, COLUMNS // 2), (True, COLUMNS)):
            fitting = np.flatnonzero(scenes.present[:, label] & (scenes.faint == faint))
            _, first = np.unique(scenes.patient[fitting], return_index=True)
            row += fitting[first][: upto - len(row)].tolist()
        rows.append(row)
    return rows


def draw_sheet(parameters: PhantomParameters) -> Image.Image:
    """Draw slices in the lung window, two rows per label: plain, and below with the boxes of their lesions."""
    from PIL import Image, ImageDraw

    scenes = draw(parameters)
    rows, images = choose_slices(scenes), paint(scenes)
    side = parameters.size * ZOOM
    sheet = Image.new("RGB", (COLUMNS * side, len(rows) * 2 * side))
    pencil = ImageDraw.Draw(sheet)
    for row, chosen in enumerate(rows):
        for column, image in enumerate(chosen):
            low, high = WINDOW
            gray = np.clip((images[image].astype(np.float64) - low) / (high - low), 0.0, 1.0) * 255.0
            tile = Image.fromarray(gray.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
            for copy in (0, 1):  # without and with boxes
                sheet.paste(tile, (column * side, (2 * row + copy) * side))
            left, top = column * side, (2 * row + 1) * side
            for lesion, box in zip(find_lesions(scenes, image), boxes(scenes, image), strict=True):
                x0, y0, x1, y1 = box * ZOOM
                pencil.rectangle((left + x0, top + y0, left + x1 - 1, top + y1 - 1), outline=COLORS[lesion.label])
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m zoo_phantom", description=__doc__)
    parser.add_argument("path", type=Path, help="the PNG to write")
    parser.add_argument("dataset", nargs="?", default="phantom", choices=list(PARAMETERS))
    parser.add_argument("--size", type=int, help="pixels along each side")
    arguments = parser.parse_args()
    parameters = PARAMETERS[arguments.dataset]
    draw_sheet(replace(parameters, size=arguments.size or parameters.size)).save(arguments.path)
    print(arguments.path)


if __name__ == "__main__":
    main()
