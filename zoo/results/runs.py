"""A run and its identity."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from zoo.errors import UsageError
from zoo.specs.deviation import Deviation, read_deviations
from zoo.specs.protocol import BASELINE, Protocol, override, resolved_fields
from zoo.system.files import hash_bytes

ID_VERSION = 2  # increased when the fields of the identity, or the way runs are executed, change
NUM_SHUFFLES = 20  # runs of the shuffled-label control
SHUFFLED = ("shuffled", "")  # in the overrides of the control's protocol: finetune@1+shuffled


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model x dataset fold x protocol x seed, with everything that determines its outcome.

    The id is the hash of `identity`, which excludes paths, parallelism, the device number and display names.
    """

    dataset: str
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    model: str  # distribution:architecture
    shown: str  # display name on the leaderboard
    init: Literal["pretrained", "random", "fixed", "none"]  # none: the predictions are imported
    weights_tag: str
    weights_digest: str
    protocol: Protocol
    seed: int
    image_size: int
    precision: str
    device_kind: str
    threads: int
    primary_metric: str = ""  # selects the model on val
    network: str = ""  # `identify_network`; missing in the earliest results
    purpose: Literal["score", "tune", "shuffle", "external", "imported"] = "score"
    tested_on: str = ""  # external validation: the test dataset
    test_hash: str = ""  # external validation: hash of its images and labels
    predictions: str = ""  # imported: hash of the masks of all folds
    inputs: str = ""  # columns of the second input, and a hash of their cells: "age, sex 1a2b3c4d"
    estimator: str = ""  # name and version of the protocol's estimator: "zoo-bench:svm@v1"
    num_train: int = 0  # training images
    # The protocol's named choices that are not the default, with their versions: "loss=zoo-bench:focal@1(gamma=2)"
    choices: tuple[str, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    tuned: str = ""  # the tuning grid and the chosen values, for people; the protocol contains the values
    tuned_fields: tuple[str, ...] = ()  # the protocol fields that were tuned on val
    num_tuning_runs: int = 0

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The fields that must be equal for two runs to be the same run."""
        return {
            "id_version": ID_VERSION,
            "dataset": self.dataset,
            "content_hash": self.content_hash,
            "split_hash": self.split_hash,
            "fold": self.fold,
            "model": self.model,
            "network": self.network,
            "init": self.init,
            "weights_digest": self.weights_digest,
            "protocol": resolved_fields(self.protocol),
            "seed": self.seed,
            "image_size": self.image_size,
            "precision": self.precision,
            "device_kind": self.device_kind,
            "threads": self.threads,
            "primary_metric": self.primary_metric,
            "purpose": self.purpose,
            # Omitted by default, so that ids of older runs stay valid.
            **({"batch_size": self.shrunk_batch} if self.shrunk_batch else {}),
            **({"tested_on": self.tested_on, "test_hash": self.test_hash} if self.tested_on else {}),
            **({"predictions": self.predictions} if self.predictions else {}),
            **({"estimator": self.estimator} if self.estimator else {}),
            **({"inputs": self.inputs} if self.inputs else {}),
            **({"choices": self.choices} if self.choices else {}),
        }

    @property
    def patch(self) -> tuple[int, ...]:
        """The shape of the patches that the network is trained on; () if it sees whole images."""
        return self.protocol.patch_shape(2) if self.protocol.method == "finetune" else ()

    @property
    def input_size(self) -> int:
        """The longest side of the network's input."""
        return max(self.patch, default=self.image_size)

    @property
    def shrunk_batch(self) -> int | None:
        """The number of training images if it is below the protocol's batch size, else None."""
        if self.protocol.method != "finetune" or self.num_train >= self.protocol.batch_size:
            return None
        return self.num_train or None

    @cached_property
    def id(self) -> str:
        return hash_bytes(json.dumps(self.identity, sort_keys=True, ensure_ascii=True))

    @property
    def folder(self) -> Path:
        """Path of the result, relative to the results folder."""
        fold = f".fold{self.fold}" if self.num_folds > 1 else ""
        protocol = f"{self.protocol.label}.tuning" if self.purpose == "tune" else self.protocol.label
        start = {"pretrained": self.weights_tag, "none": "imported"}.get(self.init, self.init)
        model = self.shown if self.shown.endswith(f".{start}") else f"{self.shown}.{start}"
        name = f"{safe_name(protocol)}.seed{self.seed}{fold}.{self.id[:8]}"
        data = f"{self.dataset}.to.{self.tested_on}" if self.tested_on else self.dataset
        return Path(safe_name(data)) / safe_name(model) / name

    @property
    def is_deterministic(self) -> bool:
        """Whether every seed has the same outcome, so that one run is enough. Shuffled labels depend on the seed.

        Imported predictions are fixed: a test is of them, not of training the tool again.
        """
        return self.purpose == "imported" or (self.protocol.is_deterministic(self.init) and self.purpose != "shuffle")

    @property
    def data(self) -> str:
        return trained_and_tested({"dataset": self.dataset, "tested_on": self.tested_on})

    @property
    def trained_as(self) -> Run:
        """The training run of an external validation; any other run itself."""
        return replace(self, purpose="score", tested_on="", test_hash="") if self.tested_on else self

    def describe(self) -> dict[str, Any]:
        """Return the run as plain data for `result.json`."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "protocol": dataclasses.asdict(self.protocol),
            "protocol_label": self.protocol.label,
            "deviations": [deviation.describe() for deviation in self.deviations],
        }


def read_run(described: Mapping[str, Any]) -> Run:
    """Build a run from `Run.describe`; fields unknown to this version are ignored."""
    protocol = Protocol(**known_fields(Protocol, described["protocol"]))
    defaults = {"weights_digest": "", "device_kind": ""}  # missing in the earliest results
    deviations = read_deviations(described.get("deviations", ()))
    return Run(**{**defaults, **known_fields(Run, described), "protocol": protocol, "deviations": deviations})


def known_fields(kind: type[Run | Protocol], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: as_tuples(value) for name, value in values.items() if name in names}


def as_tuples(value: object) -> object:
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def find_contradictions(described: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """List the contradictions between a stored run (`Run.describe`) and its stored identity, field by field.

    The identity is recomputed from the run. A field that exists in only one of the two was added or removed by another
    version of zoo and is not a contradiction.
    """
    run = read_run(described)
    expected = run.identity
    faults = compare_fields("", expected, identity, described)
    faults += compare_fields("protocol.", expected["protocol"], identity["protocol"], described["protocol"])
    if described["protocol_label"] != run.protocol.label:
        faults.append(f"protocol_label: {described['protocol_label']!r}, but its protocol is {run.protocol.label}")
    if (run.init == "pretrained") != (run.weights_digest != "") or (run.init != "pretrained" and run.weights_tag):
        faults.append(
            f"init: {run.init!r}, but with weights {run.weights_tag!r} ({run.weights_digest[:8] or 'no file'})"
        )
    if (run.purpose == "imported") != (run.init == "none"):
        faults.append(f"purpose: {run.purpose!r}, but with initial weights {run.init!r}")
    return faults + find_wrong_overrides(run)


def compare_fields(
    prefix: str, expected: Mapping[str, Any], identity: Mapping[str, Any], described: Mapping[str, Any]
) -> list[str]:
    faults = []
    for name in sorted({*expected, *identity} - {"id_version", "protocol"}):
        unrecorded = name not in identity and name not in described and name != "batch_size"
        if unrecorded or (name not in expected and name not in described):
            continue
        value, hashed = expected.get(name, described.get(name)), identity.get(name)
        if json.dumps(value, sort_keys=True) != json.dumps(hashed, sort_keys=True):
            faults.append(f"{prefix}{name}: {value!r} in the run, {hashed!r} in its identity")
    return faults


def find_wrong_overrides(run: Run) -> list[str]:
    """List protocol fields that contradict the overrides in the protocol's label."""
    try:
        labeled = resolved_fields(override(run.protocol, settings_of(run.protocol)))
    except UsageError as error:
        return [f"protocol.overrides: {error.message}"]
    fields = resolved_fields(run.protocol)
    candidates = sorted((fields.keys() | labeled.keys()) - set(run.tuned_fields))
    wrong = [name for name in candidates if labeled.get(name) != fields.get(name)]
    return [
        f"protocol.overrides: {name}={labeled.get(name)}, but its protocol has {fields.get(name)}" for name in wrong
    ]


def find_undeclared(run: Run, published: Protocol) -> list[str]:
    """List fields that differ from the published protocol although they are neither overridden nor tuned."""
    fields = resolved_fields(run.protocol)
    expected = resolved_fields(override(published, settings_of(run.protocol)))
    # Baselines use the image size of the other models, and their volumes.
    planned = {"image_size", "dims", "spacing"} if published.name == BASELINE.name else set()
    candidates = (fields.keys() | expected.keys()) - set(run.tuned_fields) - planned
    return [name for name in sorted(candidates) if fields.get(name) != expected.get(name)]


def settings_of(protocol: Protocol) -> dict[str, str]:
    """Return the `--set` overrides in the protocol's label."""
    return dict(override for override in protocol.overrides if override != SHUFFLED)


def trained_and_tested(run: Mapping[str, Any]) -> str:
    """Return "TRAINED -> TESTED" for an external validation, else the dataset's name; older runs lack `tested_on`."""
    return f"{run['dataset']} -> {run['tested_on']}" if run.get("tested_on") else str(run["dataset"])


def safe_name(name: str) -> str:
    """Make a folder name that is valid on every file system: replace other characters by `_`, hash long names."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "@+=._-") else "_" for c in name).lstrip(".") or "_"
    return safe if len(safe) <= 80 else f"{safe[:70]}-{hash_bytes(name)[:8]}"


def with_protocol(run: Run, protocol: Protocol, **changes: Any) -> Run:
    """Replace a run's protocol and update the deviation for a reduced batch size."""
    run = replace(run, protocol=protocol, **changes)
    others = tuple(deviation for deviation in run.deviations if deviation.kind != "batch-size")
    if run.shrunk_batch:
        others += (Deviation("batch-size", (run.shrunk_batch, protocol.batch_size)),)
    return replace(run, deviations=others)
