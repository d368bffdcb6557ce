"""Measures layers of a module in any training loop."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from alphareq_lightning._checks import check_choice, check_count, check_layer
from alphareq_lightning.errors import (
    AlphaReQError,
    AlphaReQWarning,
    FeatureTapError,
    FitRangeError,
    NoFitWarning,
)
from alphareq_lightning.functional.finite_sample import BiasCorrection, check_bias_correction
from alphareq_lightning.functional.power_law import FitRange, check_fit_range, resolve_fit_range
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Layer, Take, replaced, resolve_layers
from alphareq_lightning.measure.measurement import (
    NOTHING_SEEN,
    complaints,
    correct,
    measure,
    spoiled,
)
from alphareq_lightning.measure.pooling import Pool, check_pool
from alphareq_lightning.measure.ranks import OneProcess, own_share
from alphareq_lightning.measure.what_ran import WhatRan
from alphareq_lightning.metrics.companions import companions
from alphareq_lightning.metrics.scores import Seen, check_scores
from alphareq_lightning.records.record import AlphaRecord

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class GaugeOptions:
    """What to measure, and how; each means what it means in `AlphaMonitor`.

    Raises:
        AlphaReQError: If one of them cannot work.
    """

    layer: str | Sequence[str] | None = None
    take: Take = "output"
    pool: Pool = "mean"
    fit_range: FitRange | Sequence[int] = "auto"
    bias_correction: BiasCorrection | None = None
    scores: str | Sequence[str] = ("rankme",)
    max_samples: int | None = None
    views: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work, and give names their one form."""
        check_fit_range(self.fit_range)
        check_bias_correction(self.bias_correction)
        check_choice("take", self.take, ("output", "input"))
        if self.max_samples is not None:
            check_count("max_samples", self.max_samples)
        if self.views != 0:
            check_count("views", self.views, at_least=2)
        check_pool(self.pool)
        object.__setattr__(self, "layer", check_layer(self.layer))
        object.__setattr__(self, "scores", check_scores(self.scores, self.views))


