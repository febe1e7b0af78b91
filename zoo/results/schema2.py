"""Upgrade documents of schema 2, which stored overrides, errors with their fix, and reasons as texts."""

from __future__ import annotations

from typing import Any


def upgrade_from_2(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of schema 2 in the current schema; invalid fields are left for the validation."""
    if document["schema"] > 2:
        return document
    run = document.get("run")
    if isinstance(run, dict) and isinstance(run.get("protocol"), dict):
        document["run"] = {**run, "protocol": upgrade_protocol(run["protocol"])}
    error = document.get("error")
    if isinstance(error, dict) and isinstance(text := error.get("message"), str):
        message, _, fix = text.partition("; fix: ")
        document["error"] = {**error, "message": message, "fix": fix}
    for kind in ("scores", "image_scores"):
        if isinstance(document.get(kind), dict):
            document[kind] = {name: upgrade_reason(values) for name, values in document[kind].items()}
    return document


def upgrade_reason(score: Any) -> Any:
    reason = score.get("reason") if isinstance(score, dict) else None
    if not isinstance(reason, dict) or reason.get("text") is None:
        return score
    return {**score, "reason": {"code": reason.get("code"), "sentence": reason["text"]}}


def upgrade_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    overrides = protocol.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        return protocol
    return {**protocol, "overrides": [[name, text] for name, _, text in (each.partition("=") for each in overrides)]}
