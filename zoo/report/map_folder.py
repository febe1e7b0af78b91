"""Write the maps of `zoo explain` to a folder: pictures, maps.json with the numbers, and a page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.errors import UsageError, convert_disk_errors, with_fix
from zoo.explaining.collecting import MapCollection
from zoo.explaining.explanations import ExplainedImage, Explanation, ImageExplainer
from zoo.explaining.locating import mask_stem
from zoo.explaining.numbers import MapNumbers, describe_numbers
from zoo.explaining.subjects import Subject
from zoo.leaderboard.formatting import number
from zoo.report.html import render_page
from zoo.report.map_statements import list_numbers, name_explained, state_numbers
from zoo.report.new_answers import MAX_LINES, OUTSIDE, list_refused
from zoo.report.overlays import draw_panels, save_map, save_png
from zoo.report.text import table_lines
from zoo.system.files import folder_written_whole
from zoo.system.progress import Console
from zoo.trained.card import NOTICE, ModelCard

MAPS_FILE, PAGE_FILE = "maps.json", "index.html"
SHOWN_MAPS = 24  # maps on the page
SHOWN_WIDTH, SHOWN_QUALITY = 400, 80  # pixels; JPEG


class MapFolder:
    """Write the maps of images as they come, and at the end maps.json and the page."""

    def __init__(self, folder: Path, explaining: ImageExplainer, tags: Sequence[str] = ()) -> None:
        self.folder, self.explaining, self.tags = folder, explaining, tags
        self.num_explained = self.num_refused = self.num_maps = 0
        self.problems: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.shown: list[dict[str, str]] = []

    @property
    def card(self) -> ModelCard:
        return self.explaining.model.card

    @property
    def layer(self) -> str | None:
        """The name of the layer that is explained; None for the input itself, or before the first image."""
        explainer = self.explaining.explainer
        return explainer.layer.name if explainer and explainer.layer else None

    @property
    def grid(self) -> int | None:
        explainer = self.explaining.explainer
        return explainer.layer.grid if explainer and explainer.layer else None

    def write(self, explained: ExplainedImage) -> None:
        """Write the pictures of an image, or note why it was refused."""
        answer = explained.answer
        common = {"image": answer.name, **{tag: answer.tags.get(tag) for tag in self.tags}}
        if answer.refused:
            self.num_refused += 1
            problem = with_fix(answer.refused, answer.fix)
            if len(self.problems) < MAX_LINES:
                self.problems.append(problem)
            self.rows.append({**common, "status": "refused", "problem": problem})
            return
        self.num_explained += 1
        outside = "; ".join(OUTSIDE[reason] for reason in answer.outside) or None
        for explanation in explained.explanations:
            self.num_maps += 1
            files = self.draw(explained, explanation)
            self.rows.append({**common, "status": "ok", **self.describe(explanation), "outside": outside, **files})

    def describe(self, explanation: Explanation) -> dict[str, Any]:
        """What is stored of a map."""
        output, location = explanation.output, explanation.location
        return {
            "label": output.label,
            "value" if output.decided is None else "probability": output.value,
            "decided": output.decided,
            "method": self.explaining.request.method,
            "layer": self.layer,
            "grid": self.grid,
            "maximum": float(explanation.map.max()),
            **(vars(location) if location else {}),
        }

    def draw(self, explained: ExplainedImage, explanation: Explanation) -> dict[str, str]:
        """Write the two pictures of a map; return their names."""
        assert explained.square is not None and explained.placement is not None
        stem = f"{self.num_maps:05d}-{file_stem(explained.answer.name)}"
        files = {"overlay": f"{stem}.png", "map": f"{stem}.map.png"}
        panels = draw_panels(explained.square, explanation.map, explained.placement, self.card.intensity)
        save_png(panels, self.folder / files["overlay"])
        save_map(explanation.map, explained.placement, self.folder / files["map"])
        if len(self.shown) < SHOWN_MAPS:
            output = explanation.output
            answer = f"{output.label}: {number(output.value, 2)}"
            self.shown.append(
                {
                    "uri": as_uri(panels),
                    "answer": answer,
                    "decided": "" if output.decided is not False else "not the decision",
                    "image": explained.answer.name,
                    "text": f"{explained.answer.name}, and where the evidence for {answer} is",
                }
            )
        return files

    def finish(self, numbers: MapNumbers) -> None:
        """Write maps.json and the page."""
        card, statements = self.card, state_numbers(numbers, self.grid)
        document = {
            "schema": 1,
            "command": "explain",
            "notice": NOTICE,
            "model": card.name,
            "run": card.run,
            "seed": card.seed,
            "fold": card.fold,
            "method": self.explaining.request.method,
            "layer": self.layer,
            "numbers": describe_numbers(numbers),
            "statements": statements,
            "images": self.rows,
        }
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
        (self.folder / MAPS_FILE).write_text(text + "\n", encoding="utf-8")
        page = render_page(
            "maps.html",
            title=f"Where {card.name} looks",
            notice=NOTICE,
            run=f"{card.run[:8]}, {name_explained(card)}",
            method=self.explaining.request.method,
            layer=self.layer,
            grid=self.grid,
            statements=statements,
            table=list_numbers(numbers),
            pictures=self.shown,
            num_maps=self.num_maps,
            num_refused=self.num_refused,
        )
        (self.folder / PAGE_FILE).write_text(page, encoding="utf-8")


def write_maps(
    explaining: ImageExplainer, subject: Subject, output: Path, console: Console, tags: Sequence[str] = ()
) -> tuple[MapFolder, MapNumbers]:
    """Explain images and write the folder, which appears when it is whole. Raises UsageError if it exists."""
    if output.exists():
        raise UsageError(f"{output}: exists already", fix="name another folder, or remove it")
    with convert_disk_errors(), folder_written_whole(output) as folder:
        written, collected = MapFolder(folder, explaining, tags), MapCollection(len(subject.images), subject.owner_of)
        with console.counting("explaining", "images") as progress:
            for done, explained in enumerate(explaining.explain_images(subject.images), start=1):
                written.write(explained)
                collected.add(explained)
                progress(done, len(subject.images))
        with console.counting("testing the maps") as progress:
            numbers = collected.measure(explaining.explainer, progress)
        written.finish(numbers)
    return written, numbers


def file_stem(name: str) -> str:
    """The stem of an image's pictures, in characters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", mask_stem(name))[:60]


def as_uri(panels: Any) -> str:
    """A picture of two panels for the page."""
    stream = io.BytesIO()
    height = max(1, round(panels.height * SHOWN_WIDTH / panels.width))
    panels.resize((SHOWN_WIDTH, height)).save(stream, "JPEG", quality=SHOWN_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def summarize_maps(written: MapFolder, numbers: MapNumbers, output: Path) -> list[str]:
    """The lines after `zoo explain`: refused images, the numbers, what they mean, and the notice."""
    card, layer = written.card, written.layer
    lines = list_refused(written.problems, written.num_refused)
    method = written.explaining.request.method
    of_layer = f" of {layer}, {written.grid} x {written.grid} positions" if layer else ""
    run = f"run {card.run[:8]}, {name_explained(card)}"
    lines.append(f"{written.num_maps} maps by {card.name} ({run}) in {output}: {method}{of_layer}")
    return [*lines, *table_lines(list_numbers(numbers)), *state_numbers(numbers, written.grid), NOTICE]
