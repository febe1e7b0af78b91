"""The command `zoo` and its subcommands. A new one is added here and to COMMAND_GROUPS in help.py."""

from __future__ import annotations

import click

from zoo.cli.audit import audit_command
from zoo.cli.bench import bench_command
from zoo.cli.bundle import bundle_command
from zoo.cli.cache import cache_command
from zoo.cli.compare import compare_command
from zoo.cli.doctor import doctor_command
from zoo.cli.explain import explain_command
from zoo.cli.export import export_command
from zoo.cli.help import GroupedCommands
from zoo.cli.info import info_command
from zoo.cli.list import list_command
from zoo.cli.plugin import plugin_command
from zoo.cli.predict import predict_command
from zoo.cli.report import report_command
from zoo.cli.robustness import robustness_command
from zoo.cli.score import score_command
from zoo.cli.verify import verify_command
from zoo.cli.why import why_command
from zoo.cli.worker import worker_command


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="zoo-bench", prog_name="zoo", message="%(prog)s %(version)s")
def zoo() -> None:
    """Benchmark image models on medical images, with intervals and tested ranks.

    \b
    zoo bench                                    quickstart: synthetic data, minutes on a CPU
    zoo bench --datasets PATH --models starter   your own images
    zoo list models 'resnet*'                    installed models
    """


for command in (
    audit_command,
    bench_command,
    bundle_command,
    cache_command,
    compare_command,
    doctor_command,
    explain_command,
    export_command,
    info_command,
    list_command,
    plugin_command,
    predict_command,
    report_command,
    robustness_command,
    score_command,
    verify_command,
    why_command,
    worker_command,
):
    zoo.add_command(command)
