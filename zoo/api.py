"""zoo from Python: the commands as functions. `import zoo` gives them without importing torch or pandas."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, ResultsError, UsageError

if TYPE_CHECKING:
    import pandas

    from zoo.data.opening import OpenDataset
    from zoo.leaderboard.boards import Board
    from zoo.leaderboard.pairwise import Contrast
    from zoo.leaderboard.tables import ReportOptions
    from zoo.registry.context import Context
    from zoo.registry.lookup import Registry
    from zoo.results.store import Result
    from zoo.specs.suite import Suite
    from zoo.system.settings import Settings
    from zoo.trained.card import ModelCard
    from zoo.trained.opening import OpenModel
    from zoo.trained.segmenting import NewMask

NameOrNames = str | Path | Sequence[str | Path]


def bench(
    models: NameOrNames = (),
    datasets: NameOrNames = (),
    *,
    suite: str = "",
    results: str | Path = "results",
    **options: Any,
) -> Leaderboard:
    """Train and test every model on every dataset, as `zoo bench` does, and return the leaderboard.

    `options` are the other flags of the command: `protocol="quick"`, `seeds=3`, `settings={"epochs": 3}` for `--set`,
    `device="cpu"`. Finished runs in `results` are reused. After KeyboardInterrupt the leaderboard has the runs that
    were finished. Raises the `ZooError` that the command would print, and DataError if every dataset is refused.
    """
    from zoo.leaderboard.tables import ReportOptions
    from zoo.results.plans import save_plan
    from zoo.runner.bench import bench as run_bench
    from zoo.runner.bench import plan_only
    from zoo.system.settings import Settings

    known = {each.name for each in fields(Settings)} - {"results", "cache"}
    if "observers" in options:
        options["observers"] = as_names(options["observers"])
    settings = Settings(results=Path(results), **{name: value for name, value in options.items() if name in known})
    changes = {name: value for name, value in options.items() if name not in known}
    context = make_context(settings)
    requested = compose_suite(
        suite, {"models": as_names(models), "datasets": as_names(datasets), **changes}, context.registry
    )
    try:
        outcome = run_bench(requested, context)
    except KeyboardInterrupt:
        outcome = plan_only(requested, context)  # with the runs that were finished
    save_plan(outcome.runs, settings.results)
    if all(run.dataset in outcome.refused for run in outcome.runs):
        name, error = next(iter(outcome.refused.items()))
        raise DataError(f"{name}: {error['message']}", fix=error["fix"], code=error["code"])
    shown = ReportOptions(recipes=len(requested.protocols) > 1, metrics=tuple(outcome.plan.metrics))
    return Leaderboard(outcome.results.values(), context.registry, shown)


def compose_suite(name: str, changes: Mapping[str, Any], registry: Registry) -> Suite:
    """The suite of a call: a named one, the quickstart without datasets, with the arguments in place of its values."""
    from zoo.runner.suites import load_suite, parse_seeds
    from zoo.specs.suite import Suite, suite_keys

    unknown = sorted(set(changes) - set(suite_keys()))
    if unknown:
        raise UsageError(f"bench: unknown option {unknown[0]!r}", fix=f"the options are {', '.join(suite_keys())}")
    given = {key: value for key, value in changes.items() if value not in ((), "", None)}
    if name:
        suite = load_suite(name, registry.suites)
    else:
        suite = Suite(name="python") if "datasets" in given else load_suite("quickstart")
    for key in ("metrics", "test_on", "protocol"):
        if key in given:
            given[key] = as_names(given[key])
    if "seeds" in given:
        seeds = given["seeds"]
        given["seeds"] = parse_seeds(",".join(map(str, seeds)) if isinstance(seeds, Sequence) else str(seeds))
    for key in ("settings", "label_map"):
        if key in given:
            given[key] = tuple(sorted((str(field), str(value)) for field, value in dict(given[key]).items()))
    return replace(suite, **given)


def as_names(names: NameOrNames) -> tuple[str, ...]:
    """NameOrNames as the command takes them; one may be given alone."""
    return (str(names),) if isinstance(names, str | Path) else tuple(map(str, names))


def load_results(*places: str | Path, recipes: bool = False) -> Leaderboard:
    """The leaderboard of stored results: folders and bundles; without any, the folder `results`.

    With `recipes`, one board has the rows of all protocols, as `zoo report --recipes`.
    """
    from zoo.leaderboard.tables import ReportOptions
    from zoo.results.bundles import is_bundle
    from zoo.results.verifying import load_bundle

    registry = make_context().registry
    found: dict[str, Result] = {}
    for place in map(Path, places or ("results",)):
        if is_bundle(place):
            results = load_bundle(place, registry, lambda _, __: None)
        elif place.is_dir():
            results = read_all(place)
        else:
            raise ResultsError(f"{place}: not a results folder or bundle", fix="correct the path, or run `zoo bench`")
        found = {**{result.id: result for result in results}, **found}
    if not found:
        raise ResultsError(f"no results below {', '.join(map(str, places)) or 'results'}", fix="run `zoo bench` first")
    return Leaderboard(found.values(), registry, ReportOptions(recipes=recipes))


def read_all(folder: Path) -> list[Result]:
    """The readable results of a folder; a warning for each damaged one."""
    import warnings

    from zoo.results.store import load_results as load_folder

    results, damaged = load_folder(folder)
    for line in damaged:
        warnings.warn(f"left out: {line}", stacklevel=3)
    return results


class Leaderboard:
    """The boards of some results: one for each dataset, protocol and image size."""

    def __init__(self, results: Iterable[Result], registry: Registry, options: ReportOptions) -> None:
        from zoo.leaderboard.boards import build_leaderboard
        from zoo.leaderboard.sections import list_sections
        from zoo.results.memo import ScoreMemo
        from zoo.system.files import cache_root

        self.results = list(results)
        self.boards: list[Board] = build_leaderboard(
            self.results, registry.metrics, options, list_sections(registry), memo=ScoreMemo(cache=cache_root())
        )

    @property
    def failed(self) -> list[dict[str, str]]:
        """Model, dataset, status and message of each run that did not finish."""
        return [
            {
                "model": result.run["shown"],
                "dataset": result.run["dataset"],
                "status": result.status,
                "message": result.error["message"] if result.error else "",
            }
            for result in self.results
            if not result.ok
        ]

    def write(self, form: str) -> str:
        """The boards in a format of `zoo report`: terminal, markdown, csv, json, html or latex."""
        from zoo.report.formats import write_boards

        return write_boards(self.boards, form)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows of `zoo report --format csv`; undefined values are NaN."""
        import pandas

        return pandas.read_csv(io.StringIO(self.write("csv")))

    def compare(self, first: str, second: str, *, dataset: str | None = None) -> Comparison:
        """Test two models against each other on every board that has both, as `zoo compare` does."""
        from zoo.leaderboard.pairwise import compare_models

        boards = [board for board in self.boards if dataset in (None, board.dataset)]
        return Comparison(compare_models(boards, first, second))

    def save_html(self, path: str | Path) -> Path:
        """Write the page of `zoo report --format html`."""
        from zoo.system.files import written_whole

        path = Path(path)
        with written_whole(path) as temporary:
            temporary.write_text(self.write("html"), encoding="utf-8")
        return path

    def __str__(self) -> str:
        return self.write("terminal")

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(board.dataset for board in self.boards))
        return f"<Leaderboard of {len(self.results)} runs: {names}>"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, as a notebook shows it."""
        page = html.escape(self.write("html"), quote=True)
        return f'<iframe title="leaderboard" srcdoc="{page}" style="width: 100%; height: 40em; border: 0"></iframe>'


class Comparison:
    """Two models compared on every board that has both."""

    def __init__(self, contrasts: Sequence[Contrast]) -> None:
        self.contrasts = list(contrasts)

    def to_dict(self) -> dict[str, Any]:
        """The document of `zoo compare --json`."""
        from zoo.report.pairs import pair_to_document

        return pair_to_document(self.contrasts)

    def __str__(self) -> str:
        from zoo.report.pairs import pair_to_terminal

        return pair_to_terminal(self.contrasts)

    __repr__ = __str__


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained model: one that `zoo bench` kept, all its kept seeds, or an exported folder."""

    models: Sequence[OpenModel]
    results: Path = Path("results")  # the folder with the record of its runs

    @property
    def card(self) -> ModelCard:
        """The card of the first seed."""
        return self.models[0].card

    @property
    def best(self) -> OpenModel:
        """The seed with the best val score."""
        from zoo.trained.opening import best_of

        folder = best_of([model.folder for model in self.models])
        return next(model for model in self.models if model.folder == folder)

    def predict(
        self, images: NameOrNames, *, metadata: str | Path | None = None, keep_names: bool = False
    ) -> pandas.DataFrame:
        """Predict files, folders, archives or npz files: one row per image, with the columns of `zoo predict`.

        A model of whole volumes takes their files and folders of them. `metadata` is a CSV with the columns that the
        model takes beside the image; `keep_names` adds patient's name, id and series of DICOM files. Raises UsageError
        for a model of masks, which `segment` returns.
        """
        import pandas

        from zoo.report.new_answers import AnswerTable
        from zoo.system.files import cache_root
        from zoo.trained.answering import answer_files
        from zoo.trained.inputs import NAME_TAGS

        if self.card.task_kind.targets.spatial:
            raise UsageError(f"{self.card.name} predicts masks", fix="call `segment`", code="wrong-task")
        tags, paths = NAME_TAGS if keep_names else (), tuple(map(Path, as_names(images)))
        table = None if metadata is None else Path(metadata)
        _, answers = answer_files(self.models, paths, cache_root(), tags=tags, metadata=table)
        return pandas.DataFrame(map(AnswerTable(self.models, tags).row, answers))

    def segment(self, images: NameOrNames) -> Iterator[NewMask]:
        """Predict the masks of files, folders, archives or npz files, one after the other.

        `mask` of each answer is uint8: 0 is background, k + 1 label k. Of an image it is (height, width); of a volume
        it has the axes of its NIfTI file, else those in RAS+ order. Where training would have refused a file, `mask` is
        None, `refused` is the problem and `fix` the fix. Raises UsageError if the model does not predict masks.
        """
        from zoo.system.files import cache_root
        from zoo.trained.answering import answer_files
        from zoo.trained.segmenting_volumes import along_file

        if not self.card.task_kind.targets.spatial:
            raise UsageError(f"{self.card.name} predicts no masks", fix="call `predict`", code="wrong-task")
        _, answers = answer_files(self.models, tuple(map(Path, as_names(images))), cache_root())
        return map(along_file, answers)

    def explain(
        self,
        images: NameOrNames,
        output: str | Path,
        *,
        method: str = "grad-cam",
        label: str = "",
        masks: str | Path | None = None,
        keep_names: bool = False,
    ) -> dict[str, Any]:
        """Write the maps of the best seed to a new folder, as `zoo explain` does; return its maps.json.

        `masks` is a folder of PNG masks of the images; `keep_names` adds patient's name, id and series of DICOM files.
        """
        import json

        from zoo.explaining.choosing import open_explainer
        from zoo.explaining.explainer import check_method
        from zoo.explaining.explanations import Request
        from zoo.explaining.outputs import check_explainable, choose_seeds
        from zoo.explaining.subjects import list_named, with_masks
        from zoo.report.map_folder import MAPS_FILE, write_maps
        from zoo.system.files import cache_root
        from zoo.system.progress import Console
        from zoo.trained.inputs import NAME_TAGS

        check_method(method)
        card, tags = self.best.card, NAME_TAGS if keep_names else ()
        check_explainable(card, label, method)
        subject = list_named(tuple(map(Path, as_names(images))), card, cache_root(), tags)
        if masks:
            subject = with_masks(subject, Path(masks), card)
        by_folder = {model.folder: model for model in self.models}
        models = [by_folder[folder] for folder in choose_seeds(list(by_folder))]
        request = Request(method=method, label=label, find_mask=subject.find_mask)
        write_maps(open_explainer(models, request), subject, Path(output), Console(), tags)
        document: dict[str, Any] = json.loads((Path(output) / MAPS_FILE).read_text(encoding="utf-8"))
        return document

    def export(self, target: str, output: str | Path) -> Path:
        """Export the best seed to a folder, as `zoo export --to TARGET` does; return the folder.

        `target` is "onnx", "torch-export", "safetensors" or "hub-folder".
        """
        from zoo.report.model_cards import write_readme
        from zoo.trained.exporting import export_model

        texts = {}
        if target == "hub-folder":
            texts["README.md"] = write_readme(self.best.folder, self.results, make_context().registry)
        export_model(self.best, target, Path(output), texts)
        return Path(output)

    def __repr__(self) -> str:
        return f"<TrainedModel {self.card.name}, {len(self.models)} seed{'s' * (len(self.models) > 1)}>"


