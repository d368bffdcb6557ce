"""What benchmarks measure with: interleaved timing and peak memory."""

from __future__ import annotations

import ctypes
import gc
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def interleaved(
    functions: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """Median, quartiles and minimum in ms, and the median of CPU time over all threads.

    One round of all functions after the other: what else the machine does then disturbs them
    alike, and ratios hold. On a busy machine CPU time is the steadier of the two.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            gc.collect()
            cpu_started, started = time.process_time(), time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - started)
            cpu_seconds[name].append(time.process_time() - cpu_started)
    return {name: _summary(seconds[name], cpu_seconds[name]) for name in functions}


def _summary(seconds: list[float], cpu_seconds: list[float]) -> dict[str, float]:
    low, middle, high = (
        statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    )
    numbers = {"median": middle, "q1": low, "q3": high, "min": min(seconds)}
    numbers["cpu"] = statistics.median(cpu_seconds)
    return {name: round(value * 1e3, 3) for name, value in numbers.items()}


def peak_memory(function: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process grows at most while it runs."""
    gc.collect()
    _give_freed_memory_back()
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(peak, resident()) - before


def resident() -> int:
    """Bytes of memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_freed_memory_back() -> None:
    ctypes.CDLL(None).malloc_trim(0)
