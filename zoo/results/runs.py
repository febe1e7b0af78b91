"""A run and its identity."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from zoo.errors import UsageError
from zoo.specs.protocol import BASELINE, Protocol, override, resolved_fields
from zoo.system.files import hash_bytes

ID_VERSION = 2  # raised when what a run id is made of, or how runs are carried out, changes
NUM_SHUFFLES = 20  # of the control with shuffled labels
SHUFFLED = "shuffled"  # how the control's protocol is marked: finetune@1+shuffled
LEAK_ALLOWED = "leak allowed:"  # how the deviation of a run begins whose dataset is not refused though it leaks


@dataclass(frozen=True, kw_only=True)
class Run:
    """One model x dataset fold x protocol x seed, everything that decides its outcome looked up. The id is their hash.

    Not in the id: paths, how many runs go at once, the device's number, the names a reader sees.
    """

    dataset: str
    content_hash: str
    split_hash: str
    fold: int
    num_folds: int
    model: str  # distribution:architecture
    shown: str  # what the leaderboard calls it
    init: Literal["pretrained", "random"]
    weights_tag: str
    weights_digest: str
    protocol: Protocol
    seed: int
    image_size: int
    precision: str
    device_kind: str
    threads: int
    primary_metric: str = ""  # by which val selects
    network: str = ""  # `identify_network`; not recorded by the first results
    purpose: Literal["score", "tune", "shuffle", "external"] = "score"
    tested_on: str = ""  # external: the dataset that the model is tested on in place of its own test split
    test_hash: str = ""  # external: of those images and their labels
    num_train: int = 0  # images of train
    deviations: tuple[str, ...] = ()
    tuned: str = ""  # which grid was tried and what won; the winner itself stands in the protocol
    num_tuning_runs: int = 0  # that chose it

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Field by field what makes this run the same as another."""
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
            # Left out where they are nothing special: those runs keep the id they have always had.
            **({"batch_size": self.shrunk_batch} if self.shrunk_batch else {}),
            **({"tested_on": self.tested_on, "test_hash": self.test_hash} if self.tested_on else {}),
        }

    @property
    def shrunk_batch(self) -> int | None:
        """The images of train, where they are fewer than the protocol's batch; None where they are enough."""
        if self.protocol.method != "finetune" or self.num_train >= self.protocol.batch_size:
            return None
        return self.num_train or None

    @cached_property
    def id(self) -> str:
        return hash_bytes(json.dumps(self.identity, sort_keys=True, ensure_ascii=True))

    @property
    def folder(self) -> Path:
        """Where its result is kept, below the results folder."""
        fold = f".fold{self.fold}" if self.num_folds > 1 else ""
        protocol = f"{self.protocol.label}.tuning" if self.purpose == "tune" else self.protocol.label
        start = self.weights_tag if self.init == "pretrained" else "random"
        model = self.shown if self.shown.endswith(f".{start}") else f"{self.shown}.{start}"
        name = f"{safe_name(protocol)}.seed{self.seed}{fold}.{self.id[:8]}"
        return Path(safe_name(self.data.replace(" -> ", ".to."))) / safe_name(model) / name

    @property
    def data(self) -> str:
        return trained_and_tested({"dataset": self.dataset, "tested_on": self.tested_on})

    @property
    def tuned_fields(self) -> set[str]:
        """The fields of the protocol that were chosen on val, as `settle` notes them."""
        return set(re.findall(r"\btuned (\w+):", self.tuned))

    @property
    def trained_as(self) -> Run:
        """The run whose model this one tests elsewhere; itself where it tests its own."""
        return replace(self, purpose="score", tested_on="", test_hash="") if self.tested_on else self

    def describe(self) -> dict[str, Any]:
        """The run as plain data, as it stands in `result.json`."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "protocol": dataclasses.asdict(self.protocol),
            "protocol_label": self.protocol.label,
            "deviations": list(self.deviations),
        }


def read_run(described: Mapping[str, Any]) -> Run:
    """The run that `Run.describe` told of; fields that another version of zoo knows are left out."""
    protocol = Protocol(**known_fields(Protocol, described["protocol"]))
    unrecorded = {"weights_digest": "", "device_kind": ""}  # by the first results
    return Run(**{**unrecorded, **known_fields(Run, described), "protocol": protocol})


def known_fields(kind: type[Run | Protocol], values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: as_tuples(value) for name, value in values.items() if name in names}


def as_tuples(value: object) -> object:
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


def find_contradictions(described: Mapping[str, Any], identity: Mapping[str, Any]) -> list[str]:
    """Where a stored run (`Run.describe`) is another than the one its id was made of, field by field.

    What follows from a run is made of it again, so that nothing need be listed here. A field that only one of the two
    knows, since another version of zoo wrote or reads it, is no contradiction.
    """
    run = read_run(described)
    again = run.identity
    found = compare_fields("", again, identity, described)
    found += compare_fields("protocol.", again["protocol"], identity["protocol"], described["protocol"])
    if described["protocol_label"] != run.protocol.label:
        found.append(f"protocol_label: {described['protocol_label']!r}, and its protocol is {run.protocol.label}")
    if (run.init == "random") != (run.weights_digest == "") or (run.init == "random" and run.weights_tag):
        found.append(f"init: {run.init!r}, with weights {run.weights_tag!r} ({run.weights_digest[:8] or 'no file'})")
    return found + find_wrong_overrides(run)


def compare_fields(
    prefix: str, again: Mapping[str, Any], identity: Mapping[str, Any], described: Mapping[str, Any]
) -> list[str]:
    found = []
    for name in sorted({*again, *identity} - {"id_version", "protocol"}):
        unrecorded = name not in identity and name not in described and name != "batch_size"
        if unrecorded or (name not in again and name not in described):
            continue
        told, hashed = again.get(name, described.get(name)), identity.get(name)
        if json.dumps(told, sort_keys=True) != json.dumps(hashed, sort_keys=True):
            found.append(f"{prefix}{name}: {told!r} in the run, {hashed!r} in its identity")
    return found


def find_wrong_overrides(run: Run) -> list[str]:
    """Where the overrides in a protocol's label are not what the run was carried out with."""
    try:
        told = resolved_fields(override(run.protocol, settings_of(run.protocol)))
    except UsageError as error:
        return [f"protocol.overrides: {error.message}"]
    fields = resolved_fields(run.protocol)
    wrong = [name for name in fields if told[name] != fields[name] and name not in run.tuned_fields]
    return [f"protocol.overrides: {name}={told[name]}, and its protocol has {fields[name]}" for name in wrong]