def load_model(name: str | Path, *, results: str | Path = "results", device: str = "auto") -> TrainedModel:
    """Open a trained model by DATASET/MODEL, a run's id or its folder, as `zoo predict` does.

    `predict` of the result answers for new images or volumes; that of a model of masks is `segment`.
    """
    from zoo.system.devices import resolve_device
    from zoo.trained.opening import find_models, open_model

    folders = find_models(str(name), Path(results))
    context, place = make_context(), resolve_device(device)
    models = [open_model(folder, context.registry, context.settings.cache, place) for folder in folders]
    return TrainedModel(models, Path(results))


def predict(
    model: str | Path,
    images: NameOrNames,
    *,
    results: str | Path = "results",
    device: str = "auto",
    **options: Any,
) -> pandas.DataFrame:
    """Predict new images with a trained model: `load_model(model).predict(images, **options)`."""
    return load_model(model, results=results, device=device).predict(images, **options)


def explain(
    model: str | Path,
    images: NameOrNames,
    output: str | Path,
    *,
    results: str | Path = "results",
    device: str = "auto",
    **options: Any,
) -> dict[str, Any]:
    """Explain the answers for new images: `load_model(model).explain(images, output, **options)`."""
    return load_model(model, results=results, device=device).explain(images, output, **options)


