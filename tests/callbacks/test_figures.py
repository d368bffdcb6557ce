import shutil

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from alphareq_lightning import AlphaMonitor, spectrum_figure
from alphareq_lightning.errors import OutputWarning

from plain_records import plain_record
from tiny import TinyModule, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.PoorFitWarning")


def record(**values):
    eigenvalues = tuple(float(5 * n**-1.25) for n in range(1, 65))
    defaults = {
        "alpha": 1.25,
        "r2": 1.0,
        "stderr": 0.0,
        "fit_range": (4, 12),
        "num_samples": 1000,
        "num_features": 64,
        "layer": "backbone",
        "eigenvalues": eigenvalues,
    }
    return plain_record(**{**defaults, **values})


def test_fitted_line_lies_on_a_planted_spectrum():
    [axes] = spectrum_figure(record()).axes
    spectrum, line = axes.get_lines()
    np.testing.assert_allclose(line.get_xdata(), np.arange(4, 13))
    np.testing.assert_allclose(line.get_ydata(), spectrum.get_ydata()[3:12], rtol=1e-10)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "α = 1.250, R² = 1.000" in labels
    assert "fitted ranks 4–12" in labels


@pytest.mark.parametrize("eigenvalues", [(), (0.0,) * 8, (1.0, 0.5, 0.0)])
def test_no_fit_is_drawn_too(eigenvalues):
    figure = spectrum_figure(record(alpha=float("nan"), fit_range=None, eigenvalues=eigenvalues))
    figure.canvas.draw()
    assert len(figure.axes[0].get_lines()) == int(any(eigenvalues))


def fit(tmp_path, logger, **options):
    monitor = AlphaMonitor(**options)
    make_trainer(tmp_path, monitor, logger=logger).fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5)
    )
    return monitor


def test_tensorboard_gets_scalars_and_figure_at_every_epoch(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    monitor = fit(tmp_path, logger)
    events = EventAccumulator(logger.log_dir).Reload()
    scalars = [event.value for event in events.Scalars("val_alpha")]
    assert scalars == pytest.approx([r.alpha for r in monitor.history], rel=1e-6)
    steps = [event.step for event in events.Scalars("val_loss")]
    assert [image.step for image in events.Images("val_alpha_spectrum_backbone")] == steps
    assert steps == [event.step for event in events.Scalars("val_alpha_distance")]
    assert not list(tmp_path.rglob("*.png"))


def test_mlflow_gets_figures_and_scalars(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    logger = MLFlowLogger(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "files")
    )
    monitor = fit(tmp_path, logger)
    assert len(list((tmp_path / "files").rglob("val_alpha_spectrum_backbone/step=*.png"))) == 2
    values = logger.experiment.get_metric_history(logger.run_id, "val_alpha")
    assert [v.value for v in values] == pytest.approx([r.alpha for r in monitor.history], rel=1e-6)


def test_wandb_gets_figures_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(tmp_path, WandbLogger(save_dir=tmp_path, offline=True))
    wandb.finish()
    pictures = list((tmp_path / "wandb").rglob("media/images/val_alpha_spectrum_backbone*.png"))
    assert len(pictures) == 2


def test_png_for_loggers_that_show_none(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, logger)
    assert len(list(tmp_path.rglob("val_alpha_spectrum_backbone-epoch=1-step=10.png"))) == 1


def test_no_logger_no_files(tmp_path):
    fit(tmp_path, False)
    assert not list(tmp_path.rglob("*"))


def test_figures_can_be_off(tmp_path):
    fit(tmp_path, CSVLogger(tmp_path), figures=False)
    assert not list(tmp_path.rglob("*.png"))


def test_a_figure_that_cannot_be_written_does_not_end_training(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.warns(OutputWarning, match="figure of the spectrum was lost: .*No space left"):
        monitor = fit(tmp_path, CSVLogger(tmp_path))
    assert len(monitor.history) == 2


def test_nothing_is_drawn_on_a_disk_that_is_nearly_full(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**23))
    monitor = AlphaMonitor()
    with pytest.warns(OutputWarning, match="the disk of .* is nearly full"):
        make_trainer(tmp_path, monitor, logger=CSVLogger(tmp_path)).fit(
            TinyModule(), labelled_loader(), labelled_loader(seed=5)
        )
    assert len(monitor.history) == 2
    assert not list(tmp_path.rglob("*.png"))
