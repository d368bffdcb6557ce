"""`AlphaMonitor`: α of the features, at every validation, beside the loss."""

from __future__ import annotations

import math
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from alphareq_lightning._checks import (
    check_choice,
    check_count,
    check_layer,
    check_prefix,
    check_steps,
    in_key,
    passes_step,
)
from alphareq_lightning._lightning import (
    Callback,
    LightningModule,
    Trainer,
    overrides,
    rank_zero_info,
)
from alphareq_lightning.callbacks.figures import has_room, publish_figure
from alphareq_lightning.callbacks.over_ranks import check_tap, measure_over_ranks
from alphareq_lightning.callbacks.unlabeled_pass import (
    UnlabeledPass,
    find_forward,
    find_loader,
    own_share,
)
from alphareq_lightning.errors import (
    AlphaReQError,
    AlphaReQWarning,
    DataError,
    FeatureTapError,
    FitRangeError,
    HistoryWarning,
    LoaderWarning,
    NoFitWarning,
    OptionError,
    OutputWarning,
    PaddingWarning,
    SelectionError,
    SharedKeyWarning,
    SpectrumError,
    StaleValueWarning,
)
from alphareq_lightning.functional.finite_sample import BiasCorrection, check_bias_correction
from alphareq_lightning.functional.power_law import (
    check_fit_range,
    check_target,
    resolve_fit_range,
)
from alphareq_lightning.measure.batches import doubt_about_first, flat_loaders, num_samples
from alphareq_lightning.measure.feature_tap import FeatureTap
from alphareq_lightning.measure.layers import Take, replaced, resolve_layers
from alphareq_lightning.measure.measurement import (
    NOTHING_SEEN,
    complaints,
    logged_names,
    logged_values,
)
from alphareq_lightning.measure.pooling import Pool, check_pool
from alphareq_lightning.measure.what_ran import WhatRan
from alphareq_lightning.metrics.scores import check_scores, companions
from alphareq_lightning.records.checkpoints import (
    STATE_KEY_PREFIX,
    history_from_state,
    history_to_state,
)
from alphareq_lightning.records.record import AlphaRecord


