"""From what is installed to a registry: plugins found, tried, loaded one by one, and the names they give resolved."""

from zoo.registry.finding import FoundPlugin, find_plugins
from zoo.registry.loading import HOOKS, check_fields, check_name, load_registry, quiet_stdout
from zoo.registry.lookup import HUB, WILDCARDS, BrokenPlugin, Kind, ModelChoice, Registry, split_model_name
from zoo.registry.opening import open_registry

__all__ = [
    "HOOKS",
    "HUB",
    "WILDCARDS",
    "BrokenPlugin",
    "FoundPlugin",
    "Kind",
    "ModelChoice",
    "Registry",
    "check_fields",
    "check_name",
    "find_plugins",
    "load_registry",
    "open_registry",
    "quiet_stdout",
    "split_model_name",
]
