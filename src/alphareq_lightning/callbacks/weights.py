"""Whose weights are measured: those of the training, or of a checkpoint loaded since."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from alphareq_lightning._lightning import LightningModule, Trainer
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.records.checkpoints import read_checkpoint

ANOTHER = (
    "this module is not the one that was trained; give the checkpoint that its weights are of as "
    "ckpt_path="
)

Place = tuple[int, int] | str | None
"""Epoch and step of a checkpoint; or why they are not known; `None`: those of the Trainer."""


class Weights:
    """Remembers, of each module that a Trainer was given, where its weights come from.

    Attributes:
        run: Names the training; each fit that does not resume is another.
        only_validates: Whether the last checkpoint was loaded to be validated, not to be resumed.
    """

    def __init__(self) -> None:
        self.run = ""
        self.only_validates = False
        self._heard = False
        self._here: Place = None
        self._places: WeakKeyDictionary[LightningModule, Place] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Without the modules: who unpickles a monitor has others."""
        return {name: value for name, value in vars(self).items() if name != "_places"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _places=WeakKeyDictionary())

    @property
    def unknown(self) -> str | None:
        """Why it is not known whose weights these are; `None` where it is."""
        return self._here if isinstance(self._here, str) else None

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Of ``setup``, before a checkpoint is loaded."""
        if stage == "fit" or trainer.global_step == 0:  # else of the training that has ended
            self.run = uuid.uuid4().hex
        if stage == "fit":
            self._places = WeakKeyDictionary({pl_module: None})
        elif self._places and trainer.global_step > 0:
            self._places.setdefault(pl_module, ANOTHER)
        self._heard = False
        self._here = self._places.get(pl_module)

    def at(self, trainer: Trainer) -> tuple[int, int]:
        """Epoch and step of these weights; the Trainer's own stand at 0 where nothing is fitted."""
        if trainer.state.fn != "fit" and isinstance(self._here, tuple):
            return self._here
        return trainer.current_epoch, trainer.global_step

    def load(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A checkpoint has been read; a fit resumes it, all else looks at it."""
        self._heard = True
        self.only_validates = trainer.state.fn != "fit"
        self._here = None
        if self.only_validates:
            self._here = (checkpoint.get("epoch", 0), checkpoint.get("global_step", 0))
        self._places[pl_module] = self._here

    def unheard_of(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any] | None:
        """A checkpoint that Lightning hands to callbacks in a fit only, if it did not.

        That is so before Lightning 2.5, and for checkpoints without states of callbacks still.
        """
        if trainer.state.fn == "fit" or self._heard or not trainer.ckpt_path:
            return None
        try:
            checkpoint = read_checkpoint(Path(trainer.ckpt_path))
            if not isinstance(checkpoint, dict) or "global_step" not in checkpoint:
                raise SelectionError(f"{trainer.ckpt_path} does not tell its step")
        except SelectionError as error:
            self._heard = True
            self._here = self._places[pl_module] = str(error)
            return None
        return checkpoint
