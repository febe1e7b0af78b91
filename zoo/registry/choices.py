"""Resolve the named choices of a protocol to their specs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from zoo.errors import PluginError, UsageError, nearest
from zoo.registry.loading import CORE
from zoo.registry.lookup import Kind, Registry
from zoo.specs.choice import Choice, format_choice, parse_choice, split_choices
from zoo.specs.protocol import ADDED, CHOICE_KINDS, Protocol, chosen_names

Choices = Mapping[str, tuple[Choice, ...]]  # by field of the protocol


def find_choices(protocol: Protocol, registry: Registry) -> Choices:
    """The choices of a protocol that are not the default, by field.

    Raises UsageError for an unknown name or option, and PluginError.
    """
    return {
        name: tuple(find_choice(kind, text, registry) for text in chosen_names(protocol, name))
        for name, kind in CHOICE_KINDS.items()
        if getattr(protocol, name) != ADDED[name]
    }


def shorten_setting(name: str, text: str, registry: Registry) -> str:
    """The one text of `--set NAME=TEXT` that all texts of the same choices become.

    It has the shortest names and no options at their defaults: `zoo-bench:focal(gamma=2)` is `focal`. Raises as
    `find_choices`; a text that `override` refuses is returned as it is.
    """
    kind, parts = CHOICE_KINDS.get(name), split_choices(text)
    if kind is None or text.strip().lower() in ("none", ADDED[name]):
        return text
    if len(parts) > 1 and not isinstance(ADDED[name], tuple):
        return text
    return ",".join(shorten_choice(kind, part, registry) for part in parts)


def shorten_choice(kind: Kind, text: str, registry: Registry) -> str:
    choice, (_, options) = find_choice(kind, text, registry), parse_choice(text)
    name, defaults = shortest_name(kind, choice.plugin, choice.spec.name, registry), choice.spec.options
    return format_choice(name, {option: value for option, value in options.items() if value != defaults[option]})


def shortest_name(kind: Kind, plugin: str, name: str, registry: Registry) -> str:
    """The shortest name of a plugin's spec, which need not be installed: `focal`, else `zoo-x:focal`."""
    is_first = plugin in registry.owners.get(kind, {}).get(name, ())[:1]
    return name if is_first and name in registry.specs(kind) else f"{plugin}:{name}"


def reopen_choice(kind: Kind, described: Mapping[str, Any], registry: Registry) -> Choice:
    """The choice that `Choice.describe` described, or a reader of files.

    Raises PluginError without its plugin, or with another version.
    """
    plugin, name, version = (described[part] for part in ("plugin", "name", "version"))
    specs, owners = registry.specs(kind), registry.owners.get(kind, {}).get(name, ())
    key = shortest_name(kind, plugin, name, registry)
    installed = specs[key].version if plugin in owners and key in specs else None
    if installed != version:
        found = f"has version {installed} of it" if installed else "is not installed, or does not have it"
        raise PluginError(
            f"{kind} {name!r} version {version} of {plugin} is needed, but {plugin} {found}",
            fix=f"install the {plugin} of the training",
            code=f"unknown-{kind}",
        )
    return Choice(spec=specs[key], plugin=plugin, options=dict(described["options"]))


def plugins_of(choices: Choices) -> tuple[str, ...]:
    """The distributions other than the core that register some choices."""
    plugins = dict.fromkeys(choice.plugin for each in choices.values() for choice in each)
    return tuple(name for name in plugins if name and name != CORE)


def find_choice(kind: Kind, text: str, registry: Registry) -> Choice:
    """The spec that `NAME(option=number,...)` means, with all its options."""
    name, options = parse_choice(text)
    spec, plugin = registry.find(kind, name), registry.qualified(kind, name).partition(":")[0]
    for option, value in options.items():
        if option not in spec.options:
            raise UsageError(
                f"{kind} {name!r} has no option {option!r}",
                fix=nearest(option, spec.options) or f"choose from {', '.join(spec.options) or 'none'}",
                code="bad-protocol",
            )
        low, high = spec.bounds.get(option, (-math.inf, math.inf))
        if not low <= value <= high:
            raise UsageError(
                f"{kind} {name!r}: {option} is {value:g}",
                fix=f"give a number from {low:g} to {high:g}" if high < math.inf else f"give {low:g} or more",
                code="bad-protocol",
            )
    return Choice(spec=spec, plugin=plugin, options={**spec.options, **options})
