"""Reasons why a value, an interval or a rank is missing, as data; `report.reasons` makes them sentences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zoo.errors import Undefined, clean, message_of
from zoo.statistics.intervals import Interval

# A new code needs a sentence in report/reasons.py and, if it is stored, a higher RESULT_SCHEMA.
ReasonCode = Literal[
    "wrong-task",
    "undefined",
    "failed",
    "too-few",
    "absent-in-fold",
    "no-interval",
    "undefined-resamples",
    "equal-resamples",
    "biased-resamples",
    "one-shuffle",
    "undefined-seed",
    "no-positive-decisions",
    "no-negative-decisions",
    "partly-stated",
    "stated",
    "not-run",
    "of",
    "several",
    "not-run-on",
]
# The codes that results may store, with the number of their details.
NUM_REASON_DETAILS: Mapping[ReasonCode, int] = {
    "wrong-task": 1,  # the task that the metric is not for
    "undefined": 1,  # the message of `Undefined`: the metric has no value for these predictions
    "failed": 1,  # the error that the metric raised
    "too-few": 5,  # number, the number needed, what is counted, label or "", "patient" if a patient has several units
    "absent-in-fold": 1,  # a group that has no unit in one of so many folds
    "no-interval": 1,  # the error of a metric's function
    "undefined-resamples": 2,  # number of them, of how many
    "equal-resamples": 0,
    "biased-resamples": 0,
    "one-shuffle": 0,
    "undefined-seed": 0,
    "no-positive-decisions": 0,
    "no-negative-decisions": 0,
    "partly-stated": 0,  # a bundle without targets states the score of some runs only
    "stated": 0,  # a bundle without targets states the score
    "not-run": 0,
}
# The other codes join reasons and texts:
# "of": what lacks something, why; "several": any number; "not-run-on": what, then pairs of a dataset and why.


@dataclass(frozen=True)
class Reason:
    """Why there is no value, interval or rank."""

    code: ReasonCode
    detail: tuple[str | int | Reason, ...] = ()
    sentence: str = ""  # of a result of schema 1 or 2, which stored no details


class Unavailable(Undefined):
    """Raised where a value is undefined for a reason that is data."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.code)
        self.reason = reason


def reason_for(error: BaseException, code: ReasonCode) -> Reason:
    """The reason that an error carries, else its message under a code."""
    if isinstance(error, Unavailable):
        return error.reason
    return Reason(code, (clean(error) if isinstance(error, Undefined) else describe_error(error),))


def describe_error(error: BaseException) -> str:
    return clean(f"{type(error).__name__}: {message_of(error)}")


def reason_for_interval(interval: Interval) -> Reason:
    """Why resampled values give no interval."""
    if interval.fault == "undefined":
        return Reason("undefined-resamples", (interval.num_undefined, interval.num_resamples))
    return Reason("equal-resamples")
