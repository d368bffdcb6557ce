"""What every benchmark shares: interleaved timing, the machine, peak memory, result files."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import gc
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


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
    before, peak, done = _resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(peak, _resident()) - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _give_freed_memory_back() -> None:
    ctypes.CDLL(None).malloc_trim(0)


def today() -> str:
    return datetime.date.today().isoformat()


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = lines[0].split(":")[1].strip() if lines else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }


def options_of(description: str | None) -> argparse.ArgumentParser:
    """``--smoke``: tiny sizes, nothing written. ``--out``: where the result goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, writes nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--note", help="kept in the result: what was unusual about this run")
    return parser


def arguments(description: str | None) -> argparse.Namespace:
    return options_of(description).parse_args()


def write(options: argparse.Namespace, benchmark: str, rows: list[dict[str, Any]]) -> None:
    """One dated JSON file a run, with the machine and the command; printed too."""
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    if options.smoke:
        return
    date = today()
    result = {
        "benchmark": benchmark,
        "date": date,
        "command": f"python -m benchmarks.{benchmark}",
        "machine": machine(),
        "note": options.note,
        "rows": rows,
    }
    path = options.out / f"{date}-{benchmark}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def latest(benchmark: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The newest result of a benchmark."""
    paths = sorted(folder.glob(f"????-??-??-{benchmark}.json"))
    if not paths:
        raise SystemExit(
            f"no result of {benchmark} in {folder}; run python -m benchmarks.{benchmark}"
        )
    result: dict[str, Any] = json.loads(paths[-1].read_text(encoding="utf-8"))
    return result
