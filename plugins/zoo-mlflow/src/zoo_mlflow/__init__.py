"""An observer that logs the rounds and scores of every run to MLflow."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from zoo import ObserverSpec, hookimpl

NOT_IN_NAMES = re.compile(r"[^\w\-./ ]", re.ASCII)  # characters that MLflow refuses in the name of a metric


class MLflow:
    """One MLflow run per run of zoo, in the experiment of its dataset."""

    def bench_started(self, event: dict[str, Any]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            address = Path(event["results"], "mlruns").as_uri()
            os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        from filelock import FileLock
        from mlflow import MlflowClient

        self.runs: dict[str, str] = {}  # MLflow's id by zoo's
        self.lock = lock_of(address, Path(event["results"]))
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.lock):  # it creates a folder
            self.client = MlflowClient(address)

    def round_finished(self, event: dict[str, Any]) -> None:
        self.log(event["run"], {name: event[name] for name in ("loss", "val_loss", "val_score")}, event["step"])

    def run_finished(self, event: dict[str, Any]) -> None:
        run, numbers = event["run"], dict(event["cost"])
        for name, score in event["scores"].items():
            numbers |= {name: score["value"], f"{name}_low": score["low"], f"{name}_high": score["high"]}
        self.log(run, numbers)
        if event["error"]:
            self.client.set_tag(self.open(run), "error", event["error"]["message"])
        self.client.set_terminated(self.runs.pop(run["id"]), "FINISHED" if event["status"] == "ok" else "FAILED")

    def bench_finished(self, _: dict[str, Any]) -> None:
        for run in self.runs.values():  # the bench was interrupted
            self.client.set_terminated(run, "KILLED")

    def log(self, run: dict[str, Any], numbers: dict[str, Any], step: int = 0) -> None:
        """Log the numbers that are defined."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(NOT_IN_NAMES.sub("_", name), float(value), now, step)
            for name, value in numbers.items()
            if isinstance(value, (int, float))
        ]
        self.client.log_batch(self.open(run), metrics=metrics)

    def open(self, run: dict[str, Any]) -> str:
        """MLflow's id of a run, which is created with the first event."""
        if run["id"] not in self.runs:
            from mlflow.entities import Param

            dataset = f"{run['dataset']} to {run['tested_on']}" if run["tested_on"] else run["dataset"]
            experiment = self.open_experiment(dataset)
            name = f"{run['model']} {run['protocol']} seed {run['seed']} fold {run['fold']}"
            tags = {"zoo.run": run["id"], "zoo.folder": run["folder"]}
            created = self.client.create_run(experiment, run_name=name, tags=tags).info.run_id
            facts = {name: value for name, value in run.items() if name not in ("id", "folder", "settings")}
            params = {**run["settings"], **facts}
            self.client.log_batch(created, params=[Param(name, str(value)) for name, value in params.items()])
            self.runs[run["id"]] = created
        return self.runs[run["id"]]

    def open_experiment(self, name: str) -> str:
        """MLflow's id of an experiment, which is created with its first run."""
        from filelock import FileLock
        from mlflow.exceptions import MlflowException

        # In a folder two benches could both create it; a server refuses the second.
        with FileLock(self.lock):
            if known := self.client.get_experiment_by_name(name):
                return str(known.experiment_id)
            try:
                return str(self.client.create_experiment(name))
            except MlflowException:
                known = self.client.get_experiment_by_name(name)
                if known is None:
                    raise
                return str(known.experiment_id)


def lock_of(address: str, results: Path) -> Path:
    """The file that benches lock to write to a store: beside one that is a folder, else in the results folder."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return results / ".mlflow.lock"
    folder = Path(url2pathname(parts.path) if parts.scheme else address).resolve()
    return folder.with_name(f".{folder.name}.lock")


@hookimpl
def register_observers() -> list[ObserverSpec]:
    return [ObserverSpec(name="mlflow", start=MLflow, title="MLflow, a folder or a server")]