def find_unnamed(run: Run, published: Protocol) -> list[str]:
    """The fields in which a run's protocol is another than the published one, though neither overridden nor tuned."""
    fields = resolved_fields(run.protocol)
    expected = resolved_fields(override(published, settings_of(run.protocol)))
    planned = {"image_size"} if published.name == BASELINE.name else set()  # that of the models beside them
    others = fields.keys() - run.tuned_fields - planned
    return [name for name in sorted(others) if fields[name] != expected[name]]


def settings_of(protocol: Protocol) -> dict[str, str]:
    """What was given by `--set`, as the protocol's label says."""
    return dict(text.split("=", 1) for text in protocol.overrides if "=" in text)


def trained_and_tested(run: Mapping[str, Any]) -> str:
    """What a run (`Run.describe()`) was trained and tested on, in one name; older results do not say the latter."""
    return f"{run['dataset']} -> {run['tested_on']}" if run.get("tested_on") else str(run["dataset"])


def safe_name(name: str) -> str:
    """`name` as one folder name on every file system: other characters become `_`, a long name is cut and hashed."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "@+=._-") else "_" for c in name).lstrip(".") or "_"
    return safe if len(safe) <= 80 else f"{safe[:70]}-{hash_bytes(name)[:8]}"


def with_protocol(run: Run, protocol: Protocol, **changes: Any) -> Run:
    """The run under another protocol, its batch compared with train anew."""
    run = replace(run, protocol=protocol, **changes)
    others = tuple(deviation for deviation in run.deviations if not deviation.startswith("batch_size:"))
    if run.shrunk_batch:
        others += (f"batch_size: {run.shrunk_batch} instead of {protocol.batch_size}",)
    return replace(run, deviations=others)
