"""An observer that writes the rounds and scores of every run as TensorBoard event files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from zoo import ObserverSpec, hookimpl


class TensorBoard:
    """One folder of event files per run, at the same place as the run's folder in the results folder."""

    def bench_started(self, event: dict[str, Any]) -> None:
        self.folder = Path(os.environ.get("ZOO_TENSORBOARD") or Path(event["results"], "tensorboard"))
        self.writers: dict[str, Any] = {}

    def round_finished(self, event: dict[str, Any]) -> None:
        writer = self.open(event["run"])
        for name in ("loss", "val_loss", "val_score"):
            if event[name] is not None:
                writer.add_scalar(name, event[name], event["step"])
        writer.flush()

    def run_finished(self, event: dict[str, Any]) -> None:
        run, writer = event["run"], self.open(event["run"])
        scores = {f"test/{name}": score["value"] for name, score in event["scores"].items()}
        scores = {name: value for name, value in scores.items() if value is not None}
        if scores:
            choices = {name: run[name] for name in ("dataset", "model", "protocol", "seed", "fold", "init")}
            writer.add_hparams(choices, scores, name="scores")
        writer.add_text("status", event["status"] if event["error"] is None else event["error"]["message"])
        writer.close()
        del self.writers[run["id"]]

    def bench_finished(self, _: dict[str, Any]) -> None:
        for writer in self.writers.values():
            writer.close()

    def open(self, run: dict[str, Any]) -> Any:
        """The writer of a run."""
        from tensorboardX import SummaryWriter

        if run["id"] not in self.writers:
            self.writers[run["id"]] = SummaryWriter(str(self.folder / run["folder"]))
        return self.writers[run["id"]]


@hookimpl
def register_observers() -> list[ObserverSpec]:
    return [ObserverSpec(name="tensorboard", start=TensorBoard, title="TensorBoard event files")]
