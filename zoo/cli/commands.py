"""The command `zoo`, with all that stands behind it."""

from __future__ import annotations

import click

from zoo.cli.audit import audit_
from zoo.cli.bench import bench
from zoo.cli.bundle import bundle
from zoo.cli.cache import cache
from zoo.cli.compare import compare_
from zoo.cli.doctor import doctor
from zoo.cli.info import info
from zoo.cli.list import list_
from zoo.cli.plugin import plugin
from zoo.cli.report import report
from zoo.cli.score import score_
from zoo.cli.verify import verify
from zoo.cli.why import why


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="zoo-bench", prog_name="zoo", message="%(prog)s %(version)s")
def zoo() -> None:
    """Benchmark pretrained networks on medical images, and say how far the order can be trusted.

    \b
    zoo bench                                      the quickstart: synthetic data, minutes on a CPU
    zoo bench --datasets PATH --models starter     your own images
    zoo list models 'resnet*'                      what is there
    """


for command in (audit_, bench, bundle, cache, compare_, doctor, info, list_, plugin, report, score_, verify, why):
    zoo.add_command(command)
