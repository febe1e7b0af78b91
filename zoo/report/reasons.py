"""Format reasons for a missing value, interval or rank as sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from zoo.evaluation.reasons import Reason, ReasonCode
from zoo.evaluation.values import Score
from zoo.specs.section import Section

REASON_TEXTS: Mapping[ReasonCode, str] = {
    "wrong-task": "not a metric of {} tasks",
    "undefined": "{}",
    "failed": "{}",
    "absent-in-fold": "too few: none in one of {} folds",
    "no-interval": "no interval: {}",
    "undefined-resamples": "no interval: undefined in {} of {} resamples",
    "equal-resamples": "no interval: every resample gives the same value",
    "biased-resamples": "no interval: biased, the resampled values lie beside the value",
    "one-shuffle": "no interval: one shuffle",
    "undefined-seed": "no interval: undefined in a seed",
    "no-positive-decisions": "nothing is called positive",
    "no-negative-decisions": "nothing is called negative",
    "partly-stated": "not stated for every run",
    "stated": "stated by the bundle, which holds no targets",
    "not-run": "no finished run",
    "of": "{}: {}",
}


def reason_text(reason: Reason | str) -> str:
    """A reason as a sentence; a text as it is."""
    if isinstance(reason, str):
        return reason
    if reason.sentence:
        return reason.sentence
    details = [reason_text(part) if isinstance(part, Reason) else part for part in reason.detail]
    if reason.code == "too-few":
        return too_few_text(*details)
    if reason.code == "several":
        return "; ".join(map(str, details))
    if reason.code == "not-run-on":
        what, *pairs = details
        datasets = (f"{name} ({why})" for name, why in zip(pairs[::2], pairs[1::2], strict=True))
        return f"{what}not run: {', '.join(datasets)}"
    return REASON_TEXTS[reason.code].format(*details)


def too_few_text(number: Any, needed: Any, what: Any, label: Any, patient: Any) -> str:
    plural = "s" * (number != 1)
    of_label = f" of {label!r}" if label else ""
    of_patients = f" ({patient}{plural})" if patient else ""
    return f"too few: {number} {what}{plural}{of_label}{of_patients}, {needed} are needed"


def text_or_none(reason: Reason | str | None) -> str | None:
    return None if reason is None else reason_text(reason)


def describe_score(score: Score) -> dict[str, Any]:
    """A score as plain data for people and programs, with method and reason in words."""
    method = score.method.text if score.method else ""
    return {**asdict(score), "method": method, "reason": text_or_none(score.reason)}


def section_notes(section: Section) -> Iterator[str]:
    return map(reason_text, section.notes)
