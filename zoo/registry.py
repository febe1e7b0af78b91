"""From installed distributions to a registry: plugins found, loaded one by one, and the names they give resolved."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import inspect
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal, NamedTuple, overload

import pluggy

from zoo import hookspecs
from zoo.errors import DataError, PluginError, UsageError, clean, nearest, unknown
from zoo.hookspecs import CONTRACT, PROJECT, hookimpl
from zoo.protocol import Protocol
from zoo.sources import card_dataset
from zoo.specs import DatasetSpec, ExecutorSpec, MetricSpec, ModelSpec, Weights
from zoo.system import process_unchanged

Kind = Literal["model", "dataset", "metric", "protocol", "executor"]
Spec = ModelSpec | DatasetSpec | MetricSpec | Protocol | ExecutorSpec

SPEC_TYPES: dict[Kind, type[Any]] = {
    "model": ModelSpec,
    "dataset": DatasetSpec,
    "metric": MetricSpec,
    "protocol": Protocol,
    "executor": ExecutorSpec,
}
HOOKS: dict[Kind, str] = {kind: f"register_{kind}s" for kind in SPEC_TYPES}

CORE = "zoo-bench"
# A bare name that several offer means the first of these. The core comes first: installing a stranger's plugin must
# not change, or take away, what `auroc` or `finetune` means in a published suite.
PRECEDENCE = (CORE, "zoo-timm", "zoo-torchvision")

SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # becomes a folder's name; a leading "-" would read as a flag
GROUP = re.compile(r"zoo\.v(\d+)")
WILDCARDS = "*?["
HUB = "hf-hub:"
# Prefixes of names that a plugin looks up when they are asked for, and the plugin that does: never a distribution's.
DATASET_PREFIXES = {"kaggle:": "zoo-kaggle"}


# --- the stages -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True)
class FoundPlugin:
    """A plugin that is installed; nothing of it has been imported. `load` returns what its entry point names."""

    name: str  # of its distribution
    version: str = ""
    group: str = f"zoo.v{CONTRACT}"
    module: str = ""  # that its entry point names
    load: Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One line of `zoo plugin list`: `counts` says how many specs of each kind it gives, `reason` why it is broken."""

    name: str
    version: str = ""
    status: Literal["ok", "broken"] = "ok"
    reason: str = ""
    counts: Mapping[Kind, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BrokenPlugin:
    """A plugin that gives nothing, and why; the others serve on."""

    plugin: str
    version: str
    reason: str


class ModelName(NamedTuple):
    """The parts of `distribution:architecture.weights_tag`; what is not said is empty."""

    qualifier: str
    architecture: str
    tag: str


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """What a model's name means. Two names for the same architecture and weights give equal choices."""

    name: str  # "zoo-timm:resnet18"
    spec: ModelSpec
    weights: Weights | None  # None where the model has no pretrained weights at all
    shown: str  # the shortest name for it: "resnet18", "resnet18.a1_in1k" where the tag is not the default one


@dataclass(frozen=True, kw_only=True)
class Registry:
    """Every spec that can be asked for, under the shortest name that denotes it.

    That is the plain name, or `distribution:name` where another plugin's is meant by the plain one or where nobody's
    is. `owners[kind][plain name]` lists the distributions that offer a name, the one it means first.
    """

    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    datasets: Mapping[str, DatasetSpec] = field(default_factory=dict)
    metrics: Mapping[str, MetricSpec] = field(default_factory=dict)
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    executors: Mapping[str, ExecutorSpec] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    broken: tuple[BrokenPlugin, ...] = ()
    owners: Mapping[Kind, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

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
    def find(self, kind: Kind, name: str) -> Spec:
        """The spec called `name` or `distribution:name`. A model's weights tag is for `find_model`."""
        spec: Spec = self.specs(kind)[self.key(kind, name)]
        return spec

    def find_model(self, name: str) -> ModelChoice:
        """The architecture and weights that `name` means; without a tag, the weights the model lists first.

        A tag that only one of several same-named architectures has chooses that one.
        """
        qualifier, architecture, tag = split_model_name(name)
        if not architecture:
            raise self.not_found("model", name)
        asked = f"{qualifier}:{architecture}" if qualifier else architecture
        if not tag:
            return self.choose(self.key("model", asked), "")
        rivals = [self.key("model", asked)] if qualifier else self.keys_of("model", architecture)
        if not rivals:
            raise self.not_found("model", architecture)
        having = [key for key in rivals if find_weights(self.models[key], tag)]
        if not having:
            raise unknown_tag(
                architecture, tag, [weights.tag for key in rivals for weights in self.models[key].weights]
            )
        if len(having) > 1 and having[0] != architecture:
            raise ambiguous("model", f"{architecture}.{tag}", [f"{key}.{tag}" for key in having])
        return self.choose(having[0], tag)

    def match(self, kind: Kind, pattern: str) -> list[str]:
        """The names a glob stands for; a plain name stands for itself, and must exist too.

        `resnet*` goes over the names that need no distribution in front, `zoo-torchvision:*` over all of one plugin,
        and `resnet18.*` over the weights of models.
        """
        if not any(character in pattern for character in WILDCARDS):
            if kind == "model":
                self.find_model(pattern)
            else:
                self.find(kind, pattern)
            return [pattern]
        qualifier, architecture, tag = split_model_name(pattern) if kind == "model" else (*split_qualifier(pattern), "")
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
                fix=f"`zoo list {kind}s` shows the {len(self.specs(kind))} installed",
                code=f"unknown-{kind}",
            )
        return names

    def qualified(self, kind: Kind, name: str) -> str:
        """`distribution:name` for any name of a spec; a registry made by hand knows no distributions."""
        key = self.key(kind, name)
        owners = self.owners.get(kind, {}).get(key, ())
        return f"{owners[0]}:{key}" if owners else key

    def specs(self, kind: Kind) -> Mapping[str, Any]:
        """All specs of one kind."""
        specs: Mapping[str, Any] = getattr(self, f"{kind}s")
        return specs

    def find_family(self, name: str) -> DatasetSpec | None:
        """The spec that stands for all called `PREFIX:...`, if `name` is such a one; an error if it is missing."""
        prefix = next((prefix for prefix in DATASET_PREFIXES if name.startswith(prefix)), "")
        if not prefix:
            return None
        family = self.datasets.get(prefix.rstrip(":"))
        if family is None or family.find is None:
            plugin = DATASET_PREFIXES[prefix]
            if plugin in {broken.plugin for broken in self.broken}:
                self.require_plugin(plugin)
            raise UsageError(
                f"dataset {name!r}: {plugin} is not installed", fix=f"pip install {plugin}", code="unknown-dataset"
            )
        return family

    # --- how a name is resolved ---
    def key(self, kind: Kind, name: str) -> str:
        """The shortest name of what `name` denotes, or an error that says what is there instead."""
        specs = self.specs(kind)
        if name in specs:
            return name
        qualifier, plain = split_qualifier(name)
        if not qualifier:
            rivals = self.keys_of(kind, plain)
            raise ambiguous(kind, plain, rivals) if rivals else self.not_found(kind, name)
        if f"{qualifier}:{plain}" in specs:  # asked for as `Zoo_X:`
            return f"{qualifier}:{plain}"
        self.require_plugin(qualifier)
        if self.owners.get(kind, {}).get(plain, ("",))[0] == qualifier and plain in specs:
            return plain
        raise self.not_found(kind, name)

    def keys_of(self, kind: Kind, plain: str) -> list[str]:
        """The keys of all specs whose plain name this is, the one it means first."""
        specs = self.specs(kind)
        others = [f"{owner}:{plain}" for owner in self.owners.get(kind, {}).get(plain, ())]
        return [key for key in (plain, *others) if key in specs]

    def matches(self, kind: Kind, key: str, qualifier: str, pattern: str, tagged: bool) -> bool:
        """Whether a glob means this key. Without a qualifier a plain name stands for one spec, except by a tag."""
        owner, plain = split_qualifier(self.qualified(kind, key))
        if qualifier:
            return owner == qualifier and fnmatch.fnmatchcase(plain, pattern)
        secondary = key != plain and plain in self.specs(kind)
        return (tagged or not secondary) and fnmatch.fnmatchcase(plain, pattern)

    def choose(self, key: str, tag: str) -> ModelChoice:
        spec = self.models[key]
        weights = find_weights(spec, tag)
        name, shown = self.qualified("model", key), key
        if weights and weights != spec.weights[0]:
            plain = split_qualifier(key)[1]
            having = [rival for rival in self.keys_of("model", plain) if find_weights(self.models[rival], weights.tag)]
            shown = f"{plain if having == [key] else key}.{weights.tag}"
        return ModelChoice(name=name, spec=spec, weights=weights, shown=shown)

    def require_plugin(self, name: str) -> None:
        """Raise where no plugin of this name serves."""
        for broken in self.broken:
            if broken.plugin == name:
                raise PluginError(
                    f"plugin {name} {broken.version}".rstrip() + f" is broken: {broken.reason}",
                    fix=f"repair it, or `pip uninstall {name}`",
                    code="broken-plugin",
                )
        serving = {plugin.name for plugin in self.plugins}
        if name not in serving:
            raise UsageError(
                f"unknown plugin {name!r}",
                fix=f"{nearest(name, serving)} `zoo plugin list` shows the {len(serving)} installed".strip(),
                code="unknown-plugin",
            )

    def not_found(self, kind: Kind, name: str) -> UsageError | PluginError:
        """The error for a name that nobody offers: it may be a broken plugin's own name, or one it would have given."""
        if canonical(name) in {broken.plugin for broken in self.broken}:
            self.require_plugin(canonical(name))
        error = unknown(kind, name, self.specs(kind))
        if not self.broken:
            return error
        names = ", ".join(broken.plugin for broken in self.broken)
        return UsageError(error.message, fix=f"{error.fix}; broken, may offer it: {names}", code=error.code)


# --- names ------------------------------------------------------------------------------------------------------------
def canonical(distribution: str) -> str:
    """One spelling for a distribution's name, as the package index has it: `Zoo_Timm` is `zoo-timm`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def split_qualifier(name: str) -> tuple[str, str]:
    """Split `distribution:name`; the distribution is empty where none is said. `hf-hub:owner/name` is one name."""
    if name.startswith(HUB):
        return "", name
    distribution, colon, plain = name.partition(":")
    return (canonical(distribution), plain) if colon else ("", name)


def split_model_name(name: str) -> ModelName:
    """Split a model's name at the colon and at the first dot: no architecture has a dot in its name.

    `timm/` means `zoo-timm:`; `hf-hub:owner/name` is one name.
    """
    if name.startswith(HUB):
        return ModelName("", name, "")
    if name.startswith("timm/"):
        name = "zoo-timm:" + name.removeprefix("timm/")
    qualifier, plain = split_qualifier(name)
    architecture, _, tag = plain.partition(".")
    return ModelName(qualifier, architecture, tag)


def find_weights(spec: ModelSpec, tag: str) -> Weights | None:
    """The weights of that tag, or the default ones without a tag; None where there are none."""
    return next((weights for weights in spec.weights if tag in ("", weights.tag)), None)


def unknown_tag(architecture: str, tag: str, tags: Sequence[str]) -> UsageError:
    message = f"model {architecture!r} has no weights {tag!r}"
    if not tags:
        return UsageError(message, fix=f"it has none; ask for plain {architecture!r}", code="unknown-weights")
    close = difflib.get_close_matches(tag, tags, n=3, cutoff=0.4) or list(tags)[:5]
    return UsageError(
        message,
        fix=f"one of {', '.join(close)}; `zoo info models {architecture}` shows all {len(tags)}",
        code="unknown-weights",
    )


def ambiguous(kind: Kind, name: str, keys: Sequence[str]) -> UsageError:
    return UsageError(
        f"{kind} {name!r} is offered by {len(keys)} plugins", fix=f"say {' or '.join(keys)}", code=f"ambiguous-{kind}"
    )


# --- find: what is installed, without importing it --------------------------------------------------------------------
def find_plugins() -> list[FoundPlugin]:
    """List the distributions with an entry point in a group `zoo.vN`; of two with one name, the first on `sys.path`."""
    found: dict[str, FoundPlugin] = {}
    for distribution in metadata.distributions():
        for plugin in find_in_distribution(distribution):
            found.setdefault(plugin.name, plugin)
    return sorted(found.values(), key=lambda plugin: plugin.name)


def find_in_distribution(distribution: metadata.Distribution) -> Iterator[FoundPlugin]:
    """The one plugin of a distribution, or none. Damaged metadata make a plugin that cannot be loaded."""
    try:
        # perf: reading one small file is 4 times quicker than parsing the metadata of every distribution
        text = distribution.read_text("entry_points.txt") or ""
    except (OSError, UnicodeDecodeError):
        return  # damaged beyond telling whether it is ours
    if not re.search(r"^\s*\[\s*zoo\.v\d+\s*\]", text, re.MULTILINE):
        return
    name, version = describe_distribution(distribution)
    try:
        points = [point for point in distribution.entry_points if GROUP.fullmatch(point.group)]
    except Exception as error:  # the parser raises whatever the text makes it raise
        fault = PluginError(f"its entry_points.txt is damaged: {reason_of(error)}", fix="install it again")
        yield FoundPlugin(name=canonical(name or "unknown"), version=version, load=raising(fault))
        return
    if not points:
        return
    # A distribution may serve several generations of the contract: take the newest one spoken here.
    group = max((point.group for point in points), key=lambda group: (contract(group) <= CONTRACT, contract(group)))
    points = [point for point in points if point.group == group]
    load = points[0].load
    if len(points) > 1:
        load = raising(PluginError(f"{len(points)} entry points in {group}, expected 1"))
    yield FoundPlugin(
        name=canonical(name or points[0].name), version=version, group=group, module=points[0].module, load=load
    )


def describe_distribution(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, empty where the metadata do not say."""
    try:
        fields = distribution.metadata
        said = {key: str(fields[key]) for key in ("Name", "Version") if key in fields}
    except Exception:  # missing or undecodable METADATA: its type differs between versions of Python
        said = {}
    return said.get("Name", ""), said.get("Version", "")


def contract(group: str) -> int:
    """The generation N in `zoo.vN`."""
    return int(group.removeprefix("zoo.v"))


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


# --- load: each plugin by itself --------------------------------------------------------------------------------------
def load_registry(plugins: Iterable[FoundPlugin], *, builtin: Mapping[Kind, Sequence[Spec]] | None = None) -> Registry:
    """Load every plugin by itself and index what they give; one that fails is listed as broken, with its reason.

    `builtin` are the core's own specs; they are one more plugin.
    """
    found = list(plugins)
    if builtin:
        found.insert(0, plugin_of_specs(CORE, metadata.version(CORE), builtin))
    listed: list[Plugin] = []
    given: dict[str, dict[Kind, list[Any]]] = {}
    with noted_interrupts() as interrupts:
        for plugin in found:
            try:
                if plugin.name in given:
                    raise PluginError("a plugin of this name is loaded already", fix="uninstall one of them")
                with quiet_stdout(), process_unchanged():
                    given[plugin.name] = load_plugin(plugin)
            except BaseException as error:  # SystemExit, and what extension modules derive from BaseException
                if isinstance(error, KeyboardInterrupt) and interrupts:
                    raise
                listed.append(
                    Plugin(name=plugin.name, version=plugin.version, status="broken", reason=reason_of(error))
                )
                continue
            counts = {kind: len(specs) for kind, specs in given[plugin.name].items() if specs}
            listed.append(Plugin(name=plugin.name, version=plugin.version, counts=counts))
    return index_specs(given, listed)


def plugin_of_specs(name: str, version: str, specs: Mapping[Kind, Sequence[Spec]]) -> FoundPlugin:
    """A plugin made of values instead of a module."""

    def hook(given: Sequence[Spec]) -> Callable[[], list[Spec]]:
        return hookimpl(lambda: list(given))

    return FoundPlugin(
        name=name, version=version, load=lambda: SimpleNamespace(**{HOOKS[kind]: hook(specs[kind]) for kind in specs})
    )


@contextlib.contextmanager
def noted_interrupts() -> Iterator[list[int]]:
    """The interrupts that came from outside, a plugin's own KeyboardInterrupt not among them; main thread only."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        # Ignored, as in a shell's background, none comes from outside; else nobody can tell, and it is taken for one.
        yield [] if before is signal.SIG_IGN else [signal.SIGINT]
        return

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """What a plugin prints goes to stderr, by whatever way: stdout may be one JSON document that a program reads."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # stdout or stderr are closed
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield


def load_plugin(found: FoundPlugin) -> dict[Kind, list[Any]]:
    """Import one plugin, check its hooks, call them and check what they return. Raises whatever is wrong with it."""
    if contract(found.group) != CONTRACT:
        newer = contract(found.group) > CONTRACT
        raise PluginError(
            f"needs contract {found.group}; this zoo speaks v{CONTRACT}", fix=f"upgrade {CORE if newer else found.name}"
        )
    plugin = found.load()
    if not check_hooks(plugin):
        plugin = plugin_of_cards(plugin)
    # A manager of its own: pluggy drops or mixes up what others registered when one registration fails.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=found.name)
    return {kind: call_hook(manager, kind) for kind in HOOKS}


def check_hooks(plugin: object) -> int:
    """The number of hooks. A function that means to be one and is none is refused: pluggy would pass it over."""
    hooks = list(HOOKS.values())
    num_marked = 0
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        marked = inspect.isroutine(function) and isinstance(getattr(function, f"{PROJECT}_impl", None), dict)
        if marked and name not in hooks:
            raise PluginError(f"{name} is marked @hookimpl but is no hook. {hint(name)}")
        if not marked and name in hooks:
            raise PluginError(f"{name} is not marked as a hook", fix="write @hookimpl above a plain function")
        if not marked and name.startswith("register_") and callable(function) and is_own(function, plugin):
            raise PluginError(f"{name} is no hook. {hint(name)} Name it _{name} if it is for the plugin's own use")
        num_marked += marked
    return num_marked


def plugin_of_cards(package: object) -> object:
    """A package without hooks, whose cards (`dataset.toml`, or several TOML files) are its datasets."""
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    cards = sorted(card for folder in folders for card in folder.glob("*.toml") if card.name != "pyproject.toml")
    if not cards:
        raise PluginError(f"gives nothing: no function is marked @hookimpl, and it holds no dataset.toml. {hint('')}")
    try:
        specs = [card_dataset(card) for card in cards]
    except DataError as error:
        raise PluginError(error.message, fix=error.fix) from error
    return SimpleNamespace(register_datasets=hookimpl(lambda: specs))


def hint(name: str) -> str:
    """The hook that `name` is probably meant to be, else all of them. `register_` in front makes any two look alike."""
    plurals = [f"{kind}s" for kind in HOOKS]
    close = difflib.get_close_matches(name.removeprefix("register_"), plurals, n=1)
    return f"Did you mean 'register_{close[0]}'?" if close else f"The hooks are {', '.join(HOOKS.values())}."


def is_own(function: object, plugin: object) -> bool:
    """Whether a plugin's module, or one of its package, defines this function rather than importing a library's."""
    if not isinstance(plugin, ModuleType):
        return True
    defined_in: str = getattr(function, "__module__", None) or ""
    return defined_in.partition(".")[0] == plugin.__name__.partition(".")[0]


def call_hook(manager: pluggy.PluginManager, kind: Kind) -> list[Any]:
    """Call one hook of the only registered plugin; return its specs, checked."""
    hook, wanted = HOOKS[kind], SPEC_TYPES[kind]
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        return []
    answers = caller()  # pluggy leaves out None
    specs = answers[0] if answers else None
    if not isinstance(specs, (list, tuple)):
        raise PluginError(f"{hook} returned {described(specs)}, expected a list of {wanted.__name__}")
    names: set[str] = set()
    for index, spec in enumerate(specs):
        if not isinstance(spec, wanted):
            raise PluginError(f"{hook} returned {described(spec)} at [{index}], expected {wanted.__name__}")
        check_name(kind, spec.name)
        if spec.name in names:
            raise PluginError(f"{hook} gives {kind} {spec.name!r} twice", fix="give each a name of its own")
        names.add(spec.name)
        if isinstance(spec, ModelSpec):
            check_tags(spec)
    return list(specs)


def described(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def check_name(what: str, name: object) -> None:
    """Refuse a name that could not be typed, be a folder, or be told from a qualified or tagged one."""
    if not isinstance(name, str) or not SAFE_NAME.fullmatch(name):
        raise PluginError(f"{what} name {name!r}: expected letters, digits, '_', '.', '-' (not first: '.', '-')")
    if what == "model" and "." in name:
        raise PluginError(
            f"model name {name!r}: what follows a dot is read as a weights tag", fix="write a name without dots"
        )


def check_tags(spec: ModelSpec) -> None:
    tags = [weights.tag for weights in spec.weights]
    for tag in tags:
        check_name(f"model {spec.name!r}: weights tag", tag)
    if len(set(tags)) < len(tags):
        raise PluginError(
            f"model {spec.name!r}: a weights tag is given twice: {', '.join(tags)}",
            fix="give each set of weights a tag of its own",
        )


def reason_of(error: BaseException) -> str:
    """One line: `ImportError: no cuda`. What the loader itself found needs no type in front."""
    try:
        text = " ".join(clean(line) for line in str(error).split())
    except Exception as second:  # a plugin's own exception class may not even print
        text = f"(its message cannot be shown: {type(second).__name__})"
    if isinstance(error, PluginError):
        return text
    if isinstance(error, SystemExit):
        return f"SystemExit: it called sys.exit({text})"
    shortened = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__


# --- index: names to specs --------------------------------------------------------------------------------------------
def index_specs(given: Mapping[str, Mapping[Kind, Sequence[Any]]], plugins: Sequence[Plugin]) -> Registry:
    """Put every spec under the shortest name that denotes it, and the list of plugins beside them."""
    keyed: dict[str, dict[str, Any]] = {f"{kind}s": {} for kind in SPEC_TYPES}
    owners: dict[Kind, dict[str, tuple[str, ...]]] = {}
    for kind in SPEC_TYPES:
        offers: dict[str, dict[str, Any]] = {}
        for distribution, specs in given.items():
            for spec in specs[kind]:
                offers.setdefault(spec.name, {})[distribution] = spec
        owners[kind] = {name: by_precedence(offered) for name, offered in offers.items()}
        for name, offered in offers.items():
            first = owners[kind][name][0]
            wins = len(offered) == 1 or first in PRECEDENCE
            for distribution in owners[kind][name]:
                key = name if wins and distribution == first else f"{distribution}:{name}"
                keyed[f"{kind}s"][key] = offered[distribution]
    broken = tuple(BrokenPlugin(p.name, p.version, p.reason) for p in plugins if p.status == "broken")
    return Registry(**keyed, owners=owners, plugins=tuple(plugins), broken=broken)


def by_precedence(distributions: Iterable[str]) -> tuple[str, ...]:
    """The distribution that a bare name means first, then the others by name: never by the order they were loaded."""
    ranked = {name: rank for rank, name in enumerate(PRECEDENCE)}
    return tuple(sorted(distributions, key=lambda name: (ranked.get(name, len(ranked)), name)))
