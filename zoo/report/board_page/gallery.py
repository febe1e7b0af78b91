"""Galleries of test images: by model and rule."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from zoo.leaderboard.formatting import number
from zoo.leaderboard.pictures import ChosenImage
from zoo.report.gallery import Gallery


def describe_gallery(gallery: Gallery | None) -> dict[str, Any] | None:
    """What the template shows; None if no images were requested."""
    if gallery is None:
        return None
    rows = [
        {
            "model": row,
            "seed": seed,
            "maps": (maps := gallery.maps.get(row)),
            "pictures": [
                {
                    "uri": each.uri,
                    **describe_image(each.chosen),
                    "map": maps.pictures.get(each.chosen.sample_id) if maps else None,
                }
                for each in pictures
            ],
        }
        for (row, seed), pictures in groupby(gallery.pictures, key=lambda each: (each.chosen.row, each.chosen.seed))
    ]
    inside = f"{len(gallery.pictures)} test images of {len(rows)} model{'s' * (len(rows) != 1)}"
    masks = any(each.chosen.mask is not None for each in gallery.pictures)
    return {"rows": rows, "reason": gallery.reason, "inside": inside, "masks": masks}


def describe_image(chosen: ChosenImage) -> dict[str, str]:
    """The caption of a picture, and its sentence for a reader who does not see it."""
    sure = "" if chosen.confidence is None else f" ({number(chosen.confidence, 2)})"
    return {
        "rule": chosen.rule,
        "target": chosen.target,
        "answer": f"{chosen.answer}{sure}",
        "sample": chosen.sample_id,
        "text": f"test image {chosen.sample_id}: {chosen.rule}; true {chosen.target}, answer {chosen.answer}{sure}",
    }
