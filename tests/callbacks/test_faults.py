"""A run that dies badly goes on with its history."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from alphareq_lightning import AlphaMonitor

from tiny import TinyModule, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
SCRIPT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from lightning.pytorch.callbacks import ModelCheckpoint
from alphareq_lightning import AlphaMonitor
from tiny import TinyModule, labelled_loader, make_trainer

class Killed(TinyModule):
    def on_train_epoch_start(self):
        if self.current_epoch == 2 and sys.argv[3] == "training":
            os.kill(os.getpid(), signal.SIGKILL)

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 2 and sys.argv[3] == "validation":
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
keep = ModelCheckpoint(folder, save_last=True)
trainer = make_trainer(folder, AlphaMonitor(), keep, max_epochs=5, enable_checkpointing=True)
trainer.fit(Killed(), labelled_loader(), labelled_loader(seed=5))
"""


@pytest.mark.parametrize("during", ["training", "validation"])
def test_a_killed_run_resumes_with_its_history(tmp_path, during):
    tests = str(Path(__file__).parents[1] / "helpers")
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), tests, during],
        capture_output=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    monitor = AlphaMonitor()
    keep = ModelCheckpoint(tmp_path / "again", save_last=True)
    trainer = make_trainer(tmp_path, monitor, keep, max_epochs=4, enable_checkpointing=True)
    trainer.fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5), ckpt_path=tmp_path / "last.ckpt"
    )
    assert [record.epoch for record in monitor.history] == [0, 1, 2, 3]
