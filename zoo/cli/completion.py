"""Complete names of models, datasets, metrics, protocols, suites and executors in a shell."""

from __future__ import annotations

from collections.abc import Sequence

from click.shell_completion import CompletionItem

WITH_PATHS = ("dataset", "suite")  # a path may stand in place of a name


def complete_name(kind: str, incomplete: str) -> list[CompletionItem]:
    """The names of a kind that continue the last one of `incomplete`; files if none does and a path is allowed."""
    before, comma, last = incomplete.rpartition(",")
    names = [name for name in installed_names(kind) if name.startswith(last)]
    if not names and kind in WITH_PATHS:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(f"{before}{comma}{name}") for name in names]


def installed_names(kind: str) -> Sequence[str]:
    """The installed names of a kind; none for an unknown kind. A broken plugin offers none and is not reported."""
    from zoo.registry.opening import open_registry
    from zoo.specs.hooks import KINDS

    if kind == "suite":
        from zoo.runner.suites import list_suites

        return list_suites(open_registry().suites)
    if kind not in KINDS:
        return ()
    registry = open_registry()
    return [*(registry.suites if kind == "model" else ()), *sorted(registry.specs(kind))]
