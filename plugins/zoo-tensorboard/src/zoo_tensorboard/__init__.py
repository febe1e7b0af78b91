"""An observer that writes the rounds and scores of every run as TensorBoard event files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from zoo import ObserverSpec, hookimpl

ENDED = "ended"  # an empty file beside the events of a run that has a result; after another end, a run may continue
STATUS_SUFFIX = ".status"  # of the event file that only has how a run ended, so that a repeated run can replace it


class TensorBoard:
    """One folder of event files per run, at the same place as the run's folder in the results folder."""

    def bench_started(self, event: dict[str, Any]) -> None:
        self.folder = Path(os.environ.get("ZOO_TENSORBOARD") or Path(event["results"], "tensorboard"))
        self.writers: dict[str, Any] = {}

    def round_finished(self, event: dict[str, Any]) -> None:
        writer = self.open(event["run"], event["step"])
        for name in ("loss", "val_loss", "val_score"):
            if event[name] is not None:
                writer.add_scalar(name, event[name], event["step"])
        writer.flush()

    def run_finished(self, event: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        run, writer = event["run"], self.open(event["run"])
        scores = {f"test/{name}": score["value"] for name, score in event["scores"].items()}
        scores = {name: value for name, value in scores.items() if value is not None}
        if scores:
            choices = {name: run[name] for name in ("dataset", "model", "protocol", "seed", "fold", "init")}
            writer.add_hparams(choices, scores, name="scores")
        writer.close()
        folder = self.folder / run["folder"]
        with SummaryWriter(str(folder), filename_suffix=STATUS_SUFFIX) as status:
            status.add_text("status", event["status"] if event["error"] is None else event["error"]["message"])
        if event["status"] == "ok":
            (folder / ENDED).touch()
        del self.writers[run["id"]]

    def bench_finished(self, _: dict[str, Any]) -> None:
        for writer in self.writers.values():
            writer.close()

    def open(self, run: dict[str, Any], step: int | None = None) -> Any:
        """The writer of a run: one that has a result is replaced, any other continues at this step.

        A run that begins anew continues at its first step, so that nothing of the earlier one is shown. Without a
        step, as for a run that was interrupted after its last round, all earlier rounds are kept.
        """
        from tensorboardX import SummaryWriter

        if run["id"] not in self.writers:
            folder = self.folder / run["folder"]
            if (folder / ENDED).exists():
                shutil.rmtree(folder)
            for path in folder.glob(f"events.*{STATUS_SUFFIX}"):
                path.unlink()
            purge_step = step if folder.exists() else None
            # The name of a file has the second, in which two benches may begin
            self.writers[run["id"]] = SummaryWriter(str(folder), purge_step=purge_step, filename_suffix=f".{step or 0}")
        return self.writers[run["id"]]


@hookimpl
def register_observers() -> list[ObserverSpec]:
    return [ObserverSpec(name="tensorboard", start=TensorBoard, title="TensorBoard event files")]
