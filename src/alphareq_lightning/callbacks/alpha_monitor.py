"""`AlphaMonitor`: α of the features, at every validation, beside the loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any, Literal

from alphareq_lightning._checks import (
    check_choice,
    check_count,
    check_prefix,
    check_steps,
    key_end,
    passes_step,
)
from alphareq_lightning._lightning import (
    Callback,
    LightningModule,
    Trainer,
    needs_trainer,
    overrides,
    rank_zero_info,
)
from alphareq_lightning.callbacks.augmented_views import (
    Augment,
    AugmentedViews,
    check_augment,
    find_augment,
)
from alphareq_lightning.callbacks.feature_sources import (
    FeatureSource,
    OwnImages,
    ValidationBatches,
)
from alphareq_lightning.callbacks.loggers import Display
from alphareq_lightning.callbacks.unlabeled_pass import Forward, find_forwards, find_loader
from alphareq_lightning.callbacks.weights import Weights
from alphareq_lightning.errors import (
    CourseWarning,
    HistoryWarning,
    OptionError,
    SelectionError,
    SharedKeyWarning,
    SpectrumError,
    StaleValueWarning,
)
from alphareq_lightning.functional.power_law import check_target
from alphareq_lightning.measure.gauge import Gauge, GaugeOptions
from alphareq_lightning.measure.layers import Take
from alphareq_lightning.measure.measurement import logged_names, logged_values
from alphareq_lightning.measure.pooling import Pool
from alphareq_lightning.measure.ranks import AllProcesses, OneProcess
from alphareq_lightning.measure.what_ran import ELSEWHERE
from alphareq_lightning.metrics.scores import read_views
from alphareq_lightning.records.checkpoints import (
    STATE_KEY_PREFIX,
    history_from_state,
    history_to_state,
    run_of_state,
)
from alphareq_lightning.records.record import AlphaRecord
from alphareq_lightning.selection.course import FIRST_STEP, alarm, with_course


@needs_trainer(
    "AlphaMonitor needs a Lightning Trainer; in a loop of your own, as with Fabric, open an "
    "alphareq_lightning.Gauge"
)
class AlphaMonitor(Callback):
    """Measures, logs and stores the eigenspectrum decay α of a layer's features.

    At every validation it logs ``val_alpha``, ``val_alpha_distance`` (from ``target``),
    ``val_alpha_r2``, ``val_alpha_samples``, ``val_alpha_drift`` (over the last quarter of the
    training; NaN until there is one) and one key per extra score, on every rank; draws the
    spectrum for loggers that show figures; and leaves a record in ``history`` and in every
    checkpoint, which knows where the training stands (`course_of`). Keep the best checkpoints with
    a stock
    ``ModelCheckpoint(monitor="val_alpha_distance", mode="min")``.

    By default the features of the user's own validation batches are taken as they pass, with no
    extra forward. With a ``dataloader``, or a method ``alpha_dataloader()`` on the LightningModule
    or DataModule, held-out unlabeled images are run through the model instead, in eval mode, when
    a validation begins; or at the end of each training epoch if there is no validation loop.

    Args:
        layer: Dotted name of the layer, or several names: the first gets the plain keys, the
            others their name as a suffix. ``"blocks.*"`` names all children of ``blocks`` in the
            module's order, see `matches`; ``["blocks.11", "blocks.*"]`` gives the last of them the
            plain keys. `None` chooses the penultimate layer by the rule of `choose_layer`.
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
            a submodule; or a callable, which gets the whole batch: with masks, for example. Of
            several, as in ``["student", "teacher"]``, each runs on every batch, and then a layer
            may run in one of them only.
        fit_range: First and last rank of the fit, one-based and inclusive; ``"auto"`` fits the
            window to the width of the layer.
        bias_correction: Also log ``val_alpha_corrected``, an estimate of the α of ever more images,
            and ``val_alpha_stderr``, its standard error; both are NaN when there is none.
            ``"inversion"``, the one there is, needs nothing but the spectrum. ``val_alpha``, its
            distance and every choice by it stay those of the images as they are.
        target: The α to be near, or an interval ``(low, high)``.
        scores: Names of extra scores, in the table of `alphareq_lightning.metrics.scores`. Those
            that read directions or a sample keep a state beside the covariance. Those that read
            views need own images and an ``augment``. A score that does not exist is logged as NaN.
        views: How many random views of each image those scores are given. α and all other scores
            stay those of the images as they are.
        augment: Turns a batch of images, on the device, into one random view of each, of the same
            shape; by default a method ``alpha_view(images)`` of the LightningModule or DataModule.
            It draws the same views at every measurement, so that a course is of the model alone,
            and leaves the generators of the training as they were.
        max_samples: Measure at most this many images, over all ranks.
        every_n_epochs: Measure at the first validation, and then when at least ``n`` epochs have
            passed. In between nothing is logged, and ModelCheckpoint sees the last value.
        at_steps: Measure the own images also after these numbers of optimizer steps, on top of
            every validation; 0 is before the first. `None` is 0 where there are own images: α of
            the untrained network, by which the course of a training is told. ``"log"`` is 0, 10,
            20, 40 and so on: a training does most of its way early. Loggers get the values;
            ModelCheckpoint, which reads those of validations, does not.
        prefix: Put before every key.
        figures: Draw the spectrum at every measurement; the course of the training as often as
            that takes a thirtieth of the time of measuring, and at the end; and group α and the
            loss under "Custom Scalars" in TensorBoard, where a run has no layout of its own.
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
        forward: Forward | Sequence[Forward] | None = None,
        fit_range: tuple[int, int] | Literal["auto"] = "auto",
        bias_correction: Literal["inversion"] | None = None,
        target: float | tuple[float, float] = 1.0,
        scores: str | Sequence[str] = ("rankme",),
        views: int = 2,
        augment: Augment | None = None,
        max_samples: int | None = None,
        every_n_epochs: int = 1,
        at_steps: Sequence[int] | Literal["log"] | None = None,
        prefix: str = "val_",
        figures: bool = True,
        on_collapse: Literal["warn", "stop", "raise"] = "warn",
    ) -> None:
        check_choice("on_collapse", on_collapse, ("warn", "stop", "raise"))
        check_count("every_n_epochs", every_n_epochs)
        if dataloader_idx is not None:
            check_count("dataloader_idx", dataloader_idx, at_least=0)
        check_prefix(prefix)
        self.layer = layer
        self.take: Take = take
        self.pool: Pool = pool
        self.fit_range = fit_range
        self.bias_correction = bias_correction
        self.scores = scores
        self.views = views
        self.max_samples = max_samples
        options = self._options()
        self.layer, self.scores = options.layer, options.scores
        self.augment = check_augment(augment, self.scores)
        self.dataloader = dataloader
        self.dataloader_idx = dataloader_idx
        self.forward = forward
        self.target = check_target(target)
        self.every_n_epochs = every_n_epochs
        self.at_steps = None if at_steps is None else check_steps(at_steps)
        self.prefix = prefix
        self.figures = figures
        self.on_collapse = on_collapse
        self.history: list[AlphaRecord] = []

        self._is_attached = False
        self._measuring = False
        self._announced = False
        self._last_step = -1
        self._last_epoch: int | None = None
        self._measured: list[AlphaRecord] = []
        self._between: list[AlphaRecord] = []
        self._logged: dict[str, float] = {}
        self._weights = Weights()

    def _options(self) -> GaugeOptions:
        return GaugeOptions(**{f.name: getattr(self, f.name) for f in fields(GaugeOptions)})

    # -- attach and detach -----------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the layers and the unlabeled images; fails here or never."""
        self._weights.begin(trainer, pl_module, stage)
        self._last_epoch = None
        built_later = overrides("setup", pl_module) or overrides("configure_model", pl_module)
        if stage in ("fit", "validate") and not built_later:
            self._attach(trainer, pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to modules that build themselves in ``setup`` or ``configure_model``."""
        self._attach(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks; a later validation may be of the weights that a test has loaded."""
        self._hear_of_weights(trainer, pl_module)
        self._weights.end(trainer, pl_module)
        self._detach()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove the hooks: Lightning does not call ``teardown`` after an exception."""
        self._weights.end(trainer, pl_module)
        self._detach()

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_attached:
            return
        if any(self._logs_same_keys(other) for other in getattr(trainer, "callbacks", ())):
            raise OptionError(
                f"two AlphaMonitors would log under one key, {self.prefix}alpha; "
                "give one of them another prefix="
            )
        ranks = OneProcess()
        if trainer.world_size > 1:
            ranks = AllProcesses(trainer.strategy.root_device)
        self._gauge = Gauge(self._options(), pl_module, ranks=ranks)
        self._gauge.elsewhere = ELSEWHERE
        self._is_attached, self._announced, self._logged = True, False, {}
        self._display = Display(self.prefix, self.target, self._gauge.warn)
        self._between = []
        self._source = self._find_source(trainer, pl_module)
        self._warn_of_stale_values(trainer)

    def _find_source(self, trainer: Trainer, pl_module: LightningModule) -> FeatureSource:
        find_forwards(self.forward, pl_module)
        loader = find_loader(self.dataloader, trainer, pl_module)
        reading_views = read_views(self.scores)
        if loader is None:
            if reading_views:
                raise OptionError(
                    f"{reading_views[0]!r} needs views of own images, which validation batches are "
                    "not: pass dataloader= or write a method alpha_dataloader()"
                )
            return ValidationBatches(self._gauge, trainer, self.dataloader_idx, self.at_steps)
        views = None
        if reading_views:
            views = AugmentedViews(find_augment(self.augment, trainer, pl_module), self.views)
        return OwnImages(
            self._gauge, trainer, pl_module, loader, self.forward, self.at_steps, views
        )

    def _logs_same_keys(self, other: Any) -> bool:
        return isinstance(other, AlphaMonitor) and other is not self and other.prefix == self.prefix

    def _warn_of_stale_values(self, trainer: Trainer) -> None:
        for other in getattr(trainer, "callbacks", ()):
            read = getattr(other, "monitor", None)
            if self.every_n_epochs > 1 and hasattr(other, "patience") and read in self._keys():
                self._gauge.warn(
                    StaleValueWarning,
                    f"{type(other).__name__} reads {read} at every validation, and with "
                    f"every_n_epochs={self.every_n_epochs} most of them show it the old value, "
                    "which counts as no improvement; set its patience accordingly",
                )

    def _detach(self) -> None:
        if self._is_attached:
            self._gauge.remove()
            # The monitor is copied and pickled without them; Lightning lends it the module's `log`.
            for name in ("_gauge", "_source", "_display", "log", "log_dict"):
                vars(self).pop(name, None)
        self._is_attached = self._measuring = False

    def on_after_setup(self, fabric: Any, module: Any) -> None:
        """Fail in ``Fabric.setup``, for no Trainer calls this."""

    # -- one measurement -------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the untrained network, or at least check what would be measured."""
        self._weights.train()
        self._last_step = trainer.global_step - (trainer.global_step == 0)
        is_due = self._passes_step(trainer) and not any(
            r.run == self._weights.run and r.global_step == 0 for r in self.history
        )
        self._source.before_training(trainer, pl_module, whole=is_due)
        self._announce(trainer)
        if is_due:
            self._log_at_step(trainer)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Measure after the steps that were asked for."""
        if self._passes_step(trainer):
            self._source.start(trainer, pl_module)
            self._source.finish(trainer, pl_module)
            self._log_at_step(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with an empty state."""
        self._attach(trainer, pl_module)
        self._hear_of_weights(trainer, pl_module)
        self._measuring = trainer.sanity_checking or self._is_due(trainer)
        self._source.start(trainer, pl_module)

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Listen to the user's validation step, or run the monitor's own images."""
        if self._measuring:
            self._source.before_batch(trainer, pl_module, batch, dataloader_idx)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Listen no more."""
        self._gauge.close()

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise what is certain to fail at every validation; throw the features away."""
        self._source.end_sanity_check()
        self._announce(trainer)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log α and the other scores."""
        if trainer.sanity_checking:
            return
        # On a rank that had no validation batch; of all monitors before any of them measures, for
        # that is the order of the other ranks, which meet this one in each pass.
        for monitor in _monitors(trainer):
            if monitor._measuring:
                monitor._source.finish(trainer, pl_module)
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
        if self._source.is_needed_after(trainer) and self._is_due(trainer):
            self._source.start(trainer, pl_module)
            self._source.finish(trainer, pl_module)
            self._log(trainer, pl_module)
            self._keep(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See to the last epoch, too, and to a course that was not drawn yet."""
        self._check_keys(trainer)
        if self.figures:
            self._display.finish(trainer, self.history)

    def _passes_step(self, trainer: Trainer) -> bool:
        before, self._last_step = self._last_step, trainer.global_step
        return passes_step(self._source.at_steps, before, self._last_step)

    def _log_at_step(self, trainer: Trainer) -> None:
        self._measure(trainer)
        if trainer.is_global_zero:
            for logger in trainer.loggers:  # `log` would wait for the end of the epoch
                logger.log_metrics(self._values(), step=trainer.global_step)
        if trainer.global_step > 0:  # a network that has not learnt cannot have collapsed
            self._obey_on_collapse(trainer)
        self._keep(trainer, between=True)

    def _is_due(self, trainer: Trainer) -> bool:
        last = self._last_epoch
        if last is None or trainer.state.fn != "fit":
            return True
        epochs = trainer.current_epoch - last
        return epochs <= 0 or epochs >= self.every_n_epochs  # again in the same epoch, or later

    def _measure(self, trainer: Trainer) -> None:
        run, epoch, step = self._weights.at(trainer)
        is_trained = trainer.state.fn != "fit" or step > 0  # before, a poor fit is no news
        about = {"run": run, "epoch": epoch, "global_step": step}
        measured = self._gauge.record(warn=is_trained, **about)
        self._measured = [self._placed(trainer, record) for record in measured]
        self._announce(trainer)

    def _placed(self, trainer: Trainer, record: AlphaRecord) -> AlphaRecord:
        """A record that knows where its training stands; if that is badly, it is said once."""
        in_fit = trainer.state.fn == "fit"
        if self._weights.unknown is not None or (not in_fit and record.global_step == 0):
            return record  # what is validated before a fit may have been trained elsewhere
        try:
            record, course = with_course(record, self.history)
            heard = alarm(course) if course.latest.global_step >= FIRST_STEP else None
        except Exception as error:  # an observer must not end the training it observes
            heard = f"where the training stands could not be told: {error}"
        if heard is not None and in_fit:
            self._gauge.warn(CourseWarning, heard, about=record.layer)
        return record

    def _announce(self, trainer: Trainer) -> None:
        """Say once in a fit what is measured, as soon as it has been seen."""
        if self._announced or not self._gauge.has_run:
            return
        self._announced = True
        source, given = self._source.describe(trainer)
        sizes = [size for size in (given, self.max_samples) if size is not None]
        images = min(sizes, default=None)
        count = "" if images is None else f" ({images:,})"
        window = self._gauge.window(images)
        rank_zero_info(f"AlphaMonitor: {self._gauge.describe()}; {source}{count}; {window}")

    # -- what becomes of it ----------------------------------------------------------------------

    def _log(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_keys(trainer)
        self._last_epoch = trainer.current_epoch
        self._measure(trainer)
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
        return [
            f"{self.prefix}{name}{key_end(index, tap.layer.label)}"
            for index, tap in enumerate(self._gauge.taps)
            for name in names
        ]

    def _values(self) -> dict[str, float]:
        """What is logged of the records just measured, by key."""
        return {
            f"{self.prefix}{name}{key_end(index, record.layer)}": value
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
        self._gauge.warn(SharedKeyWarning, message)

    def _keep(self, trainer: Trainer, *, between: bool = False) -> None:
        """Add what was measured to the history; ``between`` validations, without their metrics."""
        metrics: dict[str, float] = {}
        if not between:  # else what Lightning knows is of other steps, or cannot be told from it
            own = set(self._keys())
            metrics = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if name not in own
            }
            step = {record.global_step for record in self._measured}
            again = {id(r) for r in self._between if r.global_step in step}
            self.history[:] = (record for record in self.history if id(record) not in again)
        records = [replace(record, metrics=metrics) for record in self._measured]
        if self._weights.unknown is not None:
            records = []
            self._gauge.warn(
                HistoryWarning,
                "whose weights are validated is not known, so α is logged but not kept in the "
                f"history: {self._weights.unknown}",
            )
        self.history += records
        self._between = records if between else []
        if self.figures:
            self._display.show(trainer, records, self.history, between=between)

    # -- state -----------------------------------------------------------------------------------

    @property
    def state_key(self) -> str:
        """Own key for each monitor of a Trainer."""
        return self._generate_state_key(layer=self.layer, take=self.take, prefix=self.prefix)

    def state_dict(self) -> dict[str, Any]:
        """The history as plain Python numbers; every checkpoint carries it."""
        return history_to_state(self.history, self._weights.run)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the history of the run that is resumed; a validation adds to what is there."""
        keeps = self._weights.only_validates and bool(self.history)
        try:
            history, run = history_from_state(state_dict)
        except SelectionError as error:
            if keeps:
                return
            self.history = []
            warnings.warn(
                f"the history of α in the checkpoint is lost: {error}", HistoryWarning, stacklevel=2
            )
            return
        if keeps:
            return
        self._weights.run = run or self._weights.run
        self.history = history
        self._last_epoch = self.history[-1].epoch if self.history else None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Remember whose weights these are, for ``trainer.validate(ckpt_path=...)``.

        A monitor that measures another layer from now on continues the history all the same.
        """
        states = checkpoint.get("callbacks") or {}
        ends = f"'prefix': {self.prefix!r}}}"
        names = [key for key in states if isinstance(key, str)]  # before Lightning 1.5, classes
        mine = [key for key in names if key.startswith(STATE_KEY_PREFIX) and key.endswith(ends)]
        state = states.get(self.state_key, states[mine[0]] if mine else None)
        self._weights.load(trainer, pl_module, checkpoint, run_of_state(state))
        if self.state_key not in states and mine:
            self.load_state_dict(states[mine[0]])

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Hear of weights before a `BatchSizeFinder` puts a checkpoint of its own in the way."""
        self._hear_of_weights(trainer, pl_module)

    def _hear_of_weights(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint = self._weights.unheard_of(trainer, pl_module)
        if checkpoint is None:
            return
        self.on_load_checkpoint(trainer, pl_module, checkpoint)
        states = checkpoint.get("callbacks") or {}
        if self.state_key in states:
            self.load_state_dict(states[self.state_key])


def _monitors(trainer: Trainer) -> list[AlphaMonitor]:
    return [c for c in getattr(trainer, "callbacks", ()) if isinstance(c, AlphaMonitor)]


def _is_logged(value: Any, mine: float | None) -> bool:
    """Whether a metric of Lightning, which keeps float32, is what was logged last."""
    if mine is None:
        return False
    return math.isclose(float(value), mine, rel_tol=1e-5) or (mine != mine and value != value)
