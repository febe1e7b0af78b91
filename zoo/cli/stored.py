"""Read the folders and bundles of `--results`; a damaged result is a warning."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.terminal import tell
from zoo.errors import ResultsError, clean

if TYPE_CHECKING:
    from zoo.registry.lookup import Registry
    from zoo.results.store import Result


def has_readable_scores(result: Result) -> bool:
    """Whether the scores of a result can be read; damaged ones are a warning, and `zoo score` recomputes them."""
    try:
        result.scores()
    except ResultsError as error:
        if error.code == "newer-schema":
            raise
        tell(f"zoo: warning: left out: {error}")
        return False
    return True


def read_shared(folders: Sequence[Path], registry: Registry) -> list[Any]:
    """Read results from folders and bundles; those of a bundle are verified and marked with their provenance."""
    from zoo.results.bundles import is_bundle
    from zoo.results.verifying import load_bundle, mark_reproduced
    from zoo.system.progress import Console

    folders = list({path.resolve(): path for path in folders}.values())
    bundles = [path for path in folders if is_bundle(path)]
    plain = [path for path in folders if path not in bundles]
    own = read_results(plain) if plain else []
    for path in bundles:
        with Console().counting(f"verifying {path.name}", "runs") as progress:
            own += mark_reproduced(load_bundle(path, registry, progress), own)
    return own


def read_results(folders: Sequence[Path]) -> list[Any]:
    """Read every result; a damaged one is a warning, none at all an error."""
    from zoo.results.memo import SoundRuns
    from zoo.results.store import load_results, load_sound_result
    from zoo.system.files import cache_root

    results: list[Any] = []
    for folder in folders:
        if not folder.is_dir():
            raise ResultsError(f"{folder}: not a folder", fix="name one by --results, or run `zoo bench` first")
        with SoundRuns(cache_root(), folder) as sound:
            loaded, damaged = load_results(folder, partial(load_sound_result, check=sound.check))
        present = {result.id for result in results}
        results += [result for result in loaded if result.id not in present]
        for line in damaged:
            tell(f"zoo: warning: left out: {clean(line)}")
    if not results:
        raise ResultsError(f"no results below {', '.join(map(str, folders))}", fix="run `zoo bench` first")
    return results
