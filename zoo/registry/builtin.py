"""Everything that can be asked for here: what the core brings itself, and the plugins installed beside it."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.baselines import BASELINES
from zoo.executor import EXECUTORS
from zoo.files import cache_root
from zoo.metrics import METRICS
from zoo.protocol import PROTOCOLS
from zoo.registry.finding import find_plugins
from zoo.registry.loading import load_registry
from zoo.registry.lookup import Kind, Registry, Spec
from zoo.registry.probing import keep_from_harm


def open_registry() -> Registry:
    """Load every installed plugin whose import ends; the core's own specs go the same way as a plugin's."""
    builtin: dict[Kind, Sequence[Spec]] = {
        "model": BASELINES,
        "metric": METRICS,
        "protocol": PROTOCOLS,
        "executor": EXECUTORS,
    }
    return load_registry(keep_from_harm(find_plugins(), cache_root()), builtin=builtin)
