"""The observer `jsonl`: the events of every bench in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

LOG_FILE = "events.jsonl"


class EventLog:
    """Append each event to `events.jsonl` in the results folder, one JSON document per line."""

    stream: TextIO

    def bench_started(self, event: Mapping[str, Any]) -> None:
        self.stream = open(Path(event["results"]) / LOG_FILE, "a", encoding="utf-8")  # noqa: SIM115 - until the end
        self.write(event)

    def write(self, event: Mapping[str, Any]) -> None:
        self.stream.write(json.dumps(event, ensure_ascii=False) + "\n")
        self.stream.flush()

    run_started = round_finished = run_finished = bench_finished = write
