"""The docs say what the code does: every hook, command and flag, the example as it is, and only commands that parse."""

import importlib.util
import re
import shlex
import tomllib
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import click
import pytest
from PIL import Image

from zoo import DatasetSpec, EstimatorSpec, MetricSpec, ModelSpec, Weights
from zoo.cli.commands import zoo
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import HOOKS, load_registry
from zoo.sources.cards import read_card
from zoo.specs.protocol import PROTOCOLS
from zoo.specs.reader import ReaderSpec
from zoo.tasks.kinds import CORE_TASKS, IMAGE_TASKS
from zoo.testing import check_dataset

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("plugins/*/README.md")])


def read(page: Path | str) -> str:
    return (DOCS / page if isinstance(page, str) else page).read_text(encoding="utf-8")


def leaf_commands(group: click.Group = zoo, path: str = "zoo") -> dict[str, click.Command]:
    """Every command that does something, by what is typed: "zoo bench", "zoo plugin list"."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= leaf_commands(command, f"{path} {name}")
        else:
            found[f"{path} {name}"] = command
    return found


def section(page: str, heading: str) -> str:
    """The text below one heading, up to the next of the same level."""
    match = re.search(rf"^## `?{re.escape(heading)}`?$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert match, f"no heading {heading!r}"
    return match[1]


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every fenced block; blocks indented by four spaces count as shell."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*fenced, ("", "\n".join(re.findall(r"^    (.+)$", rest, re.MULTILINE)))]


def shell_lines(page: Path, program: str) -> list[str]:
    """What calls one program in a page's code blocks and in the `code` of its text; uv and .venv in front cut off."""
    text = read(page)
    lines = [line for language, block in code_blocks(text) if language != "toml" for line in block.splitlines()]
    lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    plain = [re.sub(r"^\s*(\$ |uv run |\.venv[/\\](bin|Scripts)[/\\])?", "", line) for line in lines]
    return [line for line in plain if re.match(rf"{program} [a-z]", line)]


def find_usage_error(line: str) -> str:
    """What is wrong with a command line: no such command, flag or choice; empty if nothing is."""
    words = shlex.split(line, comments=True)[1:]
    if any(word in "|>&" or "..." in word for word in words):
        words = words[: next(i for i, word in enumerate(words) if word in "|>&" or "..." in word)]
    command: click.Command = zoo
    while isinstance(command, click.Group) and words:
        if words[0] not in command.commands:
            return f"no command {words[0]!r}"
        command = command.commands[words.pop(0)]
    try:
        if words:
            command.make_context(line, words)
    except click.UsageError as error:
        return error.format_message()
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_can_be_typed(page, monkeypatch):
    monkeypatch.setenv("ZOO_PLUGINS", "")  # `--plugin` sets it
    assert not {line: error for line in shell_lines(page, "zoo") if (error := find_usage_error(line))}


@pytest.mark.parametrize("line", ["zoo bensh", "zoo bench --modles x", "zoo report --format x"])
def test_a_command_that_cannot_be_typed_is_detected(line):
    assert find_usage_error(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_in_the_docs_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for line in shell_lines(page, "make") for word in line.split("#")[0].split()[1:] if "=" not in word}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_pages_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", read(linked), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", sorted(leaf_commands()))
def test_every_command_has_a_section_with_every_flag_and_no_other(name):
    text = section(read("command-line.md"), name)
    known = {flag for option in leaf_commands()[name].params for flag in option.opts if flag.startswith("-")}
    cells = re.findall(r"^\| (`-.*?`) \|", text, re.MULTILINE)
    written = {flag for cell in cells for flag in re.findall(r"`(-[-a-z]+)", cell)}
    assert written == known
    for option in leaf_commands()[name].params:
        if isinstance(option.type, click.Choice):
            assert all(f"`{choice}`" in text for choice in option.type.choices)


def test_command_line_describes_no_command_that_does_not_exist():
    headings = re.findall(r"^## `(zoo [a-z ]+)`$", read("command-line.md"), re.MULTILINE)
    assert sorted(headings) == sorted(leaf_commands())


def test_every_kind_of_cache_is_described():
    from zoo.system.caches import CACHE_KINDS

    table, _, _ = section(read("command-line.md"), "zoo cache clear").partition("| flag |")
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {kind for cell in cells for kind in re.findall(r"`(\w+)`", cell)} == set(CACHE_KINDS)


def test_every_exit_status_is_described():
    from zoo import errors

    described = set(
        map(int, re.findall(r"^\| (\d+) \|", section(read("command-line.md"), "Exit status"), re.MULTILINE))
    )
    raised = {c.exit_status for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.ZooError)}
    assert described == {0} | raised | {value for name, value in vars(errors).items() if name.startswith("EXIT_")}


