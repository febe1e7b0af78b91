"""The registry, which resolves names to specs. Every spec is listed under the shortest name that denotes it."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

from zoo.errors import PluginError, UsageError, nearest, plural_of, unknown
from zoo.registry.finding import OUR_PLUGINS, canonical, how_to_remove
from zoo.specs.dataset import DatasetSpec
from zoo.specs.executor import ExecutorSpec
from zoo.specs.hooks import KINDS
from zoo.specs.metric import MetricSpec
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.protocol import Protocol
from zoo.specs.suite import Suite

Kind = str  # one of KINDS in zoo/specs/hooks.py
WILDCARDS = "*?["


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One line of `zoo plugin list`: `counts` has the number of specs of each kind, `reason` why specs are missing.

    A `partial` plugin has valid and invalid specs; the invalid ones are left out, and `reason` lists them all.
    """

    name: str
    version: str = ""
    status: Literal["ok", "partial", "broken"] = "ok"
    reason: str = ""
    counts: Mapping[Kind, int] = field(default_factory=dict)
    summary: str = ""
    author: str = ""
    url: str = ""
    file: str = ""  # of a plugin without a distribution
    module: str = ""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that cannot be used, or only in part (`partial`), and the reason. The other plugins still work."""

    plugin: str
    version: str
    reason: str
    partial: bool = False
    file: str = ""  # of a plugin without a distribution

    @property
    def removal(self) -> str:
        return how_to_remove(self.plugin, self.file)

    @property
    def state(self) -> str:
        return "broken in parts, which are left out" if self.partial else "broken and left out"


class ModelName(NamedTuple):
    """The parts of `distribution:architecture.weights_tag`; missing parts are empty."""

    qualifier: str
    architecture: str
    tag: str


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """The model that a name means. Two names of the same architecture and weights give equal choices."""

    name: str  # "zoo-timm:resnet18"
    spec: ModelSpec
    weights: Weights | None  # None if the model has no pretrained weights
    shown: str  # its shortest name: "resnet18", or "resnet18.a1_in1k" if the tag is not the default one
    release: str = ""  # version of its plugin


@dataclass(init=False)
class Registry:
    """All specs, under the shortest name that denotes each.

    This is the plain name, or `distribution:name` if the plain name means the spec of another plugin or is ambiguous.
    `owners[kind][plain name]` lists the distributions that register a name; the plain name means the first one.
    `prefixes` maps other spellings of `distribution:` to distributions. Specs are given by kind: `metrics={...}`.
    """

    by_kind: Mapping[Kind, Mapping[str, Any]]
    plugins: tuple[Plugin, ...]
    broken: tuple[BrokenPlugin, ...]
    owners: Mapping[Kind, Mapping[str, tuple[str, ...]]]
    prefixes: Mapping[str, str]

    def __init__(
        self,
        *,
        by_kind: Mapping[Kind, Mapping[str, Any]] | None = None,
        plugins: Sequence[Plugin] = (),
        broken: Sequence[BrokenPlugin] = (),
        owners: Mapping[Kind, Mapping[str, tuple[str, ...]]] | None = None,
        prefixes: Mapping[str, str] | None = None,
        **specs: Mapping[str, Any],
    ) -> None:
        self.plugins, self.broken = tuple(plugins), tuple(broken)
        self.owners, self.prefixes = owners or {}, prefixes or {}
        self.by_kind = {kind: specs.pop(plural_of(kind), (by_kind or {}).get(kind, {})) for kind in KINDS}
        if specs:
            raise TypeError(f"unknown kinds of specs: {', '.join(specs)}")

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        return self.by_kind["model"]

    @property
    def datasets(self) -> Mapping[str, DatasetSpec]:
        return self.by_kind["dataset"]

    @property
    def metrics(self) -> Mapping[str, MetricSpec]:
        return self.by_kind["metric"]

    @property
    def protocols(self) -> Mapping[str, Protocol]:
        return self.by_kind["protocol"]

    @property
    def executors(self) -> Mapping[str, ExecutorSpec]:
        return self.by_kind["executor"]

    @property
    def suites(self) -> Mapping[str, Suite]:
        return self.by_kind["suite"]

    def specs(self, kind: Kind) -> Mapping[str, Any]:
        """All specs of one kind."""
        return self.by_kind[kind]

    @overload
    def find(self, kind: Literal["model"], name: str) -> ModelSpec: ...
    @overload
    def find(self, kind: Literal["dataset"], name: str) -> DatasetSpec: ...
    @overload
    def find(self, kind: Literal["metric"], name: str) -> MetricSpec: ...
    @overload
    def find(self, kind: Literal["protocol"], name: str) -> Protocol: ...
    @overload
    def find(self, kind: Literal["executor"], name: str) -> ExecutorSpec: ...
    @overload
    def find(self, kind: Kind, name: str) -> Any: ...
    def find(self, kind: Kind, name: str) -> Any:
        """The spec called `name` or `distribution:name`. Use `find_model` for a name with a weights tag."""
        return self.specs(kind)[self.key(kind, name)]

    def find_model(self, name: str) -> ModelChoice:
        """The architecture and weights that `name` means; without a tag, the first weights of the model.

        If several plugins register the architecture, the tag decides between them.
        """
        qualifier, architecture, tag = self.split_model_name(name)
        if not architecture:
            raise self.not_found("model", name)
        requested = f"{qualifier}:{architecture}" if qualifier else architecture
        if not tag:
            return self.choose(self.key("model", requested), "")
        rivals = [self.key("model", requested)] if qualifier else self.keys_of("model", architecture)
        if not rivals:
            raise self.not_found("model", architecture)
        candidates = [key for key in rivals if find_tagged_weights(self.models[key], tag)]
        if not candidates:
            raise unknown_tag(
                architecture, tag, [weights.tag for key in rivals for weights in self.models[key].weights]
            )
        if len(candidates) > 1 and candidates[0] != architecture:
            raise ambiguous("model", f"{architecture}.{tag}", [f"{key}.{tag}" for key in candidates])
        return self.choose(candidates[0], tag)

    def match(self, kind: Kind, pattern: str) -> list[str]:
        """The names that match a glob. A plain name matches itself and must exist.

        `resnet*` matches names that need no distribution in front, `zoo-torchvision:*` all names of one plugin, and
        `resnet18.*` the weights of models.
        """
        if not any(character in pattern for character in WILDCARDS):
            if kind == "model":
                self.find_model(pattern)
            else:
                self.find(kind, pattern)
            return [pattern]
        split = self.split_model_name if kind == "model" else split_plainly
        qualifier, architecture, tag = split(pattern)
        if qualifier:
            self.require_plugin(qualifier)
        names = [key for key in self.specs(kind) if self.matches(kind, key, qualifier, architecture, bool(tag))]
        if tag:
            tagged = [
                f"{key if qualifier else split_qualifier(key)[1]}.{weights.tag}"
                for key in names
                for weights in self.models[key].weights
                if fnmatch.fnmatchcase(weights.tag, tag)
            ]
            names = list(dict.fromkeys(tagged))
        if not names:
            raise UsageError(
                f"no {kind} matches {pattern!r}",
                fix=f"`zoo list {plural_of(kind)}` shows the {len(self.specs(kind))} installed",
                code=f"unknown-{kind}",
            )
        return names

    def qualified(self, kind: Kind, name: str) -> str:
        """`distribution:name` for any name of a spec; the plain name in a registry without distributions."""
        key = self.key(kind, name)
        owners = self.owners.get(kind, {}).get(key, ())
        return f"{owners[0]}:{key}" if owners else key

    @overload
    def find_family(self, kind: Literal["model"], name: str) -> ModelSpec | None: ...
    @overload
    def find_family(self, kind: Literal["dataset"], name: str) -> DatasetSpec | None: ...
    def find_family(self, kind: Kind, name: str) -> Any:
        """The spec that resolves `FAMILY:...`, if `name` has such a prefix.

        Raises UsageError or PluginError if a plugin of this project resolves it but is not installed or is broken.
        """
        prefix, colon, _ = name.partition(":")
        family = self.specs(kind).get(prefix) if colon else None
        if family is not None and family.find:
            return family
        plugin = f"zoo-{prefix}"
        usable = any(each.name == plugin and each.status == "ok" for each in self.plugins)
        if colon and OUR_PLUGINS.get(plugin) == kind and not usable:
            if plugin in {broken.plugin for broken in self.broken}:
                self.require_plugin(plugin)
            error = UsageError(
                f"{kind} {name!r}: {plugin} is not installed", fix=f"pip install {plugin}", code=f"unknown-{kind}"
            )
            raise self.left_out(plugin, error)
        return None

    def expand_models(self, name: str) -> tuple[str, ...]:
        """The models of the suite called `name`, else the name itself."""
        return self.suites[name].models if name in self.suites else (name,)

    def split_model_name(self, name: str) -> ModelName:
        """Split a model's name, which may begin with another spelling of its distribution."""
        for prefix, distribution in self.prefixes.items():
            if name.startswith(prefix):
                return split_model_name(f"{distribution}:{name.removeprefix(prefix)}")
        return split_model_name(name)

    # --- resolving names ---
    def key(self, kind: Kind, name: str) -> str:
        """The shortest name of the spec that `name` denotes. Raises UsageError or PluginError."""
        specs = self.specs(kind)
        if name in specs:
            return name
        qualifier, plain = split_qualifier(name)
        if not qualifier:
            rivals = self.keys_of(kind, plain)
            raise ambiguous(kind, plain, rivals) if rivals else self.not_found(kind, name)
        if f"{qualifier}:{plain}" in specs:  # requested as `Zoo_X:`
            return f"{qualifier}:{plain}"
        self.require_plugin(qualifier)
        if self.owners.get(kind, {}).get(plain, ("",))[0] == qualifier and plain in specs:
            return plain
        raise self.left_out(qualifier, self.not_found(kind, name))

    def keys_of(self, kind: Kind, plain: str) -> list[str]:
        """The keys of all specs with this plain name; the first is the one it means."""
        specs = self.specs(kind)
        others = [f"{owner}:{plain}" for owner in self.owners.get(kind, {}).get(plain, ())]
        return [key for key in (plain, *others) if key in specs]

    def matches(self, kind: Kind, key: str, qualifier: str, pattern: str, tagged: bool) -> bool:
        """Whether a glob matches this key. Without a qualifier or tag, a plain name matches one spec only."""
        owner, plain = split_qualifier(self.qualified(kind, key))
        if qualifier:
            return owner == qualifier and fnmatch.fnmatchcase(plain, pattern)
        secondary = key != plain and plain in self.specs(kind)
        return (tagged or not secondary) and fnmatch.fnmatchcase(plain, pattern)

    def choose(self, key: str, tag: str) -> ModelChoice:
        spec = self.models[key]
        weights = find_tagged_weights(spec, tag)
        name, shown = self.qualified("model", key), key
        if weights and weights != spec.weights[0]:
            plain = split_qualifier(key)[1]
            candidates = [
                rival for rival in self.keys_of("model", plain) if find_tagged_weights(self.models[rival], weights.tag)
            ]
            shown = f"{plain if candidates == [key] else key}.{weights.tag}"
        return ModelChoice(name=name, spec=spec, weights=weights, shown=shown, release=self.release_of(name))

    def release_of(self, name: str) -> str:
        """The version of the distribution in a qualified name; empty if unknown."""
        distribution = name.partition(":")[0]
        return next((plugin.version for plugin in self.plugins if plugin.name == distribution), "")

    def require_plugin(self, name: str) -> None:
        """Raise PluginError if the plugin is broken, or UsageError if it is not installed. A partial one is usable."""
        for broken in self.broken:
            if broken.plugin == name and not broken.partial:
                raise PluginError(
                    f"plugin {name} {broken.version}".rstrip() + f" is broken: {broken.reason}",
                    fix=f"repair it, or {broken.removal}",
                    code="broken-plugin",
                )
        installed = {plugin.name for plugin in self.plugins}
        if name not in installed:
            raise UsageError(
                f"unknown plugin {name!r}",
                fix=f"{nearest(name, installed)} `zoo plugin list` shows the {len(installed)} installed".strip(),
                code="unknown-plugin",
            )

    def left_out(self, plugin: str, error: UsageError | PluginError) -> UsageError | PluginError:
        """Add the mistakes of a partial plugin to the error for a spec that it does not have."""
        reason = next((broken.reason for broken in self.broken if broken.plugin == plugin and broken.partial), "")
        return (
            type(error)(f"{error.message}; left out of {plugin}: {reason}", fix=error.fix, code=error.code)
            if reason
            else error
        )

    def not_found(self, kind: Kind, name: str) -> UsageError | PluginError:
        """The error for an unknown name, which may be a broken plugin or one of its specs."""
        if canonical(name) in {broken.plugin for broken in self.broken if not broken.partial}:
            self.require_plugin(canonical(name))
        error = unknown(kind, name, self.specs(kind))
        if not self.broken:
            return error
        names = ", ".join(broken.plugin for broken in self.broken)
        return UsageError(error.message, fix=f"{error.fix}; broken plugins may have it: {names}", code=error.code)