class AlphaMonitor(Callback):
    """Measures, logs and stores the eigenspectrum decay α of a layer's features.

    At every validation it logs ``val_alpha``, ``val_alpha_distance`` (from ``target``),
    ``val_alpha_r2``, ``val_alpha_samples`` and one key per extra score, on every rank; draws the
    spectrum for loggers that show figures; and leaves a record in ``history`` and in every
    checkpoint. Keep the best checkpoints with a stock
    ``ModelCheckpoint(monitor="val_alpha_distance", mode="min")``.

    By default the features of the user's own validation batches are taken as they pass, with no
    extra forward. With a ``dataloader``, or a method ``alpha_dataloader()`` on the LightningModule
    or DataModule, held-out unlabeled images are run through the model instead, in eval mode, when
    a validation begins; or at the end of each training epoch if there is no validation loop.

    Args:
        layer: Dotted name of the layer, or several names: the first gets the plain keys, the
            others their name as a suffix. `None` chooses the penultimate layer by the rule of
            `choose_layer`.
        take: Take the layer's output, or its first input: ``layer="fc", take="input"``.
        pool: How maps and tokens become one vector, see `pool_features`; or a callable (in YAML
            its import path), which is given what the layer gives and returns ``(n, d)``.
        dataloader: Held-out unlabeled images: batches that are tensors, or tuples or dicts whose
            first floating-point tensor with 2 dimensions or more is images. Labels are never
            touched. With several ranks each batch runs on one of them, so an iterable dataset must
            not split itself by rank. What has no length needs ``max_samples``.
        dataloader_idx: Which of several validation dataloaders to measure; the first by default,
            with a warning where that looks like the wrong one.
        forward: What to run on those images: `None` for the LightningModule itself, or the name of
            a submodule; or a callable, which gets the whole batch: with masks, for example.
        fit_range: First and last rank of the fit, one-based and inclusive; ``"auto"`` fits the
            window to the width of the layer.
        bias_correction: Also log ``val_alpha_corrected``, an estimate of the α of ever more images,
            and ``val_alpha_stderr``, its standard error; both are NaN when there is none.
            ``"inversion"``, the one there is, needs nothing but the spectrum. ``val_alpha``, its
            distance and every choice by it stay those of the images as they are.
        target: The α to be near, or an interval ``(low, high)``.
        scores: Names of extra scores: ``"rankme"``, ``"effective_rank"``,
            ``"participation_ratio"``, ``"participation_ratio_corrected"``, ``"nesum"``,
            ``"stable_rank"``, ``"matrix_entropy"``, ``"condition_number"``, ``"selfcluster"``,
            ``"uniformity"``, ``"coherence"``, ``"intrinsic_dimension"``; the last four keep a
            state beside the covariance. A score that does not exist is logged as NaN.
        max_samples: Measure at most this many images, over all ranks.
        every_n_epochs: Measure at the first validation, and then when at least ``n`` epochs have
            passed. In between nothing is logged, and ModelCheckpoint sees the last value.
        at_steps: Measure the own images also after these numbers of optimizer steps, on top of
            every validation; 0 is before the first. ``"log"`` is 0, 10, 20, 40 and so on: a
            training does most of its way early. Loggers get the values; ModelCheckpoint, which
            reads those of validations, does not.
        prefix: Put before every key.
        figures: Draw the spectrum at every measurement.
        on_collapse: What to do when there is no α: go on with a warning, stop the training after
            this epoch, or raise `SpectrumError`.

    Attributes:
        history: An `AlphaRecord` for each layer and measurement, oldest first.

    Raises:
        AlphaReQError: In the constructor, in ``setup`` or in the sanity check, if an option or a
            layer cannot work. Once training runs, problems are warnings.

    References:
        Agrawal et al., "α-ReQ", NeurIPS 2022.
    """

    def __init__(
        self,
        layer: str | Sequence[str] | None = None,
        *,
        take: Take = "output",
        pool: Pool = "mean",
        dataloader: Iterable[Any] | None = None,
        dataloader_idx: int | None = None,
        forward: str | Callable[[Any], Any] | None = None,
        fit_range: tuple[int, int] | Literal["auto"] = "auto",
        bias_correction: Literal["inversion"] | None = None,
        target: float | tuple[float, float] = 1.0,
        scores: str | Sequence[str] = ("rankme",),
        max_samples: int | None = None,
        every_n_epochs: int = 1,
        at_steps: Sequence[int] | Literal["log"] = (),
        prefix: str = "val_",
        figures: bool = True,
        on_collapse: Literal["warn", "stop", "raise"] = "warn",
    ) -> None:
        check_fit_range(fit_range)
        check_bias_correction(bias_correction)
        check_choice("take", take, ("output", "input"))
        check_choice("on_collapse", on_collapse, ("warn", "stop", "raise"))
        check_count("every_n_epochs", every_n_epochs)
        if dataloader_idx is not None:
            check_count("dataloader_idx", dataloader_idx, at_least=0)
        if max_samples is not None:
            check_count("max_samples", max_samples)
        check_prefix(prefix)
        self.layer = check_layer(layer)
        self.take: Take = take
        self.pool: Pool = check_pool(pool)
        self.dataloader = dataloader
        self.dataloader_idx = dataloader_idx
        self.forward = forward
        self.fit_range = fit_range
        self.bias_correction: BiasCorrection | None = bias_correction
        self.target = check_target(target)
        self.scores = check_scores(scores)
        self.max_samples = max_samples
        self.every_n_epochs = every_n_epochs
        self.at_steps = check_steps(at_steps)
        self.prefix = prefix
        self.figures = figures
        self.on_collapse = on_collapse
        self.history: list[AlphaRecord] = []

        self._taps: list[FeatureTap] = []
        self._own: UnlabeledPass | None = None
        self._run = ""
        self._measuring = False
        self._tried = False
        self._trial_error: Exception | None = None
        self._what_ran: WhatRan | None = None
        self._announced = False
        self._pass_seconds: float | None = None
        self._last_step = -1
        self._last_epoch: int | None = None
        self._measured: list[AlphaRecord] = []
        self._logged: dict[str, float] = {}
        self._loaded_at: tuple[int, int] | None = None
        self._only_validates = False
        self._warned: set[tuple[type[AlphaReQWarning], str]] = set()

    # -- attach and detach -----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers and the unlabeled images; fails here or never."""
        self._run = uuid.uuid4().hex
        self._last_epoch = None
        if stage == "fit":
            self._loaded_at = None
        built_later = overrides("setup", pl_module) or overrides("configure_model", pl_module)
        if stage in ("fit", "validate") and not built_later:
            self._attach(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to modules that build themselves in ``setup`` or ``configure_model``."""
        self._attach(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks."""
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks: Lightning does not call ``teardown`` after an exception."""
        self._detach()

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._taps:
            return
        if any(self._logs_same_keys(other) for other in getattr(trainer, "callbacks", ())):
            raise OptionError(
                f"two AlphaMonitors would log under one key, {self.prefix}alpha; "
                "give one of them another prefix="
            )
        layers = resolve_layers(pl_module, self.layer, self.take)
        find_forward(self.forward, pl_module)
        loader = find_loader(self.dataloader, trainer, pl_module)
        if loader is not None:
            self._own = UnlabeledPass(loader, self.forward, pl_module, self.max_samples)
            self._check_weights(trainer)
        elif trainer.state.fn == "fit":
            self._check_needs_no_own_images(trainer)
        self._tried = self._announced = False
        self._logged = {}
        self._warned.clear()
        self._taps = [FeatureTap(layer, self.pool, companions(self.scores)) for layer in layers]
        self._warn_of_stale_values(trainer)

    def _logs_same_keys(self, other: Any) -> bool:
        return isinstance(other, AlphaMonitor) and other is not self and other.prefix == self.prefix

    def _check_needs_no_own_images(self, trainer: Trainer) -> None:
        if not trainer.enable_validation:
            raise OptionError(
                "AlphaMonitor has nothing to measure: the Trainer runs no validation loop and "
                "there is no dataloader= and no alpha_dataloader() method; add one of them"
            )
        if self.at_steps:
            raise OptionError(
                f"at_steps={self.at_steps!r} needs own images: pass dataloader= or write a method "
                "alpha_dataloader()"
            )

    def _check_weights(self, trainer: Trainer) -> None:
        """Refuse to measure weights that are not those of the checkpoints."""
        averaging = [c for c in getattr(trainer, "callbacks", ()) if _averages(c)]
        between = self.at_steps or not trainer.enable_validation
        if averaging and between and trainer.state.fn == "fit":
            raise OptionError(
                f"{type(averaging[0]).__name__} puts its averaged weights, which checkpoints hold, "
                "in place in validations only: own images need a validation loop then, and no "
                "at_steps="
            )

    def _warn_of_stale_values(self, trainer: Trainer) -> None:
        for other in getattr(trainer, "callbacks", ()):
            read = getattr(other, "monitor", None)
            if self.every_n_epochs > 1 and hasattr(other, "patience") and read in self._keys():
                self._warn(
                    trainer,
                    StaleValueWarning,
                    f"{type(other).__name__} reads {read} at every validation, and with "
                    f"every_n_epochs={self.every_n_epochs} most of them show it the old value, "
                    "which counts as no improvement; set its patience accordingly",
                )

    def _detach(self) -> None:
        for tap in self._taps:
            tap.remove()
        self._forget_what_ran()
        self._taps = []
        self._own = None
        self._measuring = False

    # -- one measurement -------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check what the Trainer reads, and try one unlabeled batch, before the first step."""
        if self._own is None:
            self._validation_loader(trainer)
        else:
            self._own.check_shared(flat_loaders(trainer.train_dataloader))
        if not self._tried:
            self._try_unlabeled(trainer, pl_module)
        self._last_step = trainer.global_step - (trainer.global_step == 0)
        self._measure_at_step(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure after the steps that were asked for."""
        self._measure_at_step(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty state."""
        self._attach(trainer, pl_module)
        self._measuring = trainer.sanity_checking or self._is_due(trainer)
        self._start(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Open the taps for the user's validation step, or make the monitor's own pass.

        The own pass is made before the first validation batch: by then every callback has put in
        place the weights that this validation is about (`WeightAveraging` swaps them), and none
        has taken them away again.
        """
        if not self._measuring:
            return
        if self._own is None:
            if dataloader_idx == (self.dataloader_idx or 0):
                self._open(batch, in_step_of=pl_module)
        elif self._pass_seconds is None and not trainer.sanity_checking:
            self._run_pass(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Close the taps."""
        self._close()

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise what is certain to fail at every validation; throw the features away."""
        if self._own is None:
            self._check_taps(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log α and the other scores."""
        if trainer.sanity_checking:
            return
        # On a rank that had no validation batch; of all monitors before any of them measures, for
        # that is the order of the other ranks, which meet this one in each pass.
        for monitor in _monitors(trainer):
            if monitor._measuring and monitor._own is not None and monitor._pass_seconds is None:
                monitor._run_pass(trainer, pl_module)
        if self._measuring:
            self._log(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the record, before ModelCheckpoint saves, and draw it."""
        self._check_keys(trainer)
        if self._measuring and not trainer.sanity_checking:
            self._keep(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See whether the epoch before has logged something else under a key of ours."""
        self._check_keys(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure here if the Trainer has no validation loop."""
        if self._own is not None and not _validates(trainer) and self._is_due(trainer):
            self._start(trainer, pl_module)
            self._run_pass(trainer, pl_module)
            self._log(trainer, pl_module)
            self._keep(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See to the last epoch, too."""
        self._check_keys(trainer)

    def _measure_at_step(self, trainer: Trainer, pl_module: LightningModule) -> None:
        before, self._last_step = self._last_step, trainer.global_step
        if not passes_step(self.at_steps, before, self._last_step):
            return
        self._start(trainer, pl_module)
        self._run_pass(trainer, pl_module)
        self._measured = self._measure_all(trainer)
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # `log` would wait for the end of the epoch
                logger.log_metrics(self._values(), step=trainer.global_step)
        self._obey_on_collapse(trainer)
        self._keep(trainer)

    def _is_due(self, trainer: Trainer) -> bool:
        last = self._last_epoch
        if last is None or trainer.state.fn != "fit":
            return True
        epochs = trainer.current_epoch - last
        return epochs <= 0 or epochs >= self.every_n_epochs  # again in the same epoch, or later

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        share = None  # the monitor's own pass counts images itself
        if self.max_samples is not None and self._own is None:
            share = own_share(self.max_samples, trainer.global_rank, trainer.world_size)
        for tap in self._taps:
            tap.start(pl_module.device, share)
            self._follow(tap, pl_module)
        self._pass_seconds = None
        if not self._announced and self._what_ran is None:
            self._what_ran = WhatRan(pl_module)
        if self._own is None:
            self._validation_loader(trainer)

    def _follow(self, tap: FeatureTap, pl_module: LightningModule) -> None:
        """Listen to what has the layer's name by now: it may have been wrapped or swapped."""
        gone = replaced(pl_module, tap.layer)
        if gone is None:
            tap.follow()
            return
        try:
            [layer] = resolve_layers(pl_module, tap.layer.name, tap.layer.take)
            tap.move_to(layer)
        except AlphaReQError:
            tap.problem = gone

    def _open(self, batch: Any, in_step_of: LightningModule | None = None) -> None:
        for tap in self._taps:
            tap.open(batch, in_step_of)
        if self._what_ran is not None:
            self._what_ran.is_open = True

    def _close(self) -> None:
        for tap in self._taps:
            tap.is_open = False
        if self._what_ran is not None:
            self._what_ran.is_open = False

    def _forget_what_ran(self) -> None:
        if self._what_ran is not None:
            self._what_ran.remove()
        self._what_ran = None

    @contextmanager
    def _watching(self, batch: Any) -> Iterator[None]:
        self._open(batch)
        try:
            yield
        finally:
            self._close()

    def _run_pass(
        self, trainer: Trainer, pl_module: LightningModule, max_batches: int | None = None
    ) -> None:
        assert self._own is not None
        started = time.perf_counter()
        try:
            num_batches = self._own.run(trainer, pl_module, self._watching, max_batches)
            if num_batches == 0 and trainer.world_size == 1:
                raise DataError("the unlabeled dataloader gave no batch")
        except Exception as error:
            self._trial_error = error
            for tap in self._taps:
                tap.problem = f"the pass over unlabeled images failed: {error}"
        self._pass_seconds = time.perf_counter() - started

    def _try_unlabeled(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tried = True
        if self._own is not None:
            self._start(trainer, pl_module)
            self._trial_error = None
            self._run_pass(trainer, pl_module, max_batches=1)
            self._check_trial(trainer)
            self._check_taps(trainer)

    def _check_trial(self, trainer: Trainer) -> None:
        """Raise on all ranks if the trial failed on one; every rank must call it."""
        error, self._trial_error = self._trial_error, None
        failed = trainer.strategy.reduce_boolean_decision(error is not None, all=False)
        if isinstance(error, AlphaReQError):
            raise error
        if error is not None:
            raise FeatureTapError(
                f"running the model on the unlabeled images failed: {error}; "
                "pass forward= to say what to run on them"
            ) from error
        if failed:
            raise FeatureTapError("running the model on the unlabeled images failed on a rank")

    def _check_taps(self, trainer: Trainer) -> None:
        assert self._what_ran is not None
        for tap in self._taps:
            check_tap(trainer, tap, self.fit_range, self._what_ran)
        self._announce(trainer)

    def _announce(self, trainer: Trainer) -> None:
        """Say once in a fit what is measured, as soon as it has been seen."""
        self._forget_what_ran()
        if self._announced or not all(tap.num_samples for tap in self._taps):
            return
        self._announced = True
        loaders = flat_loaders(trainer.val_dataloaders)
        index = self.dataloader_idx or 0
        if self._own is not None:
            loader: Any = self._own.given
            source = "own images"
        else:
            source = f"validation loader {index} of {len(loaders)}"
            if len(loaders) < 2 or _come_together(trainer):
                together = f" of {len(loaders)} loaders together" if len(loaders) > 1 else ""
                source = f"validation batches{together}"
                loaders = [] if together else loaders
            loader = loaders[index] if loaders and trainer.limit_val_batches == 1.0 else None
        sizes = [size for size in (num_samples(loader), self.max_samples) if size is not None]
        count = f" ({min(sizes):,})" if sizes else ""
        layers = ", ".join(tap.describe() for tap in self._taps)
        rank_zero_info(f"AlphaMonitor: {layers}; {source}{count}; {self._window(sizes)}")

    def _window(self, sizes: list[int]) -> str:
        """Which ranks will be fitted, if there are as many images as that."""
        images = min(sizes) if sizes else None
        windows = []
        for tap in self._taps:
            with suppress(FitRangeError):
                width = tap.moments.num_features
                first, last = resolve_fit_range(self.fit_range, width, num_samples=images)
                windows.append(f"{first}–{last}")
        return f"fit ranks {', '.join(dict.fromkeys(windows))}" if windows else "too few ranks"

    def _validation_loader(self, trainer: Trainer) -> None:
        """Check which of several validation loaders is measured, and say so.

        Raises:
            OptionError: If there is no such loader, before training; later it is a problem.
        """
        loaders = flat_loaders(trainer.val_dataloaders)
        if _come_together(trainer):
            loaders = loaders[:1]
        index = self.dataloader_idx or 0
        if loaders and index >= len(loaders):
            problem = (
                f"dataloader_idx={index} is none of the {len(loaders)} validation loaders, "
                f"which count from 0 to {len(loaders) - 1}"
            )
            if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.global_step == 0:
                raise OptionError(problem)
            for tap in self._taps:
                tap.problem = problem
        if len(loaders) > 1 and self.dataloader_idx is None:
            doubt = doubt_about_first(loaders, flat_loaders(trainer.train_dataloader))
            if doubt is not None:
                self._warn(trainer, LoaderWarning, doubt)

    # -- what becomes of it ----------------------------------------------------------------------

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_keys(trainer)
        self._last_epoch = trainer.current_epoch
        self._measured = self._measure_all(trainer)
        self._logged = self._values()
        for key, value in self._logged.items():
            in_bar = key == f"{self.prefix}alpha"
            pl_module.log(key, value, prog_bar=in_bar, sync_dist=True)
        self._obey_on_collapse(trainer)

    def _obey_on_collapse(self, trainer: Trainer) -> None:
        # Problems are shared over ranks, so that all ranks decide alike.
        problem = next((r.problem for r in self._measured if r.problem is not None), None)
        if problem is not None and self.on_collapse == "stop":
            trainer.should_stop = True
        if problem is not None and self.on_collapse == "raise":
            raise SpectrumError(problem)

    def _keys(self) -> list[str]:
        names = logged_names(self.scores, self.bias_correction)
        labels = [tap.layer.label for tap in self._taps] or [""]
        return [
            f"{self.prefix}{name}{self._suffix(index, label)}"
            for index, label in enumerate(labels)
            for name in names
        ]

    def _suffix(self, index: int, label: str) -> str:
        return "" if index == 0 else f"_{in_key(label)}"

    def _values(self) -> dict[str, float]:
        """What is logged of the records just measured, by key."""
        return {
            f"{self.prefix}{name}{self._suffix(index, record.layer)}": value
            for index, record in enumerate(self._measured)
            for name, value in logged_values(record, self.target).items()
        }

    def _check_keys(self, trainer: Trainer) -> None:
        """Find what somebody else logs under a key of ours: Lightning averages the two.

        Raises:
            OptionError: Before training, and where nothing is trained; later it is a warning.
        """
        foreign = [
            key
            for key in self._keys()
            if key in trainer.callback_metrics
            and not _is_logged(trainer.callback_metrics[key], self._logged.get(key))
        ]
        if not foreign:
            return
        message = (
            f"something else logs {foreign[0]} too, and Lightning makes one value of both; "
            f"give AlphaMonitor another prefix= than {self.prefix!r}"
        )
        if trainer.sanity_checking or trainer.state.fn != "fit":
            raise OptionError(message)
        self._warn(trainer, SharedKeyWarning, message)

    def _measure_all(self, trainer: Trainer) -> list[AlphaRecord]:
        records = [self._measure(trainer, tap) for tap in self._taps]
        self._announce(trainer)
        return records

    def _measure(self, trainer: Trainer, tap: FeatureTap) -> AlphaRecord:
        started = time.perf_counter()
        record, uncorrected = measure_over_ranks(
            trainer, tap, self.fit_range, self.scores, self.bias_correction
        )
        if record.problem == NOTHING_SEEN and self._what_ran is not None:
            record = replace(record, problem=self._what_ran.did_not_run(tap.layer))
        seconds = time.perf_counter() - started
        seconds += tap.seconds if self._pass_seconds is None else self._pass_seconds
        record = replace(record, layer=tap.layer.label, seconds=seconds)
        for category, message in complaints(record):
            self._warn(trainer, category, message, about=record.layer)
        if tap.unread_mask is not None and tap.pooling.unmasked_lengths:
            self._warn(
                trainer,
                PaddingWarning,
                f"layer {record.layer!r} gave sequences, and the batches have {tap.unread_mask} "
                "whose meaning is not known here: all tokens are in the mean; call it "
                "'attention_mask', with 1 for what counts, or pass pool= a callable",
                about=record.layer,
            )
        lengths = tap.pooling.unmasked_lengths
        if len(lengths) > 1:
            self._warn(
                trainer,
                PaddingWarning,
                f"layer {record.layer!r} gave sequences of {len(lengths)} lengths, {min(lengths)} "
                f"to {max(lengths)}, and no batch had an 'attention_mask': if they are padded, "
                "padding is in the mean; give batches as dicts with that mask, or pool= a callable",
                about=record.layer,
            )
        if uncorrected is not None:
            self._warn(trainer, NoFitWarning, uncorrected, about=f"{record.layer}, corrected")
        return record

    def _keep(self, trainer: Trainer) -> None:
        own = set(self._keys())
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in own
        }
        epoch, global_step = trainer.current_epoch, trainer.global_step
        if self._loaded_at is not None and trainer.state.fn != "fit":
            epoch, global_step = self._loaded_at  # of the weights; the Trainer's own stand at 0
        for record in self._measured:
            self.history.append(
                replace(
                    record,
                    run=self._run,
                    epoch=epoch,
                    global_step=global_step,
                    metrics=metrics,
                )
            )
        self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        if not self.figures or getattr(trainer, "fast_dev_run", False):
            return
        log_dir = trainer.log_dir  # broadcasts: every rank must ask
        if not trainer.is_global_zero:
            return
        try:
            folder = Path(log_dir or trainer.default_root_dir)
            if not has_room(folder):
                raise OSError(f"the disk of {folder} is nearly full")
            for record in self.history[-len(self._measured) :]:
                tag = f"{self.prefix}alpha_spectrum_{in_key(record.layer)}"
                publish_figure(trainer, tag, record, Path(log_dir) if log_dir else None)
        except Exception as error:  # a full disk or a logger's hiccup must not end a training
            self._warn(trainer, OutputWarning, f"the figure of the spectrum was lost: {error}")

    def _warn(
        self,
        trainer: Trainer,
        category: type[AlphaReQWarning],
        message: str,
        about: str = "",
    ) -> None:
        """Once per kind and layer in a fit, on rank 0."""
        key = (category, about)
        if trainer.is_global_zero and key not in self._warned:
            self._warned.add(key)
            warnings.warn(message, category, stacklevel=2)

    # -- state -----------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Own key for each monitor of a Trainer."""
        return self._generate_state_key(layer=self.layer, take=self.take, prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """The history as plain Python numbers; every checkpoint carries it."""
        return history_to_state(self.history, self._run)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of the run that is resumed; a validation adds to what is there."""
        if self._only_validates and self.history:
            return
        try:
            self.history, run = history_from_state(state_dict)
        except SelectionError as error:
            self.history = []
            warnings.warn(
                f"the history of α in the checkpoint is lost: {error}", HistoryWarning, stacklevel=2
            )
            return
        self._run = run or self._run
        self._last_epoch = self.history[-1].epoch if self.history else None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember whose weights these are, for ``trainer.validate(ckpt_path=...)``.

        A monitor that measures another layer from now on continues the history all the same.
        """
        self._only_validates = trainer.state.fn != "fit"
        if self._only_validates:
            self._loaded_at = (checkpoint.get("epoch", 0), checkpoint.get("global_step", 0))
        states = checkpoint.get("callbacks", {})
        prefix = f"'prefix': {self.prefix!r}}}"
        mine = [key for key in states if key.startswith(STATE_KEY_PREFIX) and key.endswith(prefix)]
        if self.state_key not in states and mine:
            self.load_state_dict(states[mine[0]])


def _monitors(trainer: Trainer) -> list[AlphaMonitor]:
    return [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, AlphaMonitor)]


def _validates(trainer: Trainer) -> bool:
    # Before the first validation the loaders may not be there yet.
    return trainer.enable_validation and (
        trainer.val_dataloaders is None or sum(trainer.num_val_batches) > 0
    )


def _come_together(trainer: Trainer) -> bool:
    """Whether each validation batch is one of every loader: a CombinedLoader says so, inside."""
    in_fit = trainer.state.fn == "fit"
    loop = trainer.fit_loop.epoch_loop.val_loop if in_fit else trainer.validate_loop
    combined = getattr(loop, "_combined_loader", None)
    return getattr(combined, "_mode", "sequential") != "sequential"


def _averages(callback: Any) -> bool:
    return any(base.__name__ == "WeightAveraging" for base in type(callback).__mro__)


def _is_logged(value: Any, mine: float | None) -> bool:
    """Whether a metric of Lightning, which keeps float32, is what was logged last."""
    if mine is None:
        return False
    return math.isclose(float(value), mine, rel_tol=1e-5) or (mine != mine and value != value)
