"""The one writer of result files, for benchmarks, experiments and the study."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
from pathlib import Path
from typing import Any

import torch

from alphareq_lightning.files import written_beside

RESULTS = Path(__file__).parent / "results"
EXPERIMENTS = Path(__file__).parents[1] / "experiments" / "results"
DIGITS = 5
"""Significant digits of the numbers that the study keeps."""


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


def options_of(description: str | None, out: Path = RESULTS) -> argparse.ArgumentParser:
    """``--smoke``: tiny sizes, nothing written. ``--out``: where the result goes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, writes nothing")
    parser.add_argument("--out", type=Path, default=out, help="folder of result files")
    parser.add_argument("--note", help="kept in the result: what was unusual about this run")
    return parser


def arguments(description: str | None) -> argparse.Namespace:
    return options_of(description).parse_args()


def write(options: argparse.Namespace, name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """One dated JSON file a run, with the machine and the command; its rows are printed too."""
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    if options.smoke:
        return
    about = {"date": today(), "command": command(name), "machine": machine()}
    result = {"benchmark": name, **about, "note": options.note, **more, "rows": rows}
    path = options.out / f"{today()}-{name}.json"
    write_json(path, json.dumps(result, indent=1, ensure_ascii=False))
    print(f"wrote {path}")


def command(name: str) -> str:
    """What makes a result again."""
    is_experiment = (EXPERIMENTS.parent / f"{name}.py").exists()
    return f"python -m {'experiments' if is_experiment else 'benchmarks'}.{name}"


def latest(name: str, folder: Path = RESULTS) -> dict[str, Any]:
    """The newest result of a benchmark or an experiment."""
    paths = sorted(folder.glob(f"????-??-??-{name}.json"))
    if not paths:
        raise SystemExit(f"no result of {name} in {folder}; run {command(name)}")
    result: dict[str, Any] = json.loads(paths[-1].read_text(encoding="utf-8"))
    return result


def of_training(folder: Path, experiment: str, params: dict[str, Any]) -> Path:
    """Where the result of a training belongs.

    Example:
        >>> of_training(Path("results"), "seeds", {"model.lambd": 0.1}).as_posix()
        'results/seeds/lambd=0.1.json'
    """
    name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in params.items())
    return folder / experiment / f"{name}.json"


def write_training(path: Path, values: dict[str, Any], course: str) -> None:
    """All that is known of a training; one line each of its ``course``, so that a change shows."""
    head = json.dumps(short({key: value for key, value in values.items() if key != course}))
    lines = ",\n".join(json.dumps(short(row)) for row in values[course])
    write_json(path, f'{head[:-1]}, "{course}": [\n{lines}\n]}}')


def write_json(path: Path, text: str) -> None:
    """A file, whole or not at all."""
    with written_beside(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")


def short(value: Any, digits: int = DIGITS) -> Any:
    """Floats with few significant digits, and `None` for NaN and infinities.

    Example:
        >>> short({"a": [1.23456789, float("nan")], "b": 7})
        {'a': [1.2346, None], 'b': 7}
    """
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: short(item, digits) for key, item in value.items()}
    return [short(item, digits) for item in value] if isinstance(value, list | tuple) else value
