"""From a command line to an exit status: one short function a command. The contract is docs/command-line.md."""

from zoo.cli.benching import bench, print_boards, suite_from_flags
from zoo.cli.commands import zoo
from zoo.cli.looking import KINDS
from zoo.cli.process import main, run

__all__ = ["KINDS", "bench", "main", "print_boards", "run", "suite_from_flags", "zoo"]
