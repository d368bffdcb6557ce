"""The monitor's own forward pass over held-out unlabeled images."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import ExitStack, nullcontext
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from alphareq_lightning._lightning import (
    SHARDING_STRATEGIES,
    CombinedLoader,
    LightningModule,
    Trainer,
    isolate_rng,
    sized_len,
)
from alphareq_lightning.callbacks.augmented_views import AugmentedViews
from alphareq_lightning.callbacks.no_trace import (
    PASS_SEED,
    apart,
    as_validation,
    instead,
    not_logging,
    one_shot_parts,
    seed_generators,
    share_buffers,
)
from alphareq_lightning.errors import FeatureTapError, OptionError
from alphareq_lightning.measure.batches import batch_size, first_rows, images_of
from alphareq_lightning.measure.evaluating import evaluating
from alphareq_lightning.measure.gauge import Gauge
from alphareq_lightning.measure.ranks import own_share

Result = TypeVar("Result")
Forward = str | Callable[[Any], Any]


class Run(NamedTuple):
    """What to run on each batch."""

    on: Callable[[Any], Any]
    given: Forward | None
    """As the user said it; `None` for the whole LightningModule."""


class UnlabeledPass:
    """Sends held-out unlabeled images through a model in eval mode and leaves no trace.

    No gradient, no BatchNorm update, no change of any random state or buffer, nothing logged; the
    Trainer's device and precision, and the hooks that transfer the user's own batches, which see a
    validation. Of the batches that every rank reads each runs on one rank; a `DistributedSampler`
    has shared out the images already, and what it repeats is left out. An iterable dataset that
    splits itself by rank would be split twice: give the monitor the whole stream.

    Args:
        loader: Batches of images; a tensor, or a tuple, list or dict that holds one.
        forward: What to run: `None` for the LightningModule, the name of a submodule or a module,
            given the images; or any other callable, given the whole batch; or several of these,
            run one after the other on each batch.
        module: The LightningModule.
        max_images: Run as many images over all ranks: the same images on any number.
        views: Run these of each batch, too, after the batch itself.

    Attributes:
        has_begun: Whether a batch was run, in this pass or an earlier one, without a problem.

    Raises:
        OptionError: If the loader cannot be iterated again and again, may never end, or there is
            no submodule of that name.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        forward: Forward | Sequence[Forward] | None,
        module: LightningModule,
        max_images: int | None = None,
        views: AugmentedViews | None = None,
    ) -> None:
        _check_loader(loader, max_images)
        self.given = loader
        self.template = apart(loader)
        self.max_images = max_images
        self.views = views
        self.has_begun = False
        self.runs = find_forwards(forward, module)
        own = set(module.modules())
        networks = [run.given for run in self.runs if isinstance(run.given, nn.Module)]
        self.foreign = [network for network in networks if network not in own]

    def check_shared(self, train_loaders: Iterable[Any]) -> None:
        """Raise `OptionError` if reading the images would take some away from the training."""
        for theirs in train_loaders:
            if theirs is self.given and not isinstance(theirs, DataLoader):
                raise OptionError(
                    f"the own images come from the {type(theirs).__name__} that the training "
                    "reads, and reading it twice may move it on; pass another one"
                )
            parts = one_shot_parts(getattr(theirs, "dataset", None))
            mine = one_shot_parts(getattr(self.given, "dataset", None))
            if shared := sorted(parts[part] for part in parts.keys() & mine.keys()):
                raise OptionError(
                    "the own images come from the dataset of the training, whose "
                    f"{shared[0]!r} can be read only once; pass a dataset of its own"
                )

    def run(
        self,
        trainer: Trainer,
        module: LightningModule,
        gauge: Gauge,
        max_batches: int | None = None,
    ) -> int:
        """Run the images; every rank must call it.

        Args:
            trainer: The running Trainer.
            module: Its LightningModule.
            gauge: Watches the forward passes of each batch that counts.
            max_batches: Stop after as many batches on each rank.

        Returns:
            How many batches this rank has run.

        Raises:
            FeatureTapError: If a batch holds no images.
        """
        precision = trainer.precision_plugin
        sharded = isinstance(trainer.strategy, SHARDING_STRATEGIES)
        num_batches = 0
        with ExitStack() as stack:

            def prepared() -> Iterable[Any]:
                # A stream begins every pass where it began, and not where the training has come.
                is_stream = isinstance(getattr(self.given, "dataset", None), IterableDataset)
                loader = apart(self.template if is_stream else self.given)
                stack.enter_context(isolate_rng())
                stack.enter_context(as_validation(trainer))
                stack.enter_context(not_logging(module))
                stack.enter_context(evaluating(module, sharded=sharded))
                for network in self.foreign:
                    stack.enter_context(evaluating(network))
                stack.enter_context(torch.no_grad())
                stack.enter_context(precision.forward_context())
                _check_not_lazy(module)
                for seed in (torch.manual_seed, np.random.seed, random.seed):
                    seed(PASS_SEED)
                seed_generators(loader)
                return loader

            loader = _ready_on_all(trainer, prepared)
            share_buffers(trainer, module)
            for number, batch, counts in self._shared_out(trainer, loader, max_batches):
                on_device = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
                for place, run in enumerate(self.runs):
                    with gauge.watching(on_device, again=place > 0) if counts else nullcontext():
                        self._forward(trainer, module, run, precision.convert_input(on_device))
                if self.views is not None:
                    with (
                        isolate_rng(),
                        gauge.watching_views(on_device) if counts else nullcontext(),
                    ):
                        for view in self.views.of(on_device, number):
                            for run in self.runs:
                                self._forward(trainer, module, run, precision.convert_input(view))
                num_batches += counts
                self.has_begun |= counts and all(tap.problem is None for tap in gauge.taps)
        return num_batches

    def _shared_out(
        self, trainer: Trainer, loader: Iterable[Any], max_batches: int | None
    ) -> Iterator[tuple[int, Any, bool]]:
        """The batches that this rank runs: their numbers, images that count, and if any do.

        Where ranks must run every forward pass together, one that has nothing left of a round runs
        a batch that does not count.
        """
        together = isinstance(trainer.strategy, SHARDING_STRATEGIES)
        sampler = _sharding_sampler(loader)
        stride = 1 if sampler is not None else trainer.world_size
        mine = trainer.global_rank % stride
        left = self.max_images if sampler is None else _num_own_images(sampler, self.max_images)
        to_read = left  # by the rank that has most of them
        if together and sampler is not None:
            to_read = _num_own_images(sampler, self.max_images, rank=0)
        num_read, batch, batches = 0, None, iter(loader)
        while to_read != 0 and (max_batches is None or num_read < max_batches * stride):
            try:
                batch = next(batches)
            except StopIteration:
                break
            size = batch_size(batch)
            wanted = size if left is None else min(left, size)
            if to_read is not None and left is not None:
                to_read, left = max(to_read - size, 0), left - wanted
            if num_read % stride == mine:
                yield num_read, first_rows(batch, size, max(wanted, 1)), wanted > 0
            num_read += 1
        if together and 0 < num_read % stride <= mine:
            yield num_read, batch, False

    def _forward(self, trainer: Trainer, module: LightningModule, run: Run, batch: Any) -> None:
        wrapped: Any = trainer.strategy.model
        if not isinstance(trainer.strategy, SHARDING_STRATEGIES):
            run.on(batch)
        elif run.given is None:
            wrapped(images_of(batch))
        else:
            # Shards are gathered for a forward pass of the module as the strategy has wrapped it;
            # what is to run has to run inside of that one, as Lightning's own steps do.
            with ExitStack() as stack:

                def once(batch: Any) -> Any:
                    stack.close()
                    return run.on(batch)

                stack.enter_context(instead(module, forward=once))
                wrapped(batch)


