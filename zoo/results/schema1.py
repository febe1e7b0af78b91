"""Upgrade documents of schema 1, which stored facts as sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from zoo.evaluation.methods import METHOD_NAMES, MethodCode
from zoo.evaluation.reasons import ReasonCode
from zoo.specs.deviation import DeviationKind

DEVIATIONS: Mapping[DeviationKind, str] = {
    "no-weights": r"weights: none found, random init",
    "local-weights": r"weights: local file, mean and std not declared; .*",
    "image-size": r"image_size: (\d{1,9}) instead of (\d{1,9})",
    "batch-size": r"batch_size: (\d{1,9}) instead of (\d{1,9})",
    "batch-parts": r"out of memory: batches of (\d{1,9}) in parts of (\d{1,9})",
    "leak-allowed": r"leak allowed:\s*(.*)",
    "other-predictions": r"weights: (.+), and val predicted up to (\S+) otherwise than by the finished run",
}
# How a reason begins. Other texts are reasons of undefined values or of failed metrics; which of them is not recorded.
REASONS: Mapping[ReasonCode, str] = {
    "wrong-task": "not a metric of ",
    "too-few": "too few: ",
    "no-interval": "no interval: ",
}
METHODS: tuple[MethodCode, ...] = ("wilson", "logit-delong", "newcombe", "clustered-newcombe")
TUNED_NAME = re.compile(r"\btuned (\w+):")
WITH_SEEDS = " (patients + seeds)"
BOOTSTRAP = re.compile(r"(patient-cluster|image) bootstrap, B=2000(, less noise)?(?:, undefined in (\d{1,4}))?")


def upgrade(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of schema 1 in schema 2; invalid fields are left for the validation."""
    if document["schema"] > 1:
        return document
    document = upgrade_deviations(document)
    if isinstance(run := document.get("run"), dict):
        document["run"] = upgrade_deviations(run) | {"tuned_fields": TUNED_NAME.findall(str(run.get("tuned", "")))}
    for kind in ("scores", "image_scores"):
        if isinstance(document.get(kind), dict):
            document[kind] = {name: upgrade_score(values) for name, values in document[kind].items()}
    return document


def upgrade_deviations(part: Mapping[str, Any]) -> dict[str, Any]:
    deviations = part.get("deviations")
    if not isinstance(deviations, list):
        return dict(part)
    return {**part, "deviations": [parse_deviation(each) if isinstance(each, str) else each for each in deviations]}


def upgrade_score(values: Any) -> Any:
    if not isinstance(values, dict):
        return values
    parsers = {"method": parse_method, "reason": parse_reason}
    return values | {name: parse(values[name]) for name, parse in parsers.items() if isinstance(values.get(name), str)}


def parse_reason(text: str) -> dict[str, Any]:
    code = next((code for code, start in REASONS.items() if text.startswith(start)), "undefined")
    return {"code": code, "text": text}


def parse_method(text: str) -> dict[str, Any] | None:
    if not text:
        return None
    name = text.removesuffix(WITH_SEEDS)
    with_seeds = name != text
    for code in METHODS:
        if name == METHOD_NAMES[code]:
            return {"code": code, "with_seeds": with_seeds}
    if match := BOOTSTRAP.fullmatch(name):
        unit, noise, count = match.groups()
        code = "noise-free-bootstrap" if noise else "bootstrap"
        unit = "patient" if unit == "patient-cluster" else "image"
        return {"code": code, "unit": unit, "count": int(count or 0), "with_seeds": with_seeds}
    return {"code": "other", "name": text}


def parse_deviation(text: str) -> dict[str, Any]:
    for kind, pattern in DEVIATIONS.items():
        if match := re.fullmatch(pattern, text, re.DOTALL):
            are_numbers = kind in ("image-size", "batch-size", "batch-parts")
            return {"kind": kind, "detail": [int(group) if are_numbers else group for group in match.groups()]}
    return {"kind": "other", "detail": [text]}
