"""Upgrade documents of schema 2, which stored the overrides of a protocol as texts."""

from __future__ import annotations

from typing import Any


def upgrade_from_2(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document of schema 2 in the current schema; invalid fields are left for the validation."""
    if document["schema"] > 2:
        return document
    run = document.get("run")
    if isinstance(run, dict) and isinstance(run.get("protocol"), dict):
        document["run"] = {**run, "protocol": upgrade_protocol(run["protocol"])}
    return document


def upgrade_protocol(protocol: dict[str, Any]) -> dict[str, Any]:
    overrides = protocol.get("overrides")
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        return protocol
    return {**protocol, "overrides": [[name, text] for name, _, text in (each.partition("=") for each in overrides)]}
