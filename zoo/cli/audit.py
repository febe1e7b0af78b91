"""`zoo audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import FILE_TYPE, PATH, Name, plugin_option
from zoo.cli.terminal import registry_with_warnings, tell
from zoo.errors import EXIT_NOTHING_RAN, UsageError, clean

FIX_HELP = "Write a dataset.toml without the samples that make the split untrustworthy."


@click.command("audit")
@click.argument("datasets", type=Name("dataset"), nargs=-1, required=True, metavar="DATASET|PATH...")
@click.option("--fix", "fixed_card", type=FILE_TYPE, metavar="OUT.toml", help=FIX_HELP)
@click.option("--write", is_flag=True, help="Write what zoo guesses about a PATH to a dataset.toml beside it.")
@click.option("--output", type=FILE_TYPE, help="Another file for --write.")
@click.option("--html", type=FILE_TYPE, help="Write an HTML page of the findings, with images.")
@click.option("--label-noise", is_flag=True, help="Find labels that do not fit their images (needs cleanlab).")
@click.option("--features", type=Name("model"), metavar="MODEL", help="The frozen model for --label-noise.")
@click.option("--weights-dir", type=PATH, help="Folder of .pth or .safetensors files.")
@click.option("--offline", is_flag=True, help="Do not use the network.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@plugin_option
def audit_command(datasets: tuple[str, ...], offline: bool, as_json: bool, **flags: Any) -> int:
    """Find leaks, duplicates and label conflicts; exit status 4 if a dataset is refused."""
    from zoo.auditing.examine import add_label_noise, choose_backbone, describe_fixed, examine_named, fix
    from zoo.auditing.label_noise import require_cleanlab
    from zoo.registry.context import Context
    from zoo.registry.loading import quiet_stdout
    from zoo.report.audit_page import build_page
    from zoo.report.audit_text import audit_lines, fixed_lines
    from zoo.report.html import write_page
    from zoo.sources.opening import write_card
    from zoo.system.progress import Console
    from zoo.system.settings import Settings

    fixed_card, write, output = flags["fixed_card"], flags["write"], flags["output"]
    if (fixed_card or write) and len(datasets) > 1:
        raise UsageError("--fix and --write take one dataset", fix="run zoo audit once for each")
    if output and not write:
        raise UsageError("--output is the file of --write", fix="add --write")
    if (flags["features"] or flags["weights_dir"]) and not flags["label_noise"]:
        raise UsageError("--features and --weights-dir are for --label-noise", fix="add --label-noise")
    if flags["label_noise"]:
        require_cleanlab()
    context = Context(registry=registry_with_warnings(), settings=Settings(offline=offline), console=Console())
    if write:  # after plugins are loaded, which may read the files
        written = clean(write_card(Path(datasets[0]), output))
        tell(f"zoo: wrote {written}: review it and correct what is wrong")
    with quiet_stdout():
        backbone = None
        if flags["label_noise"]:  # before the audit, which takes long: weights may be missing
            backbone = choose_backbone(flags["features"] or "", flags["weights_dir"], context)
        examined = [each for name in datasets for each in examine_named(name, context)]
        if backbone:
            examined = [add_label_noise(each, backbone, context) for each in examined]
        if fixed_card and len(examined) > 1:
            raise UsageError(f"{datasets[0]} is {len(examined)} datasets", fix="name one of them: --fix takes one")
        fixed = fix(examined[0], fixed_card, context) if fixed_card else None
        if flags["html"]:
            write_page(build_page(examined), flags["html"])
            tell(f"zoo: wrote {clean(flags['html'])}")
    audits = [each.audit for each in examined]
    if as_json:
        document = {"schema": 1, "command": "audit", "datasets": [audited.describe() for audited in audits]}
        document |= {"fixed": describe_fixed(fixed)} if fixed else {}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(line for audited in audits for line in audit_lines(audited)))
        click.echo("\n".join(fixed_lines(fixed))) if fixed else None
    final = [fixed.audit] if fixed else audits
    return EXIT_NOTHING_RAN if any(audited.verdict == "refuse" for audited in final) else 0
