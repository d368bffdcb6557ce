"""Whose weights are measured: those of the training, or of a checkpoint loaded since."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from alphareq_lightning._lightning import LightningModule, Trainer
from alphareq_lightning.errors import SelectionError
from alphareq_lightning.records.checkpoints import read_checkpoint

NOT_TRAINED = (
    "it is no module that this monitor has seen trained; give the checkpoint of its weights as "
    "ckpt_path="
)

FINDER = ".scale_batch_size_"
"""A `BatchSizeFinder` begins with it the name of a checkpoint that it saves and puts back."""

Place = tuple[str, int, int] | str
"""Run, epoch and step that weights are of; or why these are not known."""


class Weights:
    """Remembers, of each module that a Trainer was given, where its weights come from.

    Modules are known while they are alive; a copy of a monitor knows none.

    Attributes:
        run: Names the training; each fit that does not resume is another.
        only_validates: Whether the last checkpoint was loaded to be looked at, not to be resumed.
    """

    def __init__(self) -> None:
        self.run = ""
        self.only_validates = False
        self._has_trained = False
        self._run_before: str | None = None
        self._resumed: Place | None = None
        self._trains = False
        self._heard = False
        self._here: Place | None = None
        self._places: WeakKeyDictionary[LightningModule, Place] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Without the modules, which are not written with it."""
        return {name: value for name, value in vars(self).items() if name != "_places"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _places=WeakKeyDictionary())

    @property
    def unknown(self) -> str | None:
        """Why it is not known whose weights these are; `None` where it is."""
        return self._here if isinstance(self._here, str) else None

    def begin(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Of ``setup``, before a checkpoint is loaded."""
        self._heard = self._trains = self.only_validates = False
        self._run_before = self._resumed = None
        if stage == "fit":
            self._run_before = self.run
            self.run, self._here = uuid.uuid4().hex, None
            return
        self._here = self._places.get(pl_module)
        if self._here is not None:
            return
        if trainer.global_step == 0:  # another Trainer, or none has trained yet
            self._here = (uuid.uuid4().hex, trainer.current_epoch, 0)
            if not self._has_trained:
                self.run = self._here[0]
        elif self._has_trained:
            self._here = self._places[pl_module] = NOT_TRAINED
        else:  # the monitor came after the training, of what it is given first
            self._keep(trainer, pl_module)

    def train(self) -> None:
        """Training begins; what a fit has before that may still fail."""
        self._trains = True

    def end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of ``teardown`` or an error: remember what a training has come to."""
        if self._trains:
            own = set(map(id, pl_module.parameters()))
            for other in list(self._places):  # what shares weights with it has other ones now
                if not own.isdisjoint(map(id, other.parameters())):
                    del self._places[other]
            self._keep(trainer, pl_module)
        elif self._resumed is not None:  # a checkpoint is loaded long before training begins
            self._places[pl_module], self._has_trained = self._resumed, True
        elif self._run_before:
            self.run = self._run_before
        self._trains, self._run_before, self._resumed = False, None, None

    def _keep(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.run = self.run or uuid.uuid4().hex
        self._here = (self.run, trainer.current_epoch, trainer.global_step)
        self._places[pl_module], self._has_trained = self._here, True

    def at(self, trainer: Trainer) -> tuple[str, int, int]:
        """Run, epoch and step of these weights."""
        if isinstance(self._here, tuple):
            return self._here
        return self.run, trainer.current_epoch, trainer.global_step

    def load(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any], run: str
    ) -> None:
        """A checkpoint has been read, of this run as far as is known; a fit resumes it."""
        self.only_validates = trainer.state.fn != "fit"
        self._heard = True
        if Path(trainer.ckpt_path or "").name.startswith(FINDER):
            return
        place = (run or self.run, checkpoint.get("epoch", 0), checkpoint.get("global_step", 0))
        if self.only_validates:
            self._here = self._places[pl_module] = place
        else:
            self._resumed = place

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
