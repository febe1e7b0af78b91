"""Load plugins one by one into a registry; list a plugin that fails, with the reason."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pluggy

from zoo.errors import DataError, PluginError, nearest, plural_of
from zoo.images.formats import OWN_SUFFIXES, use_readers
from zoo.images.plugin_readers import SuffixReader
from zoo.images.reading import suffix_of
from zoo.registry.finding import InstalledPlugin, contract, reason_of
from zoo.registry.isolation import noted_interrupts, process_unchanged
from zoo.registry.lookup import BrokenPlugin, Kind, Plugin, Registry
from zoo.sources.listing import COMPANIONS
from zoo.sources.opening import card_dataset
from zoo.specs.hooks import CONTRACT, HOOKS, KINDS, PROJECT, hook_specifications, hookimpl
from zoo.specs.model import ModelSpec, Weights
from zoo.specs.reader import ReaderSpec
from zoo.specs.validation import find_spec_fault, show_value
from zoo.tasks.kinds import TASKS

CORE = "zoo-bench"
# Python reports an unknown field only in the message of a TypeError.
UNKNOWN_FIELD = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'.*")
MISSING_NAME = re.compile(r"cannot import name '(\w+)' from 'zoo' ")
SPECS_BY_NAME = {kind.__name__: kind for kind in (*KINDS.values(), Weights)}
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # used as a folder name; a leading "-" would look like a flag


def load_registry(plugins: Iterable[InstalledPlugin]) -> Registry:
    """Load every plugin and index its specs; list one that fails as broken, with the reason."""
    listed: list[Plugin] = []
    specs_of: dict[str, dict[Kind, list[Any]]] = {}
    with noted_interrupts() as interrupts:
        for plugin in plugins:
            try:
                if plugin.name in specs_of:
                    raise PluginError(
                        "a plugin with this name is already loaded", fix="uninstall or rename one of them"
                    )
                with quiet_stdout(), process_unchanged():
                    specs_of[plugin.name], mistakes = load_plugin(plugin)
            except BaseException as error:  # SystemExit, and errors of extension modules that derive from BaseException
                if isinstance(error, KeyboardInterrupt) and interrupts:
                    raise
                listed.append(list_plugin(plugin, status="broken", reason=reason_of(error)))
                continue
            counts = {kind: len(specs) for kind, specs in specs_of[plugin.name].items() if specs}
            listed.append(
                list_plugin(plugin, status="partial" if mistakes else "ok", reason="; ".join(mistakes), counts=counts)
            )
    return index_specs(specs_of, listed)


def list_plugin(installed: InstalledPlugin, **outcome: Any) -> Plugin:
    """The plugin with the outcome of loading it."""
    facts = ("name", "version", "summary", "author", "url", "file", "module")
    return Plugin(**{name: getattr(installed, name) for name in facts}, **outcome)


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Redirect all output of a plugin to stderr: stdout may be one JSON document for another program."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # stdout or stderr is closed
            stdout_copy = os.dup(1)
            stack.callback(os.close, stdout_copy)
            os.dup2(2, 1)
            stack.callback(os.dup2, stdout_copy, 1)
        yield


def load_plugin(installed: InstalledPlugin) -> tuple[dict[Kind, list[Any]], list[str]]:
    """Import one plugin, check its hooks, call them and check the returned specs.

    Return the valid specs and the mistakes in the others. Raises PluginError if the plugin cannot be used as a whole,
    or with all mistakes if no spec is valid.
    """
    if contract(installed.group) != CONTRACT:
        newer = contract(installed.group) > CONTRACT
        raise PluginError(
            f"needs contract {installed.group}, but this zoo supports v{CONTRACT}",
            fix=f"upgrade {CORE if newer else installed.name}",
        )
    plugin = import_plugin(installed)
    if not check_hooks(plugin):
        plugin = plugin_of_cards(plugin)
    # One manager per plugin: pluggy drops or mixes up the hooks of others when a registration fails.
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hook_specifications())
    manager.register(plugin, name=installed.name)
    specs: dict[Kind, list[Any]] = {}
    mistakes: list[PluginError] = []
    for kind in HOOKS:
        try:
            specs[kind], errors = call_hook(manager, kind)
        except PluginError as error:  # the hook as a whole
            specs[kind], errors = [], [error]
        mistakes += errors
    if mistakes and not any(specs.values()):
        raise mistakes[0] if len(mistakes) == 1 else join_mistakes(mistakes)
    return specs, [mistake.message for mistake in mistakes]


def import_plugin(installed: InstalledPlugin) -> object:
    """Import a plugin. Raises PluginError if it imports a name from `zoo` that this version does not have."""
    try:
        return installed.load()
    except ImportError as error:
        missing = MISSING_NAME.match(str(error))
        if missing is None:
            raise
        fix = spelling_or_upgrade(missing[1], sys.modules[PROJECT].__all__)
        raise PluginError(f"zoo has no {missing[1]!r}", fix=fix) from error


def spelling_or_upgrade(name: str, names: Iterable[str]) -> str:
    """The fix for a name that this zoo does not know: a similar one, or a newer zoo."""
    upgrade = f"{CORE} {metadata.version(CORE)} is too old for this plugin: upgrade it"
    guess = nearest(name, names)
    return f"{guess} Else {upgrade}" if guess else upgrade


def join_mistakes(mistakes: Sequence[PluginError]) -> PluginError:
    return PluginError("; ".join(mistake.message for mistake in mistakes), fix="correct the plugin")


def check_hooks(plugin: object) -> int:
    """Return the number of hooks. Refuse a misnamed or unmarked hook, which pluggy would ignore."""
    hook_names = list(HOOKS.values())
    num_marked = 0
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        marked = inspect.isroutine(function) and isinstance(getattr(function, f"{PROJECT}_impl", None), dict)
        if marked and name not in hook_names:
            raise PluginError(f"{name} is marked @hookimpl but is not a hook. {hint(name)}")
        if not marked and name in hook_names:
            raise PluginError(f"{name} is not marked as a hook", fix="write @hookimpl above a plain function")
        if not marked and name.startswith("register_") and callable(function) and is_own(function, plugin):
            raise PluginError(f"{name} is not a hook. {hint(name)} Name it _{name} if it is private")
        num_marked += marked
    return num_marked


def plugin_of_cards(package: object) -> object:
    """A plugin made of a package without hooks, whose TOML files are the cards of its datasets."""
    folders = [Path(folder) for folder in getattr(package, "__path__", ())]
    cards = sorted(card for folder in folders for card in folder.glob("*.toml") if card.name != "pyproject.toml")
    if not cards:
        raise PluginError(
            f"registers nothing: no function is marked @hookimpl, and there is no dataset.toml. {hint('')}"
        )
    try:
        specs = [card_dataset(card) for card in cards]
    except DataError as error:
        raise PluginError(error.message, fix=error.fix) from error
    return SimpleNamespace(register_datasets=hookimpl(lambda: specs))


def hint(name: str) -> str:
    """Suggest the hook that `name` probably means, else list all of them."""
    plurals = [plural_of(kind) for kind in HOOKS]  # without `register_`, which makes any two names similar
    close = difflib.get_close_matches(name.removeprefix("register_"), plurals, n=1)
    return f"Did you mean 'register_{close[0]}'?" if close else f"The hooks are {', '.join(HOOKS.values())}."


def is_own(function: object, plugin: object) -> bool:
    """Whether the plugin's package defines this function, rather than importing it from a library."""
    if not isinstance(plugin, ModuleType):
        return True
    defined_in: str = getattr(function, "__module__", None) or ""
    return defined_in.partition(".")[0] == plugin.__name__.partition(".")[0]