def _ready_on_all(trainer: Trainer, step: Callable[[], Result]) -> Result:
    """What a step gives; if it fails on one rank all raise, before they wait for each other.

    Raises:
        FeatureTapError: If it failed on another rank.
    """
    reason: Exception | None = None
    try:
        result = step()
    except Exception as error:
        reason = error
    all_ready = trainer.strategy.reduce_boolean_decision(reason is None, all=True)
    if reason is not None:
        raise reason
    if not all_ready:
        raise FeatureTapError("another rank could not begin the pass over unlabeled images")
    return result


def _check_not_lazy(module: nn.Module) -> None:
    """Raise `FeatureTapError` if parameters would get their shape and values from own images."""
    name = next((name for name, p in module.named_parameters() if is_lazy(p)), None)
    if name is not None:
        raise FeatureTapError(
            f"the parameter {name!r} is lazy and would be made by the pass over own images; run "
            "one batch through the module before fit"
        )


def find_loader(
    given: Iterable[Any] | None, trainer: Trainer, module: LightningModule
) -> Iterable[Any] | None:
    """The unlabeled dataloader: the one given, else ``alpha_dataloader()`` of module or data."""
    loader = given
    for owner in (module, getattr(trainer, "datamodule", None)):
        make = getattr(owner, "alpha_dataloader", None)
        if loader is None and callable(make):
            with isolate_rng():
                loader = make()
    return loader


