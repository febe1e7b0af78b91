"""Stacks of images that a TIFF keeps behind a single page.

ImageJ writes one page for a stack beyond 4 GB, tifffile one with `truncate` and MetaMorph one for every stack;
ImageDepth (SGI) is a page of several planes. Whoever reads the page alone gets the first image, and no error.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

DESCRIPTION, SAMPLES_PER_PIXEL, IMAGE_DEPTH, METAMORPH_PLANES = 270, 277, 32997, 33629


def declared_planes(tiff: Any) -> int:
    """Images that the first page of a `tifffile.TiffFile` declares, itself included."""
    page = tiff.pages[0]
    planes = page.tags[METAMORPH_PLANES].count if METAMORPH_PLANES in page.tags else 1
    num_values = page.imagewidth * page.imagelength * page.samplesperpixel
    return int(max(planes, page.imagedepth, planes_in_description(page.description, num_values)))


def planes_in_directory(tags: ImageFileDirectory_v2, width: int, height: int) -> int:
    """The same of a page that Pillow has opened, without reading it again."""
    planes, depth = tags.get(METAMORPH_PLANES, ()), int(tags.get(IMAGE_DEPTH, 1))
    num_values = width * height * int(tags.get(SAMPLES_PER_PIXEL, 1))
    described = planes_in_description(str(tags.get(DESCRIPTION, "")), num_values)
    return max(len(planes) if isinstance(planes, tuple) else 1, depth, described)


def planes_in_description(description: str, num_values: int) -> int:
    """Images that an ImageDescription of ImageJ or tifffile declares; `num_values` are those of one."""
    if description.startswith("ImageJ="):
        images = re.search(r"^images=(\d+)\s*$", description, re.MULTILINE)
        return int(images[1]) if images else 1
    if not description.startswith('{"shape"'):
        return 1
    try:
        shape = json.loads(description)["shape"]
        return max(1, int(math.prod(shape)) // num_values)
    except (ValueError, TypeError):  # a text that only begins like one
        return 1