def call_hook(manager: pluggy.PluginManager, kind: Kind) -> tuple[list[Any], list[PluginError]]:
    """Call one hook of the only registered plugin; return its valid specs and an error for each invalid one."""
    hook, spec_type = HOOKS[kind], KINDS[kind]
    caller = getattr(manager.hook, hook)
    if not caller.get_hookimpls():
        return [], []
    try:
        answers = caller()  # pluggy leaves out None
    except TypeError as error:
        unknown_field = explain_unknown_field(error)
        if unknown_field is None:
            raise
        raise unknown_field from error
    specs = answers[0] if answers else None
    if not isinstance(specs, (list, tuple)):
        raise PluginError(f"{hook} returned {describe_object(specs)}, expected a list of {spec_type.__name__}")
    counts = Counter(spec.name for spec in specs if isinstance(spec, spec_type) and isinstance(spec.name, str))
    valid: dict[str, Any] = {}
    mistakes = []
    for index, spec in enumerate(specs):
        try:
            if not isinstance(spec, spec_type):
                kind_name = describe_object(spec)
                raise PluginError(f"{hook} returned {kind_name} at [{index}], expected {spec_type.__name__}")
            check_spec_name(kind, spec.name)
            if counts[spec.name] > 1:
                raise PluginError(f"{hook} returns {kind} {spec.name!r} twice", fix="give each a unique name")
            check_fields(kind, spec)
        except PluginError as error:
            mistakes.append(error)
        else:
            valid[spec.name] = spec
    return list(valid.values()), list({error.message: error for error in mistakes}.values())


def explain_unknown_field(error: TypeError) -> PluginError | None:
    """The error for an unknown field of a spec, parsed from Python's message; None for any other error."""
    match = UNKNOWN_FIELD.fullmatch(str(error))
    kind = SPECS_BY_NAME.get(match[1]) if match else None
    if match is None or kind is None:
        return None
    names = [part.name for part in dataclasses.fields(kind)]
    return PluginError(f"{match[1]} has no field {match[2]!r}", fix=spelling_or_upgrade(match[2], names))


def describe_object(value: object) -> str:
    return "None" if value is None else f"an object of type {type(value).__name__}"


def check_spec_name(what: str, name: object) -> None:
    """Refuse a name that cannot be typed or be a folder, or that looks like a qualified or tagged name."""
    if type(name) is not str or not SAFE_NAME.fullmatch(name):
        raise PluginError(
            f"{what} name {show_value(name)}: expected letters, digits, '_', '.', '-' (not first: '.', '-')"
        )
    if what == "model" and "." in name:
        raise PluginError(
            f"model name {name!r}: text after a dot is read as a weights tag", fix="use a name without dots"
        )