def audit(dataset: str | Path) -> dict[str, Any]:
    """Audit a dataset by name or path, as `zoo audit --json` does: verdict and findings."""
    from zoo.auditing.examine import examine_named

    examined = examine_named(str(dataset), make_context())
    if len(examined) > 1:
        raise UsageError(f"{dataset} is {len(examined)} datasets", fix="name one of them")
    return dict(examined[0].audit.describe())


def open_dataset(dataset: str | Path) -> OpenDataset:
    """Open a dataset by name or path: its spec, its table, targets and digests; `samples.read` reads an image."""
    from zoo.data.lookup import open_named

    context = make_context()
    opened = open_named(str(dataset), context.registry, context.console)
    if len(opened) > 1:
        raise UsageError(f"{dataset} is {len(opened)} datasets", fix="name one of them")
    return opened[0][0]


def write_nnunet(dataset: str | Path, output: str | Path, *, number: int = 900, **options: Any) -> list[Path]:
    """Write a dataset with masks as nnU-Net's raw data, audited and split as `zoo bench` does.

    `options` are `folds`, `resplit`, `drop_leaks` and `allow_leak` of the bench. Every fold is a new folder
    `DatasetNUMBER_NAME` in `output`: train and val with `splits_final.json`, and test without masks. Returns the
    folders. Raises UsageError if one of the numbers is in use.
    """
    from zoo.data.nnunet_raw import RawFold, name_raw_folders, write_raw
    from zoo.errors import convert_disk_errors
    from zoo.runner.importing import open_audited
    from zoo.system.caches import in_use, open_cache

    context = make_context()
    suite = compose_suite("", {"datasets": as_names(dataset), **options}, context.registry)
    open_cache(context.settings.cache)
    with in_use(context.settings.cache), convert_disk_errors():
        opened, _ = open_audited(suite, context)
        folders = name_raw_folders(Path(output), opened.source.spec.name, number, len(opened.split.folds))
        for folder, split_of in zip(folders, opened.split.folds, strict=True):
            with context.console.counting(f"writing {folder.name}", "images") as progress:
                write_raw(RawFold(source=opened.source, split_of=split_of), folder, progress)
    return folders


def make_context(settings: Settings | None = None) -> Context:
    from zoo.registry.context import Context
    from zoo.registry.opening import open_registry
    from zoo.system.progress import Console
    from zoo.system.settings import Settings

    return Context(registry=open_registry(), settings=settings or Settings(), console=Console())
