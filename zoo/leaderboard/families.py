"""The families of models whose results do not record them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from zoo.errors import ZooError
from zoo.leaderboard.boards import Board
from zoo.leaderboard.rows import Row
from zoo.registry.lookup import Registry


def fill_families(boards: Sequence[Board], registry: Registry) -> list[Board]:
    """Name the families that results of an older zoo lack, as far as the plugins of their models are installed."""
    return [replace(board, rows=tuple(fill_family(row, registry) for row in board.rows)) for board in boards]


def fill_family(row: Row, registry: Registry) -> Row:
    if row.family or row.baseline:
        return row
    try:
        return replace(row, family=registry.find("model", row.qualified).family)
    except ZooError:  # the plugin is not installed, or has no such model any more
        return row