def check_fields(kind: Kind, spec: Any) -> None:
    """Refuse a spec, or a model's weights, if a field has an invalid type or value."""
    if fault := find_spec_fault(spec, KINDS[kind]):
        raise PluginError(f"{kind} {spec.name!r}: {fault}", fix="correct the plugin")
    if isinstance(spec, ReaderSpec):
        check_suffixes(spec)
    if isinstance(spec, ModelSpec):
        for weights in spec.weights:
            if fault := find_spec_fault(weights, Weights):
                raise PluginError(
                    f"model {spec.name!r}, weights {show_value(weights.tag)}: {fault}", fix="correct the plugin"
                )
            if not len(weights.mean) == len(weights.std) == spec.channels:
                raise PluginError(
                    f"model {spec.name!r}, weights {show_value(weights.tag)}: `mean` and `std` need one number for "
                    f"each of {spec.channels} channels, got {weights.mean} and {weights.std}",
                    fix="declare both in `Weights`, whose defaults are those of ImageNet",
                )
        check_tags(spec)


def check_suffixes(spec: ReaderSpec) -> None:
    """Refuse suffixes that zoo reads itself, or that other files beside images have."""
    for suffix in spec.suffixes or ("",):
        problem = ""
        if suffix_of(f"name{suffix}") != suffix or suffix in ("", "."):
            problem = "expected lower case with one dot, or two before gz, such as '.oct'"
        elif spec.suffixes.count(suffix) > 1:
            problem = "listed twice"
        elif suffix in OWN_SUFFIXES:
            problem = "zoo reads these files itself"
        elif suffix in {*COMPANIONS, ".npz"}:
            problem = "such files lie beside images, or have other readers"
        if problem:
            raise PluginError(
                f"reader {spec.name!r}: suffix {show_value(suffix)}: {problem}", fix="give the files another suffix"
            )


def check_tags(spec: ModelSpec) -> None:
    tags = [weights.tag for weights in spec.weights]
    for tag in tags:
        check_spec_name(f"model {spec.name!r}: weights tag", tag)
    if len(set(tags)) < len(tags):
        raise PluginError(
            f"model {spec.name!r}: repeated weights tag: {', '.join(tags)}",
            fix="give each set of weights a unique tag",
        )


def index_specs(specs_of: Mapping[str, Mapping[Kind, Sequence[Any]]], plugins: Sequence[Plugin]) -> Registry:
    """Build the registry: every spec under the shortest name that denotes it, and the list of plugins."""
    keyed: dict[str, dict[str, Any]] = {plural_of(kind): {} for kind in KINDS}
    owners: dict[Kind, dict[str, tuple[str, ...]]] = {}
    for kind in KINDS:
        rivals: dict[str, dict[str, Any]] = {}  # specs by name and distribution
        for distribution, specs in specs_of.items():
            for spec in specs[kind]:
                rivals.setdefault(spec.name, {})[distribution] = spec
        owners[kind] = {name: tuple(sorted(rivals[name], key=partial(precedence, rivals[name]))) for name in rivals}
        for name, by_distribution in rivals.items():
            first, *others = owners[kind][name]
            wins = not others or precedence(by_distribution, first)[:2] < precedence(by_distribution, others[0])[:2]
            for distribution in owners[kind][name]:
                key = name if wins and distribution == first else f"{distribution}:{name}"
                keyed[plural_of(kind)][key] = by_distribution[distribution]
    broken = tuple(
        BrokenPlugin(p.name, p.version, p.reason, p.status == "partial", p.file) for p in plugins if p.status != "ok"
    )
    prefixes = {
        prefix: distribution
        for distribution, specs in sorted(specs_of.items())
        for spec in specs["model"]
        for prefix in spec.prefixes
    }
    use_readers(
        suffix_reader(spec, distribution)
        for distribution in sorted(specs_of)
        for spec in specs_of[distribution]["reader"]
    )
    # TASKS resolves the task names in stored results and on cards.
    TASKS.update({name: task for name, task in keyed["tasks"].items() if name == task.name})
    return Registry(**keyed, owners=owners, prefixes=prefixes, plugins=tuple(plugins), broken=broken)


def suffix_reader(spec: ReaderSpec, plugin: str) -> SuffixReader:
    """What reads the files of a spec, for messages and identities with its plugin."""
    same = {name: getattr(spec, name) for name in ("name", "version", "suffixes", "read", "spacing", "dims")}
    return SuffixReader(plugin=plugin, **same)


def precedence(by_distribution: Mapping[str, Any], distribution: str) -> tuple[bool, int, str]:
    """The sort key of a distribution among those that register a name, independent of the order of loading.

    The core comes first, so that installing a plugin does not change the meaning of `auroc` or `finetune` in a
    published suite, then the highest `priority` of a spec. The name decides only the order of a list.
    """
    return distribution != CORE, -getattr(by_distribution[distribution], "priority", 0), distribution
