"""What a sweep is: the YAML file as a frozen dataclass, and the plan of its trials."""

from __future__ import annotations

import difflib
import itertools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from alphareq_lightning.errors import OptionError
from alphareq_lightning.files import read_yaml
from alphareq_lightning.readout import PROBES
from alphareq_lightning.text import shown

IDENTITY = "sweep"
"""The attribute of a study that says what its trials have in common."""
SAMPLERS = ("grid", "random", "tpe")
RANGE_KEYS = ("low", "high", "log", "step")
LEAST = {"labels_per_class": 1, "top_k": 0, "margin": 0, "min_epochs": 1, "reduction_factor": 2}
"""The smallest value of each whole number among the options."""
SCIENTIFIC = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

Params = dict[str, Any]


@dataclass(frozen=True)
class ReadoutOptions:
    """How a trial that is worth it is read out."""

    probe: str = "logistic"
    labels_per_class: int | None = None
    """Labels of the training images that are used; `None` for all."""


@dataclass(frozen=True)
class SearchOptions:
    """The interval search, see `AlphaIntervalSearch`."""

    top_k: int = 5
    """With 0 nothing is read out: `alphareq select --budget` does when all models are there."""
    margin: int = 0


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving on the distance of α, without labels."""

    min_epochs: int = 1
    """Nobody is stopped before; α does not rank trainings in their first epochs."""
    reduction_factor: int = 3
    """At each rung, ``min_epochs`` times a power of this, about one in so many goes on."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as its file describes it."""

    name: str
    """Of the study in its storage."""
    train: Path
    """The LightningCLI config of every trial."""
    space: dict[str, BaseDistribution]
    """What is varied, by dotted key of that config."""
    overrides: Params = field(default_factory=dict)
    """Other dotted keys, the same for every trial."""
    sampler: str = "grid"
    trials: int = 0
    seed: int = 0
    """Of the order of a grid, of random draws, and of the readout."""
    readout: ReadoutOptions = ReadoutOptions()
    search: SearchOptions = SearchOptions()
    early_stopping: Halving | None = None
    out: Path = Path("runs/sweep")
    storage: str = ""
    heartbeat: int = 60
    """Seconds between two signs of life in a database that many machines share."""

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for all trials of a study, in plain JSON."""
        return {
            "space": {key: distribution_to_json(d) for key, d in self.space.items()},
            "sampler": self.sampler,
            "seed": self.seed,
            "train": _load(self.train),
            "overrides": self.overrides,
            "readout": vars(self.readout),
            "search": vars(self.search),
            "early_stopping": self.early_stopping and vars(self.early_stopping),
        }

    def plan(self) -> list[Params]:
        """Parameters of each slot; empty ones where the sampler decides when the trial begins.

        A longer plan begins with the shorter one. A grid is shuffled: the interval search learns
        from the first trials what the others are worth, and they should come from everywhere.
        """
        if self.sampler == "tpe":
            return [{} for _ in range(self.trials)]
        if self.sampler == "grid":
            combinations = grid(self.space)
            random.Random(self.seed).shuffle(combinations)
            return combinations[: self.trials]
        draws = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        return [draws.ask(self.space).params for _ in range(self.trials)]


def grid(space: Mapping[str, BaseDistribution]) -> list[Params]:
    """All combinations of listed choices.

    Example:
        >>> grid({"model.lambd": CategoricalDistribution([0.1, 0.2])})
        [{'model.lambd': 0.1}, {'model.lambd': 0.2}]
    """
    choices = [d.choices for d in space.values() if isinstance(d, CategoricalDistribution)]
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*choices)]


def read_sweep(path: str | Path, *, storage: str | None = None, trials: int | None = None) -> Sweep:
    """Read a sweep file.

    Args:
        path: The YAML file; a relative ``train`` in it is relative to the file.
        storage: Instead of the file's.
        trials: Instead of the file's.

    Raises:
        OptionError: If the file is missing, or says something that cannot be done.
    """
    path = Path(path)
    values = _mapping(path, _load(path))
    known = [f.name for f in fields(Sweep)]
    _check_keys(path.name, values, known)
    for key in ("train", "space"):
        if not values.get(key):
            raise OptionError(f"{path}: {key!r} is missing or empty")
    sampler = values.get("sampler", "grid")
    _check_choice("sampler", sampler, SAMPLERS)
    readout = _options("readout", ReadoutOptions, values.get("readout", {}))
    _check_choice("readout: probe", readout.probe, tuple(PROBES))
    stopping = values.get("early_stopping", "none")
    halving = None
    if stopping not in (None, "none"):
        halving = _options("early_stopping", Halving, {} if stopping == "halving" else stopping)
    name = _text("name", values.get("name") or path.stem)
    out = Path(_text("out", values.get("out") or f"runs/{name}"))
    train = path.parent / _text("train", values["train"])
    if not train.is_file():
        raise OptionError(f"{path}: there is no config {train} to train by")
    space = {
        str(key): _distribution(str(key), value)
        for key, value in _mapping("space", values["space"]).items()
    }
    return Sweep(
        name=name,
        train=train,
        space=space,
        overrides=_mapping("overrides", values.get("overrides", {})),
        sampler=sampler,
        trials=_num_trials(sampler, space, trials or values.get("trials")),
        seed=_whole("seed", values.get("seed", 0), least=0),
        readout=readout,
        search=_options("search", SearchOptions, values.get("search", {})),
        early_stopping=halving,
        out=out,
        storage=_text("storage", storage or values.get("storage") or f"sqlite:///{out}/study.db"),
        heartbeat=_whole("heartbeat", values.get("heartbeat", 60)),
    )


def _load(path: Path) -> Any:
    try:
        return read_yaml(path)
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"cannot read the sweep {path}: {error}") from error
    except ValueError as error:
        raise OptionError(f"the sweep {path} is not YAML: {error}") from error


def _distribution(key: str, value: Any) -> BaseDistribution:
    """A list of choices, or a range."""
    if isinstance(value, list):
        choices = [_number(item) for item in value]
        odd = [c for c in choices if not isinstance(c, None | bool | int | float | str)]
        if not choices or odd or len({json.dumps(c) for c in choices}) < len(choices):
            raise OptionError(
                f"space: {key}: expected a list of different numbers, strings or booleans, "
                f"got {shown(value)}"
            )
        return CategoricalDistribution(choices)
    if not isinstance(value, Mapping) or not {"low", "high"} <= set(value):
        raise OptionError(
            f"space: {key}: expected a list of choices, or low: and high:, got {shown(value)}"
        )
    _check_keys(f"space: {key}", value, RANGE_KEYS)
    bounds = {name: _number(item) for name, item in value.items()}
    numbers = [bounds[name] for name in ("low", "high", "step") if bounds.get(name) is not None]
    whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    try:
        if whole:
            return IntDistribution(**{"step": 1, **bounds})
        return FloatDistribution(**bounds)
    except (TypeError, ValueError) as error:
        raise OptionError(f"space: {key}: {error}") from error


def _num_trials(sampler: str, space: Mapping[str, BaseDistribution], trials: int | None) -> int:
    if sampler == "grid":
        ranges = [k for k, d in space.items() if not isinstance(d, CategoricalDistribution)]
        if ranges:
            raise OptionError(
                f"space: {ranges[0]}: a grid needs a list of choices; "
                "list them, or take sampler: random"
            )
        whole_grid = len(grid(space))
        return whole_grid if trials is None else min(whole_grid, _whole("trials", trials))
    if trials is None:
        raise OptionError(f"sampler: {sampler} needs trials: the number of trials")
    return _whole("trials", trials)


def _options(where: str, kind: type[Any], value: Any) -> Any:
    """One of the classes of options above."""
    values = _mapping(where, value)
    _check_keys(where, values, [f.name for f in fields(kind)])
    for key, number in values.items():
        may_be_left_out = getattr(kind, key) is None
        if key in LEAST and not (number is None and may_be_left_out):
            _whole(f"{where}: {key}", number, LEAST[key])
    return kind(**values)


def _mapping(where: object, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise OptionError(f"{where}: expected keys and values, got {shown(value)}")
    return {str(key): item for key, item in value.items()}


def _check_keys(where: str, values: Mapping[str, Any], known: Any) -> None:
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
            raise OptionError(f"{where}: unknown key {key!r}; {hint}")


def _check_choice(where: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{where}: expected one of {', '.join(choices)}, got {shown(value)}")


def _whole(where: str, value: Any, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise OptionError(f"{where}: expected a whole number >= {least}, got {shown(value)}")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str | int | float):  # YAML reads some names as numbers
        raise OptionError(f"{where}: expected text, got {shown(value)}")
    return str(value)


def _number(value: Any) -> Any:
    """YAML 1.1 reads ``1e-4`` as a string."""
    is_number = isinstance(value, str) and SCIENTIFIC.fullmatch(value)
    return float(value) if is_number else value
