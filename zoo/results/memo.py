"""Keep in the cache what was computed from stored predictions, so that the next report does not compute it again.

Only what zoo's own code computes is kept: a plugin's metrics, and boards of its tasks, are computed each time.
`zoo verify` reads none.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import ReasonCode
from zoo.evaluation.values import Score
from zoo.results.store import PREDICTIONS_FILE, Result, parse_score
from zoo.specs.metric import MetricSpec
from zoo.system.caches import mark_used
from zoo.system.files import hash_bytes, temporary_beside
from zoo.system.machine import installed_version, processor_name
from zoo.tasks.kinds import CORE_TASKS

KIND = "scores"  # the folder in the cache
COMPUTING_LIBRARIES = ("numpy", "scipy", "scikit-learn")
ERROR_CODES: tuple[ReasonCode, ...] = ("failed", "no-interval")  # the cause may pass, as too little memory
CORE_METRICS = {spec.name: spec for spec in METRICS}
CORE_TASK_NAMES = frozenset(task.name for task in CORE_TASKS)


@cache
def digest_code() -> str:
    """The digest of what computes a fact besides its inputs: zoo's code, the libraries, the processor."""
    code = digest_modules(Path(__file__).resolve().parents[1]) or installed_version("zoo-bench")
    return hash_bytes(sys.version, processor_name(), *map(installed_version, COMPUTING_LIBRARIES), code)


def digest_modules(package: Path) -> str:
    """The digest of the files that modules are loaded from, sources or compiled ones without them; "" without any."""
    files = [*package.rglob("*.py"), *(path for path in package.rglob("*.pyc") if path.parent.name != "__pycache__")]
    parts = [part for path in sorted(files) for part in (str(path.relative_to(package)), path.read_bytes())]
    return hash_bytes(*parts) if parts else ""


def read_facts(path: Path) -> dict[str, Any]:
    """The facts in a file; {} if it is missing or damaged, so that they are computed again."""
    try:
        checksum, _, text = path.read_text(encoding="ascii").partition("\n")
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(json.loads(text)) if checksum == hash_bytes(text) else {}


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace a file of facts atomically. On a full disk or a read-only cache nothing is kept."""
    text = json.dumps(facts)
    # perf: not synced to the disk. A file that a power failure damages fails its checksum
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_beside(path) as temporary:
            temporary.write_text(f"{hash_bytes(text)}\n{text}", encoding="ascii")
            temporary.replace(path)


def is_core(metric: MetricSpec) -> bool:
    return CORE_METRICS.get(metric.name) is metric


class RunsMemo:
    """The facts about some runs, as JSON values by name.

    Use it in a `with` block, which reads the facts at its start and stores new ones at its end. Without a path nothing
    is kept.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.is_changed = False

    def __enter__(self) -> Self:
        if self.path is not None:
            self.facts = read_facts(self.path)
            mark_used(self.path.parent)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.path is not None and self.is_changed:
            write_facts(self.path, self.facts)
        self.facts, self.is_changed = {}, False  # perf: a report has thousands of runs

    def is_missing(self) -> bool:
        """Whether facts would be kept, but none are."""
        return self.path is not None and not self.path.exists()

    def find(self, name: str, compute: Callable[[], Any]) -> Any:
        """The fact called `name`: the stored one, else that of `compute`, which returns a JSON value."""
        if name in self.facts:
            return self.facts[name]
        return self.note(name, compute())

    def note(self, name: str, fact: Any) -> Any:
        """Store a fact, unless it has the reason of an error; return it as JSON gives it."""
        text = json.dumps(fact)
        read = json.loads(text)
        if self.path is not None and not any(f'"code": "{code}"' in text for code in ERROR_CODES):
            self.facts[name], self.is_changed = read, True
        return read

    def find_scores(
        self,
        name: str,
        metrics: Mapping[str, MetricSpec],
        compute: Callable[[Mapping[str, MetricSpec]], Mapping[str, Score]],
    ) -> dict[str, Score]:
        """The score of each metric. `compute` receives the metrics whose scores are not stored."""
        names = {metric: f"{name}, {metric}@{spec.version}" for metric, spec in metrics.items() if is_core(spec)}
        scores = {metric: parse_score(self.facts[fact]) for metric, fact in names.items() if fact in self.facts}
        others = {metric: spec for metric, spec in metrics.items() if metric not in scores}
        for metric, score in (compute(others) if others else {}).items():
            scores[metric] = score
            if metric in names:
                self.note(names[metric], asdict(score))
        return {metric: scores[metric] for metric in metrics}


@dataclass(frozen=True, kw_only=True)
class ScoreMemo:
    """The facts about stored runs, in one file of the cache for each row of a board. Without a folder none are kept."""

    cache: Path | None = None
    processes: int = 1  # that may compute facts at the same time
    progress: Callable[[int, int], None] = lambda done, total: None  # noqa: ARG005  # in rows that processes compute

    def of_runs(self, runs: Sequence[Sequence[Result]]) -> RunsMemo:
        """The facts about runs by seed and fold: their key has the digests of the predictions."""
        results = [result for folds in runs for result in folds]
        if self.cache is None or not results or not all(map(has_digest, results)):
            return RunsMemo()
        card = results[0].card()
        facts = card.task.name, card.labels, card.positive, card.unit, card.has_patients, card.val_unit
        predictions = [[result.checksums[PREDICTIONS_FILE] for result in folds] for folds in runs]
        key = hash_bytes(json.dumps([facts, predictions]))
        return RunsMemo(folder_of_code(self.cache) / f"{key[:40]}.facts")


def folder_of_code(cache: Path) -> Path:
    """The folder of the facts that this version of the code computed: one entry of the cache."""
    return cache / KIND / digest_code()[:16]


def has_digest(result: Result) -> bool:
    """Whether the predictions of a result have a digest that was verified; a bundle's may lack targets."""
    return not result.bundle and PREDICTIONS_FILE in result.checksums and result.dataset["task"] in CORE_TASK_NAMES


class SoundRuns:
    """The runs of a results folder whose predictions were checked and found to be sound.

    Use it in a `with` block, as `RunsMemo`. Without a cache every run is checked.
    """

    def __init__(self, cache: Path | None, root: Path) -> None:
        name = hash_bytes(str(root.resolve()))
        self.memo = RunsMemo(cache and folder_of_code(cache) / f"{name[:40]}.sound")
        self.stored: frozenset[str] = frozenset()
        self.present: set[str] = set()

    def __enter__(self) -> Self:
        with self.memo as memo:
            self.stored = frozenset(memo.find("sound", list))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None and not self.present <= self.stored:
            with self.memo as memo:
                memo.note("sound", sorted(self.present | self.stored))

    def check(self, result: Result, find_fault: Callable[[], str]) -> str:
        """The fault of a run, found by `find_fault` unless the run is stored as sound."""
        if not has_digest(result):
            return find_fault()
        record = [result.run["purpose"], dict(result.dataset), result.checksums[PREDICTIONS_FILE]]
        key = hash_bytes(json.dumps(record, sort_keys=True))
        fault = "" if key in self.stored else find_fault()
        if not fault:
            self.present.add(key)
        return fault
