"""Compare the speed of zoo with that of common alternatives on this machine, and write the table of README.md.

python benchmarks/speed/speed.py [S1 S3 G1 ...] [--rounds 3] [--quick] [--budget 300]

Alternatives are installed into a separate virtual environment below ZOO_SPEED_FOLDER (default: in the system's
temporary folder). Rounds that other programs disturb are void. `--quick` reduces the work to test the scripts; its
figures are meaningless. Lines are measured in the given order; a line that fails becomes a row with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cpu
import gpu
from table import Failure, Line, find_rows, heading, to_row, update_table
from timing import run
from work import CORES, FOLDER, HERE, Settings

README = HERE / "README.md"
TABLE: dict[str, Callable[[Settings], Iterator[Line | Failure]]] = {**cpu.TABLE, **gpu.TABLE}


def note(rows: list[str], *, complete: bool = False) -> None:
    """Put rows into README.md's table."""
    README.write_text(update_table(README.read_text(), rows, complete=complete))


def measure(name: str, settings: Settings, *, limit: float, noted: bool) -> bool:
    """Measure and print the rows of one line, and note each at once; return whether all were measured."""
    rows: list[str] = []
    failed = False
    where = f"{time.strftime('%Y-%m-%d')}{gpu_name() if name in gpu.TABLE and settings.device == 'cuda' else ''}"
    try:
        with time_limit(limit):
            for line in TABLE[name](settings):
                row = to_row(line, where)
                print(row, flush=True)
                if isinstance(line, Failure):
                    failed = True
                    print(f"{line.name}: {line.reason}", file=sys.stderr)
                    continue
                rows.append(row)
                if noted:
                    note(rows)
    except Exception as error:  # go on with the next lines
        traceback.print_exc()
        print(to_row(Failure(name=name, what="-", reason=f"{type(error).__name__}: {error}"), where), flush=True)
        return False
    if noted and not failed:
        note(rows, complete=True)
    return not failed


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupt the block after `seconds` (0: never). Only in the main thread of a POSIX system."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"stopped after {seconds:g} s")

    if not seconds:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def gpu_name() -> str:
    """The name of the first GPU, for the last column; empty without nvidia-smi."""
    if not shutil.which("nvidia-smi"):
        return ""
    names = run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]).splitlines()
    return f", {names[0].strip()}" if names else ""


def measure_all(names: list[str], settings: Settings, *, budget: float, limit: float, noted: bool) -> bool:
    """Measure lines until the budget in seconds is used (0: no limit); return whether all were measured."""
    start, done = time.monotonic(), True
    for number, name in enumerate(names):
        if budget and time.monotonic() - start >= budget:
            print(f"not measured within the budget of {budget:g} s: {', '.join(names[number:])}", flush=True)
            return False
        done = measure(name, settings, limit=limit, noted=noted) and done
    return done


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="S1", help=f"any of {', '.join(TABLE)} (default: all S)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of ABAB of the S lines (default 3)")
    parser.add_argument("--repeats", type=int, default=3, help="seeds, and timed repeats, of the G lines (default 3)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="of the G lines; cpu tests the code")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--budget", type=float, default=0.0, metavar="SECONDS", help="start no further line after it")
    parser.add_argument("--limit", type=float, default=0.0, metavar="SECONDS", help="stop a line after this time")
    parser.add_argument("--note", action="store_true", help="write the lines into README.md's table")
    parser.add_argument("--note-from", type=Path, metavar="LOG", help="note the rows in a log of another machine")
    return parser


def main() -> None:
    parser = build_parser()
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in TABLE]
    if unknown:
        parser.error(f"{unknown[0]}: not one of {', '.join(TABLE)}")
    names = options.names or list(cpu.TABLE)
    if options.note_from:
        note(find_rows(options.note_from.read_text()))
        return
    if options.note and (options.quick or (options.device == "cpu" and set(names) & set(gpu.TABLE))):
        parser.error("--note: figures of --quick, or of G lines with --device cpu, are meaningless; omit --note")
    FOLDER.mkdir(parents=True, exist_ok=True)
    from zoo.system.machine import processor_name, versions

    print(json.dumps({"processor": processor_name(), "cores": CORES, **versions()}))
    print(heading(), flush=True)
    settings = Settings(rounds=options.rounds, repeats=options.repeats, quick=options.quick, device=options.device)
    if not measure_all(names, settings, budget=options.budget, limit=options.limit, noted=options.note):
        sys.exit(1)


if __name__ == "__main__":
    main()
