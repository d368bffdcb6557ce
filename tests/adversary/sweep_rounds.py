"""Rounds of four workers that start at once on one study, with trials that cost nothing.

A script, so that the workers can be forked from a process without threads and share its imports:
``python sweep_rounds.py FOLDER ROUNDS (--kill) (--storage URL)`` prints what went wrong as JSON.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import yaml
from optuna import TrialPruned
from rich.console import Console

from alphareq_lightning.sweep import load_study, read_sweep, run_sweep
from alphareq_lightning.sweep import study as study_room
from alphareq_lightning.sweep.storage import open_storage

WORKERS, SLOTS = 4, 8


def cheap_trial(marks):
    """A trial that marks its beginning and its end, and takes a few milliseconds."""

    def mark(what, trial):
        line = f"{what} {trial.params['x']} {os.getpid()}\n"
        with open(marks, "ab", buffering=0) as file:
            file.write(line.encode())  # one write of few bytes at the end: never torn

    def run_trial(sweep, trial):
        x = trial.suggest_categorical("x", list(range(SLOTS)))
        mark("begun", trial)
        time.sleep(random.random() * 0.02)
        trial.set_user_attr("alpha", 0.1 * x)
        mark("ended", trial)
        if x % 3 == 0:
            raise TrialPruned
        return float(x)

    return run_trial


def work(config, storage, marks, gate):
    """One worker, as `alphareq sweep` runs it."""
    study_room.run_trial = cheap_trial(marks)
    study_room.check_training = lambda sweep: None
    study_room.POLL_SECONDS = 0.05
    sweep = read_sweep(config, storage=storage)
    gate.wait()
    with open(f"{marks}.{os.getpid()}.err", "w") as errors:
        os.dup2(errors.fileno(), 2)
        run_sweep(sweep, console=Console(file=errors))


def one_round(folder, storage, name, kill):
    """Run the four workers; what went wrong, by kind."""
    folder.mkdir(parents=True)
    (folder / "train.yaml").write_text("{}")
    config = folder / "sweep.yaml"
    values = {
        "name": name,
        "train": "train.yaml",
        "space": {"x": list(range(SLOTS))},
        "out": str(folder / "out"),
        "heartbeat": 1,
    }
    config.write_text(yaml.safe_dump(values))
    storage = storage or f"sqlite:///{folder}/out/study.db"
    marks = folder / "marks"
    context = multiprocessing.get_context("fork")
    gate = context.Barrier(WORKERS + 1)
    workers = [
        context.Process(target=work, args=(config, storage, marks, gate)) for _ in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    gate.wait()
    killed = set()
    if kill:
        wanted = random.randrange(SLOTS - 1)  # trials that have begun by then
        while wanted and not (marks.exists() and marks.read_text().count("begun") >= wanted):
            time.sleep(0.002)
        time.sleep(random.random() * 0.02)
        victim = random.choice([worker for worker in workers if worker.is_alive()])
        os.kill(victim.pid, signal.SIGKILL)
        killed.add(victim.pid)
    for worker in workers:
        worker.join(60)
    hung = [worker for worker in workers if worker.is_alive()]
    for worker in hung:
        worker.kill()
        worker.join()
    crashed = [w for w in workers if w.exitcode != 0 and w.pid not in killed]
    study = load_study(storage, name)
    done = Counter(t.params["x"] for t in study.trials if t.state.name in ("COMPLETE", "PRUNED"))
    lines = [line.split() for line in marks.read_text().splitlines()]
    ended = Counter(int(x) for what, x, pid in lines if what == "ended" and int(pid) not in killed)
    return {
        "doubled": sum(n > 1 for n in (done | ended).values()),
        "crashed": len(crashed),
        "lost": SLOTS - len(done),
        "killed": len(killed),
        "errors": [
            line
            for worker in crashed
            for line in Path(f"{marks}.{worker.pid}.err").read_text().splitlines()[-1:]
        ],
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("rounds", type=int)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--kind", choices=("sqlite", "journal", "server"), default="sqlite")
    parser.add_argument("--url", help="of the server")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    open_storage(f"sqlite:///{options.folder}/imports.db")  # once, and not in every worker
    random.seed(0)
    total = Counter()
    errors = Counter()
    for number in range(options.rounds):
        folder = options.folder / f"{number:03d}"
        journal = f"{folder}/out/study.journal"
        storage = {"sqlite": None, "journal": journal, "server": options.url}[options.kind]
        found = one_round(folder, storage, f"round-{number:03d}", options.kill)
        errors.update(found.pop("errors"))
        total.update(found, rounds=1)
    total["trials"] = options.rounds * SLOTS
    print(json.dumps({**total, "errors": dict(errors)}))


if __name__ == "__main__":
    sys.exit(main())
