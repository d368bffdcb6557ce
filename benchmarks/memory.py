"""Peak extra memory of the monitor over a validation epoch, with and without RankMe."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from alphareq_lightning import AlphaMonitor
from alphareq_lightning._lightning import quiet
from benchmarks.results import arguments, write
from benchmarks.timing import peak_memory

BATCH = 512


class Features(IterableDataset[Tensor]):
    """Batches that are made when they are asked for."""

    def __init__(self, n: int, d: int) -> None:
        self.n, self.d = n, d

    def __iter__(self) -> Iterator[Tensor]:
        for seed in range(0, self.n, BATCH):
            yield torch.randn(BATCH, self.d, generator=torch.Generator().manual_seed(seed))


class Passes(pl.LightningModule):
    """A layer that costs no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Identity()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.backbone(batch)


def epoch(n: int, d: int, *monitors: AlphaMonitor) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=list(monitors),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.validate(Passes(), DataLoader(Features(n, d), batch_size=None), verbose=False)


@quiet()
def main() -> None:
    options = arguments(__doc__)
    warnings.filterwarnings("ignore")
    d = 64 if options.smoke else 2048
    epoch(BATCH, d, AlphaMonitor(figures=False))  # what libraries allocate once is not its own
    rows = []
    for n in (1_000, 2_000) if options.smoke else (10_000, 100_000):
        without = peak_memory(lambda n=n: epoch(n, d))
        for scores in ((), ("rankme",)):
            monitor = AlphaMonitor(figures=False, scores=scores)
            peak = peak_memory(lambda n=n, monitor=monitor: epoch(n, d, monitor))
            rows.append(
                {
                    "n": n,
                    "d": d,
                    "batch": BATCH,
                    "scores": scores,
                    "without_bytes": without,
                    "peak_bytes": peak - without,
                    "allowed_bytes": 3 * d * d * 8 + BATCH * d * 4,
                }
            )
    write(options, "memory", rows)


if __name__ == "__main__":
    main()
