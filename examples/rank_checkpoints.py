"""Rank old checkpoints that carry no α, then pay for two readouts.

``python examples/rank_checkpoints.py`` first trains four networks without the callback; they stand
for yours.
"""

from pathlib import Path

import lightning.pytorch as pl

from alphareq_lightning import (
    ImageOptions,
    ModelSource,
    rank_checkpoints,
    score_checkpoints,
    select_checkpoints,
    verdict,
)
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule

FOLDER = Path("runs/old")


def train(lambd: float) -> None:
    """A short training that leaves one checkpoint."""
    pl.seed_everything(0)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    model = BarlowTwins(lambd=lambd, backbone_options={"width": 16})
    trainer.fit(model, datamodule=DigitsDataModule())
    trainer.save_checkpoint(FOLDER / f"lambd={lambd}.ckpt")


def main() -> None:
    """Measure, rank, judge, select."""
    for lambd in (1e-3, 1e-2, 1e-1, 1.0):
        train(lambd)

    models = ModelSource(module="alphareq_lightning.recipes.BarlowTwins")
    images = ImageOptions(data="digits")
    scored = score_checkpoints([FOLDER], models, images, out=FOLDER / "records.jsonl")
    for record in rank_checkpoints(scored.records):
        print(record.path, f"α = {record.alpha:.3f}", f"RankMe = {record.scores['rankme']:.1f}")
    print("verdict:", verdict(scored.records).advice)  # one moment each: no course, no choice

    selected = select_checkpoints(
        [FOLDER / "records.jsonl"],
        models,
        images,
        budget=2,
        labels_per_class=10,
        out=Path("runs/selected"),
    )
    print("best of the two that were read out:", selected.best.path, selected.best.accuracy)


if __name__ == "__main__":
    main()
