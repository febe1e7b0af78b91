"""The pages about own data match the code: every documented dataset is built and read, every key is listed."""

import json
import sys

import pytest
from documented_shapes import BUILDERS, PAGE, blocks, build, printed, sections, tree

from zoo.errors import DataError
from zoo.report.json_records import report_schema
from zoo.sources.cards import read_card
from zoo.sources.opening import card_json_schema

DOCS = PAGE.parent
SHAPES = sections(PAGE.read_text(encoding="utf-8"))
REWRITE = "run `python tests/documented_shapes.py`, and read what changed"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(DOCS))
    try:
        import make_reference

        yield make_reference
    finally:
        sys.path.remove(str(DOCS))


# --- your-own-data.md ------------------------------------------------------------------------------------------------
def test_every_documented_layout_is_built():
    assert set(SHAPES) == set(BUILDERS)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.integration
def test_a_layout_on_the_page_is_read_as_expected(name, tmp_path, golden):
    page_tree, card, page_print = blocks(SHAPES[name])
    path = build(name, tmp_path, card)
    if page_tree:
        assert tree(path, bool(card)) + "\n" == page_tree, REWRITE
    if page_print:
        assert printed(path) + "\n" == page_print, REWRITE
    else:
        golden(printed(path))


# --- dataset-toml.md -------------------------------------------------------------------------------------------------
def test_the_schema_and_the_tables_of_keys_are_up_to_date(reference):
    advice = "run `python docs/make_reference.py`"
    assert reference.SCHEMA.read_text(encoding="utf-8") == reference.schema_text(card_json_schema()), advice
    assert reference.REPORT_SCHEMA.read_text(encoding="utf-8") == reference.schema_text(report_schema()), advice
    page = reference.REPORT_PAGE.read_text(encoding="utf-8")
    assert page == reference.report_page_text(page), advice
    page = reference.PAGE.read_text(encoding="utf-8")
    assert page == reference.page_text(page), advice


def test_the_page_has_a_table_for_the_file_and_for_each_of_its_sections(reference):
    tables = [found[1] for found in reference.TABLE.finditer(reference.PAGE.read_text(encoding="utf-8"))]
    assert sorted(tables) == sorted(["DatasetCard", *card_json_schema()["$defs"]])


def test_every_key_has_a_description():
    schema = card_json_schema()
    for name, section in {"": schema, **schema["$defs"]}.items():
        for key, about in section["properties"].items():
            assert about.get("description"), f"{name}.{key}"


def test_the_schema_contains_no_null():
    assert "null" not in json.dumps(card_json_schema())


def test_the_mistakes_on_the_page_are_reported_as_documented(tmp_path):
    page = (DOCS / "dataset-toml.md").read_text(encoding="utf-8")
    shown, card, _ = blocks(page.partition("## Mistakes")[2])
    path = tmp_path / "dataset.toml"
    path.write_text(card, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_card(path)
    assert caught.value.message == shown.replace("\n", " ").strip().replace("dataset.toml", str(path))


def test_the_table_of_a_suite_s_keys_is_up_to_date(reference):
    page = reference.COMMANDS.read_text(encoding="utf-8")
    assert page == reference.commands_text(page), "run `python docs/make_reference.py`"
    assert "| `distinct_patients` | `--distinct-patients` |" in page
