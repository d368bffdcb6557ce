"""The one file that knows ``lightning.pytorch`` from ``pytorch_lightning``.

The two packages hold the same code under different class trees. The callback inherits from the
`Callback` of each that is installed, so one class fits both Trainers and both LightningCLIs.
"""

from __future__ import annotations

import logging
import re
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

import lightning_utilities.core.rank_zero as rank_zero_module
from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import CombinedLoader, rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng as _isolate_rng
from lightning_utilities.core.apply_func import apply_to_collection

from alphareq_lightning.errors import OptionError

_REASON = re.compile(
    r"Option '.*' is not accepted|unrecognized arguments: .*|Expected a .*Got.*|No module named .*"
)

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    from lightning.pytorch.callbacks import Callback as _Callback

    if find_spec("pytorch_lightning") is None:
        Callback = _Callback
    else:
        # Importing the second package moves the messages of the first to the second's logger.
        _log = rank_zero_module.log
        from pytorch_lightning.callbacks import Callback as _OtherCallback

        rank_zero_module.log = _log

        class Callback(_Callback, _OtherCallback):
            """A Lightning callback under both names."""


_T = TypeVar("_T")

SHARDING_STRATEGIES: tuple[type, ...] = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)
"""Their ranks must run every forward pass together; a share of the batches each would hang."""
if find_spec("pytorch_lightning") is not None:
    from pytorch_lightning import strategies as _others

    SHARDING_STRATEGIES += (
        _others.FSDPStrategy,
        _others.ModelParallelStrategy,
        _others.DeepSpeedStrategy,
    )


def overrides(method: str, module: Any) -> bool:
    """Whether a LightningModule of either namespace defines ``method`` itself."""
    base = next((c for c in type(module).__mro__ if c.__name__ == "LightningModule"), None)
    if base is None:
        return is_overridden(method, module, parent=LightningModule)
    return getattr(type(module), method, None) is not getattr(base, method, None)


def needs_trainer(message: str) -> Callable[[type[_T]], type[_T]]:
    """Let all hooks of a callback raise `OptionError` where no Trainer calls them: Fabric does."""

    def hooks_checked(callback: type[_T]) -> type[_T]:
        for name, hook in list(vars(callback).items()):
            if name.startswith("on_") or name in ("setup", "teardown"):
                setattr(callback, name, _with_trainer(hook, message))
        return callback

    return hooks_checked


def _with_trainer(hook: Callable[..., Any], message: str) -> Callable[..., Any]:
    @wraps(hook)
    def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not hasattr(kwargs.get("trainer", args[0] if args else None), "callback_metrics"):
            raise OptionError(message)
        return hook(self, *args, **kwargs)

    return checked


@contextmanager
def isolate_rng() -> Iterator[None]:
    """Lightning's, which puts nothing back after an exception; this does."""
    failed: BaseException | None = None
    with _isolate_rng():
        try:
            yield
        except BaseException as error:
            failed = error
    if failed is not None:
        raise failed


@contextmanager
def quiet() -> Iterator[None]:
    """No hints about hardware, workers and log intervals between our own lines."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.pytorch")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def parser_reason(error: ArgumentError) -> str:
    """The lines of jsonargparse's message that tell, as one."""
    found = _REASON.search(str(error))
    if found:
        return found.group()
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line.removeprefix("- ") for line in lines if line.startswith(("- ", "Given value:"))]
    return "; ".join(telling) or lines[0]


__all__ = [
    "SHARDING_STRATEGIES",
    "Callback",
    "CombinedLoader",
    "LightningModule",
    "Trainer",
    "apply_to_collection",
    "isolate_rng",
    "needs_trainer",
    "overrides",
    "parser_reason",
    "quiet",
    "rank_zero_info",
    "sized_len",
]
