"""Write the tables and the JSON schemas made from fields: of `dataset.toml`, a suite's file, a report and plugins.

    python docs/make_reference.py

A comment `<!-- keys of Label -->` in the page marks the table of that section; `Card` is the file itself.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.conformance.catalogue import checks_of
from zoo.registry.finding import InstalledPlugin
from zoo.registry.loading import load_plugin
from zoo.report.json_records import SCHEMA_NAME, report_schema
from zoo.sources.opening import card_json_schema
from zoo.specs.hooks import HOOKS, KINDS
from zoo.specs.suite import suite_keys

DOCS = Path(__file__).resolve().parent
SCHEMA, PAGE = DOCS / "dataset.schema.json", DOCS / "dataset-toml.md"
REPORT_SCHEMA, REPORT_PAGE = DOCS / SCHEMA_NAME, DOCS / "report-json.md"
TABLE = re.compile(r"(?<=<!-- keys of )(\w+)( -->\n)(?:\|.*\n)*")
COMMANDS = DOCS / "command-line.md"
PLUGINS = DOCS / "write-a-plugin.md"
CHECK_TABLE = re.compile(r"(?<=<!-- checks -->\n)(?:\|.*\n)*")
GALLERY = DOCS / "plugins.md"
GALLERY_TABLE = re.compile(r"(?<=<!-- plugins -->\n)(?:\|.*\n)*")
NUM_NAMES = 4  # of a plugin's specs of one kind
WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


def schema_text(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def page_text(page: str) -> str:
    """The page with every table rewritten."""
    schema = card_json_schema()
    sections = {"DatasetCard": schema, **schema["$defs"]}
    return TABLE.sub(lambda match: match[1] + match[2] + key_table(sections[match[1]]), page)


def report_page_text(page: str) -> str:
    """The page of the report's document with every table rewritten."""
    schema = report_schema()
    records = {"ReportRecord": schema, **schema["$defs"]}
    return TABLE.sub(lambda match: match[1] + match[2] + record_table(records[match[1]]), page)


