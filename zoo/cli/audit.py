"""`zoo audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zoo.cli.options import FILE_TYPE, PATH, TEXT
from zoo.cli.terminal import registry_with_warnings, tell
from zoo.errors import EXIT_NOTHING_RAN, UsageError, clean

FIX_HELP = "Write a dataset.toml that leaves out what makes the split untrustworthy."


@click.command("audit")
@click.argument("datasets", type=TEXT, nargs=-1, required=True, metavar="DATASET|PATH...")
@click.option("--fix", "fixed_card", type=FILE_TYPE, metavar="OUT.toml", help=FIX_HELP)
@click.option("--write", is_flag=True, help="Write what is guessed of a PATH to a dataset.toml beside it.")
@click.option("--output", type=FILE_TYPE, help="Where --write puts it, instead.")
@click.option("--html", type=FILE_TYPE, help="A page of the findings, with the images.")
@click.option("--label-noise", is_flag=True, help="Look for labels that do not fit their images (needs cleanlab).")
@click.option("--features", type=TEXT, metavar="MODEL", help="The frozen network that --label-noise looks with.")
@click.option("--weights-dir", type=PATH, help="Folder of .pth or .safetensors files.")
@click.option("--offline", is_flag=True, help="Do not try the network.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def audit_command(datasets: tuple[str, ...], offline: bool, as_json: bool, **flags: Any) -> int:
    """Look for leaks, duplicates and label conflicts; exit status 4 where a dataset is refused."""
    from zoo.audit.examine import add_label_noise, choose_backbone, describe_fixed, examine_named, fix
    from zoo.audit.label_noise import require_cleanlab
    from zoo.registry.loading import quiet_stdout
    from zoo.report.audit_page import build_page
    from zoo.report.audit_text import audit_lines, fixed_lines
    from zoo.report.html import write_page
    from zoo.sources.opening import write_card
    from zoo.system.progress import Console
    from zoo.system.settings import Settings

    fixed_card, write, output = flags["fixed_card"], flags["write"], flags["output"]
    if (fixed_card or write) and len(datasets) > 1:
        raise UsageError("--fix and --write are for one dataset", fix="name one, and call again for each other")
    if output and not write:
        raise UsageError("--output says where --write writes", fix="add --write")
    if (flags["features"] or flags["weights_dir"]) and not flags["label_noise"]:
        raise UsageError("--features and --weights-dir are what --label-noise looks with", fix="add --label-noise")
    if flags["label_noise"]:
        require_cleanlab()
    if write:
        written = clean(write_card(Path(datasets[0]), output))
        tell(f"zoo: wrote {written}: read it, and correct what is wrong")
    registry, console, settings = registry_with_warnings(), Console(), Settings(offline=offline)
    with quiet_stdout():
        backbone = None
        if flags["label_noise"]:  # before the audit, which can take long: weights may be missing
            backbone = choose_backbone(flags["features"] or "", flags["weights_dir"], registry, console, settings)
        examined = [each for name in datasets for each in examine_named(name, registry, console, settings)]
        if backbone:
            examined = [add_label_noise(each, backbone, console, settings) for each in examined]
        if fixed_card and len(examined) > 1:
            raise UsageError(f"{datasets[0]} means {len(examined)} datasets", fix="--fix is for one: name it")
        fixed = fix(examined[0], fixed_card, console, settings) if fixed_card else None
        if flags["html"]:
            pages = [(each.audit, each.source, each.split, each.fingerprints) for each in examined]
            write_page(build_page(pages), flags["html"])
            tell(f"zoo: wrote {clean(flags['html'])}")
    audits = [each.audit for each in examined]
    if as_json:
        document = {"schema": 1, "command": "audit", "datasets": [audited.describe() for audited in audits]}
        document |= {"fixed": describe_fixed(fixed)} if fixed else {}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(line for audited in audits for line in audit_lines(audited)))
        click.echo("\n".join(fixed_lines(fixed))) if fixed else None
    left = [fixed.audit] if fixed else audits
    return EXIT_NOTHING_RAN if any(audited.verdict == "refuse" for audited in left) else 0
