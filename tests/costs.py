"""What work costs, in a form that a busy machine does not change: ratios of processor time, and peaks of memory."""

import contextlib
import time
import tracemalloc
from types import SimpleNamespace


def cost_ratio(work, reference, rounds=3):
    """Processor time of `work` over that of `reference`, each the least of several rounds, taken in turn."""
    costs = [(processor_seconds(work), processor_seconds(reference)) for _ in range(rounds + 1)][1:]  # imports, caches
    return min(one for one, _ in costs) / min(other for _, other in costs)


def processor_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


@contextlib.contextmanager
def peak_memory():
    """Measure the most bytes that Python and numpy hold at once in this block: `peak.bytes` afterwards."""
    peak = SimpleNamespace(bytes=0)
    tracemalloc.start()
    try:
        yield peak
        peak.bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