def record_table(record: dict[str, Any]) -> str:
    rows = ["| field | value | meaning |", "|---|---|---|"]
    for name, field in record["properties"].items():
        meaning = field.get("description", "").replace("|", chr(92) + "|")
        rows.append(f"| `{name}` | {json_kind(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def json_kind(field: dict[str, Any]) -> str:
    """The values of a field of JSON, in words; a record is a link to its table."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name.removesuffix('Record')}](#{name.removesuffix('Record').lower()})"
    if "anyOf" in field:
        return " or ".join(map(json_kind, field["anyOf"]))
    if "const" in field or "enum" in field:
        return " or ".join(f"`{json.dumps(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        return f"list of {json_kind(field['items'])}"
    if field["type"] == "object":
        values = field.get("additionalProperties")
        return f"object of {json_kind(values)}" if isinstance(values, dict) else "object"
    return {**WORDS, "null": "null"}[field["type"]]


def commands_text(page: str) -> str:
    """The page of commands with the table of the keys of a suite's file rewritten."""
    return TABLE.sub(lambda match: match[1] + match[2] + suite_table(), page)


def suite_table() -> str:
    rows = ["| key | flag | meaning |", "|---|---|---|"]
    for name, key in suite_keys().items():
        if key.key is not None:
            flag = f"`{key.flags[0]}`" if key.flags else ""
            rows.append(f"| `{key.key or name}` | {flag} | {'Must be given. ' if key.required else ''}{key.help} |")
    return "\n".join(rows) + "\n"


def plugins_text(page: str) -> str:
    """The page on plugins with the table of the checks of the conformance kit rewritten."""
    rows = ["| check | claim |", "|---|---|"]
    checks = {check.id: check.claim for kind in KINDS for check in checks_of(kind)}
    rows += [f"| `{name}` | {claim} |" for name, claim in checks.items()]
    return CHECK_TABLE.sub(lambda _: "\n".join(rows) + "\n", page)


def gallery_text(page: str) -> str:
    """The gallery with the table of the plugins of this repository rewritten from their metadata and hooks."""
    rows = ["| plugin | what it is | hooks | what it adds | install |", "|---|---|---|---|---|"]
    for path in sorted(DOCS.parent.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        name = project["name"]
        commands = ", ".join(f"the command `{command}`" for command in project.get("scripts", ()))
        specs = {} if commands else register(path.parent, name)
        hooks = ", ".join(f"`{HOOKS[kind]}`" for kind in specs)
        added = commands or "; ".join(list_added(kind, [spec.name for spec in specs[kind]]) for kind in specs)
        page_of = f"[{name}](../plugins/{name}/README.md)"
        rows.append(f"| {page_of} | {project['description']} | {hooks} | {added} | `pip install {name}` |")
    return GALLERY_TABLE.sub(lambda _: "\n".join(rows) + "\n", page)


def register(folder: Path, name: str) -> dict[str, list[Any]]:
    """What a plugin registers, by kind, whether it is installed or not."""
    if str(folder / "src") not in sys.path:
        sys.path.append(str(folder / "src"))
    module = name.replace("-", "_")
    specs, mistakes = load_plugin(InstalledPlugin(name=name, module=module, load=partial(import_module, module)))
    if mistakes:
        raise ValueError(f"{name}: {mistakes}")
    return {kind: each for kind, each in specs.items() if each}


def list_added(kind: str, names: list[str]) -> str:
    """Specs of one kind in words: "2 metrics: `a`, `b`"."""
    listed = ", ".join(f"`{name}`" for name in names[:NUM_NAMES])
    more = f" and {len(names) - NUM_NAMES:,} more" if len(names) > NUM_NAMES else ""
    return f"{len(names):,} {kind}{'s' if len(names) > 1 else ''}: {listed}{more}"


def key_table(section: dict[str, Any]) -> str:
    required = section.get("required", [])
    rows = ["| key | value | meaning |", "|---|---|---|"]
    for name, key in section["properties"].items():
        default = f" Default: `{to_toml(key['default'])}`." if key.get("default") not in (None, {}) else ""
        meaning = ("Must be given. " if name in required else "") + key["description"] + default
        rows.append(f"| `{name}` | {kind_of(key)} | {meaning.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


def kind_of(key: dict[str, Any]) -> str:
    """The allowed values of a key, in words."""
    if "$ref" in key:
        name = key["$ref"].rpartition("/")[2].removesuffix("Rule").lower()  # SplitRule is the section `split`
        return f"[section](#{name})"
    if "anyOf" in key:
        return " or ".join(kind_of(each) for each in key["anyOf"])
    if "const" in key:
        return f"`{to_toml(key['const'])}`"
    if "enum" in key:
        return " or ".join(f"`{to_toml(value)}`" for value in key["enum"] if value != "")
    if key["type"] == "array":
        items = key.get("prefixItems")
        return f"[{', '.join(map(kind_of, items))}]" if items else f"list of {kind_of(key['items'])}"
    if key["type"] == "object":
        return "table of text"
    return WORDS[key["type"]]


def to_toml(value: Any) -> str:
    return json.dumps(value)


if __name__ == "__main__":
    SCHEMA.write_text(schema_text(card_json_schema()), encoding="utf-8")
    REPORT_SCHEMA.write_text(schema_text(report_schema()), encoding="utf-8")
    REPORT_PAGE.write_text(report_page_text(REPORT_PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    PLUGINS.write_text(plugins_text(PLUGINS.read_text(encoding="utf-8")), encoding="utf-8")
    COMMANDS.write_text(commands_text(COMMANDS.read_text(encoding="utf-8")), encoding="utf-8")
    PAGE.write_text(page_text(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    GALLERY.write_text(gallery_text(GALLERY.read_text(encoding="utf-8")), encoding="utf-8")