@pytest.mark.parametrize("hook", sorted(HOOKS.values()))
def test_every_hook_is_described(hook):
    assert f"`{hook}" in read("write-a-plugin.md")


@pytest.mark.parametrize(
    "spec", [ModelSpec, Weights, DatasetSpec, MetricSpec, EstimatorSpec, ReaderSpec], ids=lambda spec: spec.__name__
)
def test_every_field_of_a_spec_is_described(spec):
    text = section(read("write-a-plugin.md"), spec.__name__)
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == {field.name for field in fields(spec)}


def test_the_example_plugin_stands_in_the_docs_as_it_is():
    module = read(ROOT / "plugins" / "zoo-example" / "src" / "zoo_example" / "__init__.py")
    assert ("python", module) in code_blocks(read("write-a-plugin.md"))


def test_the_example_plugin_is_under_eighty_lines():
    module = read(ROOT / "plugins" / "zoo-example" / "src" / "zoo_example" / "__init__.py")
    assert len(module.splitlines()) < 80


def test_the_plugin_of_one_card_in_the_docs_is_listed_and_read(tmp_path):
    text = section(read("write-a-plugin.md"), "A dataset, without a line of code")
    project, card = (block for language, block in code_blocks(text) if language == "toml")
    package = tmp_path / "zoo_busi"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "dataset.toml").write_text(card, encoding="utf-8")
    ((_, module),) = tomllib.loads(project)["project"]["entry-points"]["zoo.v1"].items()
    specification = importlib.util.spec_from_file_location(module, package / "__init__.py")
    registry = load_registry(
        [InstalledPlugin(name="zoo-busi", load=lambda: importlib.util.module_from_spec(specification))]
    )
    assert not registry.broken
    busi = registry.datasets["busi"]
    assert (busi.task.name, busi.labels) == ("multiclass", ("normal", "benign", "malignant"))
    for number, label in enumerate(busi.labels * 2):
        place = tmp_path / "data" / "busi" / label
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number * 20).save(place / f"{label} ({number}).png")
        Image.new("L", (8, 8)).save(place / f"{label} ({number})_mask.png")
    check_dataset(busi, tmp_path / "data" / "busi")


def toml_blocks() -> list[str]:
    return [block for language, block in code_blocks(read("your-own-data.md")) if language == "toml"]


@pytest.mark.parametrize("block", toml_blocks())
def test_a_dataset_toml_in_the_docs_is_valid(block, tmp_path):
    (tmp_path / "dataset.toml").write_text(block, encoding="utf-8")
    assert read_card(tmp_path / "dataset.toml").label is not None


def glossary() -> str:
    return read("glossary.md")


@pytest.mark.parametrize(
    "word",
    [
        *("model", "dataset", "sample", "image", "patient", "task", "suite", "protocol", "run", "result", "metric"),
        *("score", "performance", "system", "registry", "plugin", "hook", "split", "board", "baseline", "deviation"),
    ],
)
def test_the_glossary_has_every_word_of_the_program(word):
    assert re.search(rf"^\|[^|]*\b{word}\b[^|]*\|", glossary(), re.MULTILINE)


def test_the_glossary_has_every_task_metric_and_protocol():
    names = {*IMAGE_TASKS, *(metric.name for metric in METRICS), *(protocol.name for protocol in PROTOCOLS)}
    assert not {name for name in names if f"`{name}`" not in glossary()}


@pytest.mark.parametrize("task", CORE_TASKS, ids=str)
def test_the_glossary_tells_the_default_metric_of_every_task(task):
    assert re.search(rf"^\| `{task.name}` \|.*\| `{task.primary_metric}` \|$", glossary(), re.MULTILINE)


def test_every_guarantee_names_test_files_that_exist():
    rows = [line for line in read("reliability.md").splitlines() if line.startswith("| ") and line.count(" | ") == 3]
    files = [re.findall(r"`(tests/test_\w+\.py)`", row) for row in rows if not row.startswith("| guarantee")]
    assert files and all(files)
    assert not [name for names in files for name in names if not (ROOT / name).exists()]


def test_how_a_run_flows_names_functions_that_exist():
    page = read("how-a-run-flows.md")
    named = re.findall(r"`([a-z_]+)\.(\w+)`", page) + re.findall(r"(?:^| {4,}|^  )([a-z_]+)\.(\w+) {2,}", page, re.M)
    named = {(module, name) for module, name in named if name not in ("py", "toml", "md")}
    files = {path.relative_to(ROOT / "zoo").with_suffix("") for path in (ROOT / "zoo").glob("*/*.py")}
    assert len(named) > 25
    for module, name in named:
        homes = [import_module("zoo." + ".".join(file.parts)) for file in files if file.name == module]
        assert any(hasattr(home, name) for home in homes), f"{module}.{name}"