class Gauge:
    """Listens to layers of a module while somebody runs it, and makes records of α.

    For any training loop: open it for each batch that counts, in eval mode and without gradient,
    then ask for the record. The next batch begins a new measurement. `AlphaMonitor` does all this
    by itself where there is a Lightning Trainer.

    Args:
        options: What to measure; by default the penultimate layer with all defaults.
        module: Any network. It gets one forward hook per layer, until `remove`.
        ranks: `OneProcess`, or `AllProcesses` of a process group: then every rank must call
            `record`, with or without batches of its own, and gets the same.
        layers: Instead of those that ``options`` name.

    Raises:
        AlphaReQError: If there is no such layer.

    Example:
        >>> network = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 5)).eval()
        >>> with Gauge(GaugeOptions(layer="0"), network) as gauge, torch.no_grad():
        ...     for images in torch.randn(500, 64).split(100):
        ...         with gauge.watching(images):
        ...             _ = network(images)
        ...     [record] = gauge.record(epoch=3)
        >>> record.layer, record.epoch, record.num_samples, record.problem
        ('0', 3, 500, None)
    """

    elsewhere = "run the part that holds it"
    """What to do where a layer did not run and others did."""

    def __init__(
        self,
        options: GaugeOptions | None,
        module: nn.Module,
        *,
        ranks: OneProcess | None = None,
        layers: Sequence[Layer] = (),
    ) -> None:
        self.options = options = options or GaugeOptions()
        self.module = module
        self.ranks = ranks or OneProcess()
        chosen = layers or resolve_layers(module, options.layer, options.take)
        self.has_run = bool(layers)  # who chose them knows the network
        self.taps = [
            FeatureTap(layer, options.pool, companions(options.scores)) for layer in chosen
        ]
        self.pass_seconds: float | None = None
        self._what_ran: WhatRan | None = None
        self._is_over = True
        self._warned: set[tuple[type[AlphaReQWarning], str]] = set()

    def __enter__(self) -> Gauge:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the hooks off the module."""
        for tap in self.taps:
            tap.remove()
        self._forget_what_ran()

    # -- one measurement -------------------------------------------------------------------------

    def start(self, device: torch.device | str | None = None, *, limited: bool = True) -> None:
        """Begin with an empty state: done for you at the first batch after a `record`.

        Args:
            device: Of the features; that of the first parameter by default.
            limited: Leave out what is more than ``max_samples``; else whoever runs batches does.
        """
        share, most = None, self.options.max_samples
        if limited and most is not None:
            share = own_share(most, self.ranks.rank, self.ranks.world_size)
        if device is None:
            tensors = chain(self.module.parameters(), self.module.buffers())
            device = next((tensor.device for tensor in tensors), "cpu")
        for tap in self.taps:
            tap.start(device, share)
            self._follow(tap)
        if not self.has_run and self._what_ran is None:
            self._what_ran = WhatRan(self.module)
        self.pass_seconds, self._is_over = None, False

    def _follow(self, tap: FeatureTap) -> None:
        """Listen to what has the layer's name by now: it may have been wrapped or swapped."""
        gone = replaced(self.module, tap.layer)
        if gone is None:
            tap.follow()
            return
        try:
            [layer] = resolve_layers(self.module, tap.layer.name, tap.layer.take)
            tap.move_to(layer)
        except AlphaReQError:
            tap.problem = gone

    def open(
        self, batch: Any = None, in_step_of: nn.Module | None = None, *, again: bool = False
    ) -> None:
        """Listen from now on to the forward pass of a batch.

        Args:
            batch: As a DataLoader gives it: the number of its images, and an ``attention_mask``
                of its tokens, are read from it.
            in_step_of: Listen only within the validation step of this LightningModule.
            again: The images are those of the pass before, for another network, a teacher for
                example: a layer that runs in both is a problem.
        """
        if self._is_over:
            self.start()
        for tap in self.taps:
            tap.open(batch, in_step_of, again=again)
        if self._what_ran is not None:
            self._what_ran.is_open = True

    def close(self) -> None:
        """Listen no more."""
        for tap in self.taps:
            tap.is_open = False
        if self._what_ran is not None:
            self._what_ran.is_open = False

    @contextmanager
    def watching(self, batch: Any = None, *, again: bool = False) -> Iterator[None]:
        """Be open for the forward pass of a batch, as in `open`."""
        self.open(batch, again=again)
        try:
            yield
        finally:
            self.close()

    @contextmanager
    def watching_views(self, batch: Any = None) -> Iterator[None]:
        """Be open for forward passes over augmented views of a batch, as many as ``views``.

        They enter the scores of views and nothing else; the batch itself is watched apart.
        """
        if self._is_over:
            self.start()
        for tap in self.taps:
            tap.open_views(batch)
        try:
            yield
        finally:
            for tap in self.taps:
                tap.close_views(self.options.views)

    def fail(self, problem: str) -> None:
        """Let what is measured now be no measurement."""
        for tap in self.taps:
            tap.problem = problem

    def check(self, *, problems: bool = True) -> None:
        """Raise what is certain to fail every time, after a first batch; all ranks must call it.

        Args:
            problems: Whether a problem so far is one of the first batch.

        Raises:
            FeatureTapError: If a layer gave no features here, or ran on no rank.
            FitRangeError: If the range reaches past the width of the layer.
        """
        for tap in self.taps:
            ran = tap.num_samples > 0
            # A rank may have had no batch; that the layer ran nowhere is for all ranks to say.
            ran_somewhere = self.ranks.any(ran)
            if problems and tap.problem is not None:
                raise FeatureTapError(tap.problem)
            if not ran_somewhere:
                raise FeatureTapError(self._did_not_run(tap.layer))
            if ran:
                resolve_fit_range(self.options.fit_range, tap.moments.num_features)
        self._forget_what_ran()

    def record(self, *, warn: bool = True, **about: Any) -> list[AlphaRecord]:
        """A record of each layer, the first layer first; all ranks must call it.

        Whatever goes wrong on any rank is the record's ``problem`` on all of them, and then it has
        no α: that of a part of the batches must not pass for a measurement.

        Args:
            warn: Say what is doubtful about them, once per kind and layer, on rank 0.
            about: More fields of an `AlphaRecord`: ``epoch``, ``global_step``, ``path``, ``run``.
        """
        if self._is_over:  # this rank had no batch since the last record
            self.start()
        records = []
        for tap in self.taps:
            record, uncorrected = self._measure(tap)
            records.append(replace(record, **about))
            if not warn:
                continue
            for category, message in (*complaints(record), *tap.complaints()):
                self.warn(category, message, about=record.layer)
            if uncorrected is not None:
                self.warn(NoFitWarning, uncorrected, about=f"{record.layer}, corrected")
        self._forget_what_ran()
        self._is_over = True
        return records

    def _measure(self, tap: FeatureTap) -> tuple[AlphaRecord, str | None]:
        """The record, and why it has an α but no corrected one, if so."""
        started = time.perf_counter()
        options, across_ranks = self.options, self.ranks.world_size > 1
        num_images, problem = self.ranks.agree(tap.num_images, tap.problem)
        # Every rank must call all of these, whatever became of the one before.
        gathered: dict[str, Any] = {}
        for name, metric in {"moments": tap.moments, **tap.companions}.items():
            reduced = partial(metric.reduced, across_ranks=across_ranks)
            gathered[name], failed = _tried(reduced)
            problem = problem or failed
        moments = gathered.pop("moments")
        seen = None if moments is None else Seen(moments, gathered)
        record = replace(measure(seen, options.fit_range, options.scores), num_images=num_images)
        uncorrected = None
        if options.bias_correction is not None:
            record, uncorrected = correct(record, seen, options.bias_correction)
        _, problem = self.ranks.agree(0, problem or record.problem)
        if problem is not None and problem != record.problem:
            record, uncorrected = spoiled(record, problem), None
        if record.problem == NOTHING_SEEN:
            record = replace(record, problem=self._did_not_run(tap.layer))
        seconds = time.perf_counter() - started
        seconds += tap.seconds if self.pass_seconds is None else self.pass_seconds
        return replace(record, layer=tap.layer.label, seconds=seconds), uncorrected

    def _did_not_run(self, layer: Layer) -> str:
        what_ran = self._what_ran
        return NOTHING_SEEN if what_ran is None else what_ran.did_not_run(layer, self.elsewhere)

    def _forget_what_ran(self) -> None:
        """Once all layers have been seen to run nobody will ask which others did."""
        if self._what_ran is not None:
            self._what_ran.remove()
        self._what_ran = None
        self.has_run = self.has_run or all(tap.num_samples for tap in self.taps)

    # -- what is said of it ----------------------------------------------------------------------

    def describe(self) -> str:
        """What is measured, for people."""
        return ", ".join(tap.describe() for tap in self.taps)

    def window(self, num_images: int | None) -> str:
        """Which ranks will be fitted, for people, if there are as many images as that."""
        windows = []
        for tap in self.taps:
            with suppress(FitRangeError):
                width = tap.moments.num_features
                found = resolve_fit_range(self.options.fit_range, width, num_samples=num_images)
                windows.append("{}–{}".format(*found))
        return f"fit ranks {', '.join(dict.fromkeys(windows))}" if windows else "too few ranks"

    def warn(self, category: type[AlphaReQWarning], message: str, about: str = "") -> None:
        """Warn once per kind and layer, on rank 0."""
        key = (category, about)
        if self.ranks.rank == 0 and key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, category, stacklevel=2)


def _tried(step: Callable[[], Result]) -> tuple[Result | None, str | None]:
    try:
        return step(), None
    except Exception as error:  # an observer must not end the training it observes
        return None, str(error) or type(error).__name__
