"""Write the maps of `zoo explain` to a folder: pictures, maps.json with the numbers, and a page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.errors import UsageError, convert_disk_errors, with_fix
from zoo.explaining.collecting import MapCollection
from zoo.explaining.explanations import ExplainedImage, ExplainedMask, Explanation, ImageExplainer
from zoo.explaining.locating import mask_stem
from zoo.explaining.numbers import MapNumbers, describe_numbers
from zoo.explaining.subjects import Subject
from zoo.explaining.uncertainty import ENTROPY
from zoo.leaderboard.formatting import number
from zoo.report.html import render_page
from zoo.report.map_statements import LEGENDS, NO_EVIDENCE, list_numbers, name_explained, name_positions, state_numbers
from zoo.report.new_answers import MAX_LINES, OUTSIDE, list_refused
from zoo.report.overlays import as_shares, draw_panels, save_map, save_png, shown_part
from zoo.report.panels import join_panels, mask_panels, volume_panels
from zoo.report.text import table_lines
from zoo.system.files import folder_written_whole
from zoo.system.progress import Console
from zoo.trained.card import NOTICE, ModelCard

if TYPE_CHECKING:
    from PIL.Image import Image

MAPS_FILE, PAGE_FILE = "maps.json", "index.html"
SHOWN_MAPS = 24  # maps on the page
SHOWN_PANEL, SHOWN_QUALITY = 200, 80  # pixels of the width of a panel; JPEG


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

    @property
    def has_masks(self) -> bool:
        return self.explaining.kind == "mask"

    @property
    def positions(self) -> str:
        """The layer's positions, "7 x 7"."""
        explainer = self.explaining.explainer
        return name_positions(explainer.layer) if explainer and explainer.layer else ""

    @property
    def seeds(self) -> str:
        """The seed that is explained, and of masks how many they are the mean of."""
        several = f", masks of {num} seeds" if (num := len(self.explaining.models)) > 1 else ""
        return f"{name_explained(self.card)}{several}"

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
        outside = {"outside": "; ".join(OUTSIDE[reason] for reason in answer.outside) or None}
        if explained.mask is not None:
            self.rows.append({**common, "status": "ok", **self.write_mask(explained, explained.mask), **outside})
            return
        for explanation in explained.explanations:
            self.num_maps += 1
            files = self.draw(explained, explanation)
            self.rows.append({**common, "status": "ok", **self.describe(explanation), **outside, **files})

    def write_mask(self, explained: ExplainedImage, mask: ExplainedMask) -> dict[str, Any]:
        """Write the sheet of an image, where its mask is unsure, and the map of each label; return what is stored."""
        assert explained.placement is not None
        placement, name = explained.placement, explained.answer.name
        stem = f"{self.num_explained:05d}-{file_stem(name)}"
        sheet, num_panels = join_panels(mask_panels(explained, self.card.intensity))
        save_png(sheet, self.folder / f"{stem}.png")
        row: dict[str, Any] = {"overlay": f"{stem}.png", "dice": dict(mask.dice) or None, "uncertainty": {}, "maps": []}
        for kind, values in mask.uncertainty.items():
            shares, file = shown_part(values, placement), f"{stem}.{kind}.png"
            save_map(shares, self.folder / file)
            row["uncertainty"][kind] = {"mean": float(shares.mean()), "map": file}
        for each in explained.explanations:
            self.num_maps += 1
            file = f"{stem}.{each.output.column + 1}.map.png"
            save_map(as_shares(shown_part(each.map, placement)), self.folder / file)
            row["maps"].append({**self.describe(each), "map": file})
        unsure = f"mean entropy {number(row['uncertainty'][ENTROPY]['mean'])}"
        scores = [f"Dice of {label} {number(value, 2)}" for label, value in mask.dice.items()]
        text = f"{name}, its mask, where it is unsure, and the evidence"
        texts = {"answer": "; ".join([*scores, unsure]), "text": text}
        self.show(sheet, num_panels, name, texts)
        return row

    def describe(self, explanation: Explanation) -> dict[str, Any]:
        """What is stored of a map."""
        output, location = explanation.output, explanation.location
        return {
            "label": output.label,
            output.measure: output.value,
            "decided": output.decided,
            "method": self.explaining.request.method,
            "layer": self.layer,
            "grid": self.grid,
            "maximum": float(explanation.map.max()),
            **(vars(location) if location else {}),
        }

    def draw(self, explained: ExplainedImage, explanation: Explanation) -> dict[str, str]:
        """Write the picture of a map, and the map; return their names."""
        assert explained.square is not None
        stem = f"{self.num_maps:05d}-{file_stem(explained.answer.name)}"
        if explained.placement is None:  # a volume
            files = {"overlay": f"{stem}.png", "map": f"{stem}.map.npy"}
            panels, num_panels = join_panels(volume_panels(explained.square, explanation.map))
            np.save(self.folder / files["map"], as_shares(explanation.map).astype(np.float32))
        else:
            files = {"overlay": f"{stem}.png", "map": f"{stem}.map.png"}
            panels = draw_panels(explained.square, explanation.map, explained.placement, self.card.intensity)
            num_panels = 2
            save_map(as_shares(shown_part(explanation.map, explained.placement)), self.folder / files["map"])
        save_png(panels, self.folder / files["overlay"])
        output = explanation.output
        answer = f"{output.label}: {number(output.value, 2)}"
        decided = "" if output.decided is not False else "not the decision"
        text = f"{explained.answer.name}, and where the evidence for {answer} is"
        self.show(panels, num_panels, explained.answer.name, {"answer": answer, "text": text, "decided": decided})
        return files

    def show(self, panels: Image, num_panels: int, image: str, texts: Mapping[str, str]) -> None:
        """Put one of the first pictures on the page, with its `answer`, `text` and what was `decided`."""
        if len(self.shown) < SHOWN_MAPS:
            self.shown.append({"uri": as_uri(panels, num_panels), "image": image, "decided": "", **texts})

    def state(self, numbers: MapNumbers) -> list[str]:
        """What follows from the numbers, or why there are none."""
        return state_numbers(numbers, self.grid) if self.explaining.has_maps else [NO_EVIDENCE]

    def finish(self, numbers: MapNumbers) -> None:
        """Write maps.json and the page."""
        card, statements = self.card, self.state(numbers)
        document = {
            "schema": 1,
            "command": "explain",
            "notice": NOTICE,
            "model": card.name,
            "run": card.run,
            "seed": card.seed,
            "seeds": [model.card.seed for model in self.explaining.models],
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
            run=f"{card.run[:8]}, {self.seeds}",
            method=self.explaining.request.method,
            layer=self.layer,
            positions=self.positions,
            statements=statements,
            table=list_numbers(numbers),
            pictures=self.shown,
            legend=LEGENDS[self.explaining.kind],
            is_wide=self.explaining.kind != "image",
            num_pictures=self.num_explained if self.has_masks else self.num_maps,
            has_masks=self.has_masks,
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
    return re.sub(r"[^A-Za-z0-9._-]+", "_", mask_stem(name).removesuffix(".nii"))[:60]


def as_uri(panels: Image, num_panels: int) -> str:
    """A picture of some panels for the page."""
    stream = io.BytesIO()
    width = SHOWN_PANEL * num_panels
    height = max(1, round(panels.height * width / panels.width))
    panels.resize((width, height)).save(stream, "JPEG", quality=SHOWN_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def summarize_maps(written: MapFolder, numbers: MapNumbers, output: Path) -> list[str]:
    """The lines after `zoo explain`: refused images, the numbers, what they mean, and the notice."""
    card, layer = written.card, written.layer
    lines = list_refused(written.problems, written.num_refused)
    method = written.explaining.request.method
    of_layer = f" of {layer}, {written.positions} positions" if layer else ""
    run = f"run {card.run[:8]}, {written.seeds}"
    masks = f"{written.num_explained} masks and " if written.has_masks else ""
    lines.append(f"{masks}{written.num_maps} maps by {card.name} ({run}) in {output}: {method}{of_layer}")
    return [*lines, *table_lines(list_numbers(numbers)), *written.state(numbers), NOTICE]
