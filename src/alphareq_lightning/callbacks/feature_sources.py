"""Where the features of a measurement come from: validation batches, or images of its own."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from alphareq_lightning._lightning import LightningModule, Trainer
from alphareq_lightning.callbacks.augmented_views import AugmentedViews
from alphareq_lightning.callbacks.unlabeled_pass import Forward, UnlabeledPass
from alphareq_lightning.errors import (
    AlphaReQError,
    DataError,
    FeatureTapError,
    LoaderWarning,
    OptionError,
)
from alphareq_lightning.measure.batches import doubt_about_first, flat_loaders, num_samples
from alphareq_lightning.measure.gauge import Gauge


class FeatureSource(ABC):
    """What `AlphaMonitor` asks of a source, at each of its hooks."""

    gauge: Gauge
    at_steps: Any = ()
    """Numbers of steps after which it is measured between validations."""

    @abstractmethod
    def before_training(
        self, trainer: Trainer, module: LightningModule, *, whole: bool = False
    ) -> None:
        """Fail before the first step, or never; if ``whole``, bring about all features as well."""

    @abstractmethod
    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin a measurement with an empty state."""

    def end_sanity_check(self) -> None:
        """Raise what is certain to fail at every validation."""
        return

    @abstractmethod
    def before_batch(
        self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int
    ) -> None:
        """See a validation batch that is about to be run."""

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Bring about what features are missing; all ranks must call it."""
        return

    def is_needed_after(self, trainer: Trainer) -> bool:
        """Whether to measure after a training epoch, because no validation follows it."""
        return False

    @abstractmethod
    def describe(self, trainer: Trainer) -> tuple[str, int | None]:
        """What it is called, and of how many images it is, where that is known."""


class ValidationBatches(FeatureSource):
    """The user's own validation batches as they pass: no extra forward.

    Args:
        gauge: Listens to the batches.
        trainer: The Trainer.
        index: Which of several validation dataloaders; `None` for the first.
        at_steps: Must be empty or `None`.

    Raises:
        OptionError: If there will be no validation, or more is asked for than validations.
    """

    def __init__(self, gauge: Gauge, trainer: Trainer, index: int | None, at_steps: Any) -> None:
        self.gauge, self.index = gauge, index
        self.name, self.loader = "validation batches", None
        if trainer.state.fn != "fit":
            return
        if not trainer.enable_validation:
            raise OptionError(
                "AlphaMonitor has nothing to measure: the Trainer runs no validation loop and "
                "there is no dataloader= and no alpha_dataloader() method; add one of them"
            )
        if at_steps:
            raise OptionError(
                f"{at_steps=!r} needs own images: pass dataloader= or write a method "
                "alpha_dataloader()"
            )

    def before_training(
        self, trainer: Trainer, module: LightningModule, *, whole: bool = False
    ) -> None:
        """Find which of several validation loaders is measured.

        Raises:
            OptionError: If there is no such loader, before training; later it is a problem.
        """
        loaders = flat_loaders(trainer.val_dataloaders)
        count, index = len(loaders), self.index or 0
        self.name = "validation batches"
        if count > 1 and _come_together(trainer):
            self.name += f" of {count} loaders together"
            loaders = [None]
        elif count > 1:
            self.name = f"validation loader {index} of {count}"
        self.loader = loaders[index] if index < len(loaders) else None
        if loaders and index >= len(loaders):
            problem = (
                f"dataloader_idx={index} is none of the {len(loaders)} validation loaders, "
                f"which count from 0 to {len(loaders) - 1}"
            )
            if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.global_step == 0:
                raise OptionError(problem)
            self.gauge.fail(problem)
        if len(loaders) > 1 and self.index is None:
            doubt = doubt_about_first(loaders, flat_loaders(trainer.train_dataloader))
            if doubt is not None:
                self.gauge.warn(LoaderWarning, doubt)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin with an empty state."""
        self.gauge.start(module.device)
        self.before_training(trainer, module)

    def end_sanity_check(self) -> None:
        """See whether the layers ran in it."""
        self.gauge.check()

    def before_batch(
        self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int
    ) -> None:
        """Listen to the validation step of a batch."""
        if dataloader_idx == (self.index or 0):
            self.gauge.open(batch, in_step_of=module)

    def describe(self, trainer: Trainer) -> tuple[str, int | None]:
        """Which loader, and its images if all of its batches are run."""
        return self.name, num_samples(self.loader) if trainer.limit_val_batches == 1.0 else None