def split_qualifier(name: str) -> tuple[str, str]:
    """Split `distribution:name`; the distribution may be empty. `family:owner/name` is not split."""
    distribution, colon, plain = name.partition(":")
    return (canonical(distribution), plain) if colon and "/" not in plain else ("", name)


def split_plainly(name: str) -> ModelName:
    """Split the name of a spec without weights: dots belong to the name."""
    return ModelName(*split_qualifier(name), "")


def split_model_name(name: str) -> ModelName:
    """Split a model's name at the colon and at the first dot, which names of architectures do not contain.

    `family:owner/name` is not split.
    """
    qualifier, plain = split_qualifier(name)
    if "/" in plain:
        return ModelName("", name, "")
    architecture, _, tag = plain.partition(".")
    return ModelName(qualifier, architecture, tag)


def find_tagged_weights(spec: ModelSpec, tag: str) -> Weights | None:
    """The weights with this tag, or the default weights without a tag; None if there are none."""
    return next((weights for weights in spec.weights if tag in ("", weights.tag)), None)


def unknown_tag(architecture: str, tag: str, tags: Sequence[str]) -> UsageError:
    message = f"model {architecture!r} has no weights {tag!r}"
    if not tags:
        return UsageError(message, fix=f"it has none; use {architecture!r} without a tag", code="unknown-weights")
    close = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4) or list(tags)[:5]
    return UsageError(
        message,
        fix=f"choose from {', '.join(close)}; `zoo info models {architecture}` shows all {len(tags)}",
        code="unknown-weights",
    )


def ambiguous(kind: Kind, name: str, keys: Sequence[str]) -> UsageError:
    return UsageError(
        f"{kind} {name!r} is ambiguous: {len(keys)} plugins have it",
        fix=f"use {' or '.join(keys)}",
        code=f"ambiguous-{kind}",
    )