def _check_loader(loader: Any, max_images: int | None) -> None:
    """Raise `OptionError` if a loader cannot be iterated again and again, or may never end."""
    if not isinstance(loader, Iterable):
        raise OptionError(
            f"expected a DataLoader of unlabeled images, got a {type(loader).__name__}"
        )
    if isinstance(loader, CombinedLoader):
        raise OptionError(
            "a CombinedLoader has one place for all its readers; pass a DataLoader inside it"
        )
    if isinstance(loader, Iterator):
        raise OptionError(
            "an iterator of unlabeled images can be read only once; pass a DataLoader or a list"
        )
    if max_images is None and sized_len(loader) is None:
        raise OptionError(
            f"the {type(loader).__name__} of unlabeled images has no length and may never end; "
            "say with max_samples= how many images to measure"
        )


def find_forwards(forward: Forward | Sequence[Forward] | None, module: nn.Module) -> list[Run]:
    """What to run on each batch, in this order.

    Raises:
        OptionError: If there is nothing, something is no name and no callable, or there is no
            submodule of that name.
    """
    several = isinstance(forward, Sequence) and not isinstance(forward, str)
    given = list(cast(Sequence[Forward], forward)) if several else [cast(Forward | None, forward)]
    if not given or (several and not all(isinstance(f, str) or callable(f) for f in given)):
        raise OptionError(f"expected names of submodules or callables, got {forward=}")
    return [Run(_find_forward(one, module), one) for one in given]


def _find_forward(forward: Forward | None, module: nn.Module) -> Callable[[Any], Any]:
    """A module on the images of a batch, or a callable on all of it."""
    if forward is None or isinstance(forward, nn.Module):
        target = module if forward is None else forward
        return lambda batch: target(images_of(batch))
    if not isinstance(forward, str):
        return forward
    try:
        module.get_submodule(forward)
    except AttributeError as error:
        names = ", ".join(name for name, _ in module.named_children())
        raise OptionError(
            f"{forward=} is not a submodule of the LightningModule; there are: {names}"
        ) from error
    # By its name every time: it may be swapped.
    return lambda batch: module.get_submodule(forward)(images_of(batch))


def _num_own_images(
    sampler: DistributedSampler[Any], max_images: int | None, rank: int | None = None
) -> int:
    """Where a `DistributedSampler` begins to repeat images, which makes all shares as long."""
    num_images = len(cast(Sized, sampler.dataset))
    wanted = num_images if max_images is None else min(num_images, max_images)
    return own_share(wanted, sampler.rank if rank is None else rank, sampler.num_replicas)


def _sharding_sampler(loader: Iterable[Any]) -> DistributedSampler[Any] | None:
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    return next((s for s in samplers if isinstance(s, DistributedSampler)), None)
