"""Methods of confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.statistics.intervals import NUM_RESAMPLES

PATIENTS_AND_SEEDS = "patients + seeds"

# A new code needs a higher RESULT_SCHEMA, because older versions refuse it.
MethodCode = Literal[
    "wilson",
    "logit-delong",
    "newcombe",
    "clustered-newcombe",
    "bootstrap",
    "noise-free-bootstrap",
    "mover",
    "mover-r",
    "shuffles",
    "datasets",
    "other",
]
METHOD_NAMES: Mapping[MethodCode, str] = {
    "wilson": "wilson",
    "logit-delong": "logit-DeLong",
    "newcombe": "Newcombe's method 5",
    "clustered-newcombe": "Newcombe's method 5 with a design effect by patient",
    "mover": "MOVER of the two intervals",
    "mover-r": "MOVER-R of sensitivity's and specificity's",
    "datasets": f"patients within datasets and seeds within models, B={NUM_RESAMPLES}",
}
RESAMPLED = {"patient": "patient-cluster", "image": "image"}


@dataclass(frozen=True, kw_only=True)
class IntervalMethod:
    """The method of an interval."""

    code: MethodCode
    unit: Literal["patient", "image", ""] = ""  # of a bootstrap: what is resampled
    count: int = 0  # of a bootstrap: the resamples without a value; of "shuffles": their number
    with_seeds: bool = False  # the variance between seeds is added
    name: str = ""  # of "other", in a result of schema 1

    @property
    def is_bootstrap(self) -> bool:
        return self.code in ("bootstrap", "noise-free-bootstrap")

    @property
    def text(self) -> str:
        """The method in words: "patient-cluster bootstrap, B=2000"."""
        if self.is_bootstrap:
            text = f"{RESAMPLED.get(self.unit, self.unit)} bootstrap, B={NUM_RESAMPLES}"
            text += ", less noise" if self.code == "noise-free-bootstrap" else ""
            text += f", undefined in {self.count}" if self.count else ""
        elif self.code == "shuffles":
            text = f"t over {self.count} shuffles"
        else:
            text = METHOD_NAMES.get(self.code, self.name)
        return f"{text} ({PATIENTS_AND_SEEDS})" if self.with_seeds else text