class OwnImages(FeatureSource):
    """Held-out unlabeled images, run through the model when a validation begins.

    The pass is made before the first validation batch: by then every callback has put in place the
    weights that this validation is about (`WeightAveraging` swaps them), and none has taken them
    away again.

    Args:
        gauge: Listens to the pass.
        trainer: The Trainer.
        module: Its LightningModule.
        loader: Batches of images.
        forward: What to run on them, see `UnlabeledPass`.
        at_steps: When it is measured between validations, too; `None` is before the first step,
            if the weights in place are those that checkpoints hold.
        views: Of the same images, for scores that read them.

    Raises:
        OptionError: If the loader cannot work, or the weights in place would not be those that
            checkpoints hold.
    """

    def __init__(
        self,
        gauge: Gauge,
        trainer: Trainer,
        module: LightningModule,
        loader: Iterable[Any],
        forward: Forward | Sequence[Forward] | None,
        at_steps: Any,
        views: AugmentedViews | None = None,
    ) -> None:
        self.gauge, self.loader = gauge, loader
        self._pass = UnlabeledPass(loader, forward, module, gauge.options.max_samples, views)
        self._was_tried = False
        averaging = [c for c in getattr(trainer, "callbacks", ()) if _averages(c)]
        between = at_steps or not trainer.enable_validation
        if averaging and between and trainer.state.fn == "fit":
            raise OptionError(
                f"{type(averaging[0]).__name__} puts its averaged weights, which checkpoints hold, "
                "in place in validations only: own images need a validation loop then, and no "
                "at_steps="
            )
        untrained = () if averaging else (0,)
        self.at_steps = untrained if at_steps is None else at_steps

    def before_training(
        self, trainer: Trainer, module: LightningModule, *, whole: bool = False
    ) -> None:
        """Refuse a loader that the training reads, and run one batch, or all of them.

        A file that cannot be read past the first batch is a problem of this one measurement.

        Raises:
            AlphaReQError: On all ranks, if it failed on one.
        """
        self._pass.check_shared(flat_loaders(trainer.train_dataloader))
        if self._was_tried:
            return
        self._was_tried = True
        self.start(trainer, module)
        error = self._run(trainer, module, max_batches=None if whole else 1)
        may_pass = whole and self._pass.has_begun
        error = None if may_pass and not isinstance(error, AlphaReQError) else error
        failed = self.gauge.ranks.any(error is not None)
        if isinstance(error, AlphaReQError):
            raise error
        if error is not None:
            raise FeatureTapError(
                f"running the model on the unlabeled images failed: {error}; "
                "pass forward= to say what to run on them"
            ) from error
        if failed:
            raise FeatureTapError("running the model on the unlabeled images failed on a rank")
        self.gauge.check(problems=not may_pass)

    def start(self, trainer: Trainer, module: LightningModule) -> None:
        """Begin with an empty state; the pass counts images over all ranks itself."""
        self.gauge.start(module.device, limited=False)

    def before_batch(
        self, trainer: Trainer, module: LightningModule, batch: Any, dataloader_idx: int
    ) -> None:
        """Make the pass before the first validation batch."""
        if not trainer.sanity_checking:
            self.finish(trainer, module)

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Make the pass: on a rank that had no validation batch it was not made yet."""
        if self.gauge.pass_seconds is None:
            self._run(trainer, module)

    def _run(
        self, trainer: Trainer, module: LightningModule, max_batches: int | None = None
    ) -> Exception | None:
        """Make the pass; what goes wrong in it is a problem of the measurement."""
        failed: Exception | None = None
        started = time.perf_counter()
        try:
            num_batches = self._pass.run(trainer, module, self.gauge, max_batches)
            if num_batches == 0 and trainer.world_size == 1:
                raise DataError("the unlabeled dataloader gave no batch")
        except Exception as error:
            failed = error
            self.gauge.fail(f"the pass over unlabeled images failed: {error}")
        self.gauge.pass_seconds = time.perf_counter() - started
        return failed

    def is_needed_after(self, trainer: Trainer) -> bool:
        """Whether the Trainer has no validation loop."""
        # Before the first validation the loaders may not be there yet.
        return not trainer.enable_validation or (
            trainer.val_dataloaders is not None and sum(trainer.num_val_batches) == 0
        )

    def describe(self, trainer: Trainer) -> tuple[str, int | None]:
        """How many images the loader has."""
        return "own images", num_samples(self.loader)


def _come_together(trainer: Trainer) -> bool:
    """Whether each validation batch is one of every loader: a CombinedLoader says so, inside."""
    in_fit = trainer.state.fn == "fit"
    loop = trainer.fit_loop.epoch_loop.val_loop if in_fit else trainer.validate_loop
    combined = getattr(loop, "_combined_loader", None)
    return getattr(combined, "_mode", "sequential") != "sequential"


def _averages(callback: Any) -> bool:
    return any(base.__name__ == "WeightAveraging" for base in type(callback).__mro__)
