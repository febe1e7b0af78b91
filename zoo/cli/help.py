"""Help pages: commands and options under headings, with whole sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

# The commands of `zoo`, in the order of its help page.
COMMAND_GROUPS: Mapping[str, Sequence[str]] = {
    "Run": ("bench", "audit"),
    "Look at results": ("report", "compare", "list", "info", "why"),
    "Use a trained model": ("predict", "explain", "robustness", "export"),
    "Share results": ("bundle", "verify"),
    "Maintain": ("score", "plugin", "cache", "doctor", "worker"),
}


class GroupedCommands(click.Group):
    """A group whose help page lists its commands under headings; click would cut their sentences."""

    def format_commands(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.commands))
        for heading, names in COMMAND_GROUPS.items():
            rows = [(name.ljust(width), first_paragraph(self.commands[name])) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows)


class GroupedOptions(click.Command):
    """A command whose help page lists its options under headings, then examples.

    `headings` maps the name of the first option below each heading to that heading: an option belongs where it stands.
    """

    def __init__(self, *args: Any, headings: Mapping[str, str], examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.headings, self.examples = headings, examples

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        heading = "Options"
        for param in self.get_params(ctx):
            heading = self.headings.get(param.name or "", heading)
            if record := param.get_help_record(ctx):
                groups.setdefault(heading, []).append(record)
        for heading, rows in groups.items():
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=24)
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{' ' * formatter.current_indent}{line}\n")


def first_paragraph(command: click.Command) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())
