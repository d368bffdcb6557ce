"""``alphareq sweep``: options in, a table or JSON out."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console

from alphareq_lightning.sweep.config import read_sweep
from alphareq_lightning.sweep.study import run_sweep, sweep_status
from alphareq_lightning.text import json_text

INTERRUPTED = 130
"""Exit code of a program that Ctrl-C ended, as shells have it."""


def sweep(options: argparse.Namespace) -> int:
    """Run a sweep, or show how far it is."""
    wanted = read_sweep(options.config, storage=options.storage, trials=options.trials)
    console = Console(stderr=options.json, markup=False)
    try:
        summary = sweep_status(wanted) if options.status else run_sweep(wanted, console=console)
    except KeyboardInterrupt:
        print("alphareq: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json_text(summary.to_json(), indent=None))
    else:
        console.print(summary.table(), highlight=False)
    return 0
