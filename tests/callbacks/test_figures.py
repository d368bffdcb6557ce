import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import tensorboard
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from packaging import version
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin

from alphareq_lightning import AlphaMonitor, AlphaRecord, course_figure, spectrum_figure
from alphareq_lightning.callbacks import loggers
from alphareq_lightning.callbacks.figures import EARLIER_SPECTRA
from alphareq_lightning.errors import OutputWarning
from alphareq_lightning.selection.course import with_course
from study.records import records_of

from plain_records import plain_record
from tiny import TinyModule, labelled_loader, make_trainer, unlabeled_loader

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


RESULTS = Path(__file__).parents[2] / "study" / "results" / "turned"


def told(name):
    """A training of the study, each of its records told where it stood."""
    history = []
    for new in records_of(RESULTS / f"lambd={name},projector_dim=256.json"):
        history.append(with_course(new, history)[0])
    return history


def texts(figure):
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    return [axes.get_title(loc="left") for axes in figure.axes], legend


@pytest.mark.parametrize("count", [1, 3, 6, 7, 40])
def test_earlier_spectra_lie_faint_behind(count):
    earlier = [record(global_step=step, epoch=step) for step in range(count)]
    [axes] = spectrum_figure(record(global_step=99), earlier).axes
    spectrum, line, *behind = axes.get_lines()
    assert len(behind) == min(count, 6)
    assert all(older.get_alpha() < 0.6 and older.get_zorder() < 3 for older in behind)
    fading = [older.get_alpha() for older in behind]
    assert fading == sorted(fading)
    assert (spectrum.get_zorder(), line.get_zorder()) == (3, 3)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"steps 0 … {count - 1}" in labels


def test_the_course_of_a_failing_training():
    history = told("1.0")
    figure = course_figure(history)
    titles, legend = texts(figure)
    assert titles == [
        "backbone, failing (step 2,000)\nα = 2.522, drift -0.04",
        "val_loss",
        "RankMe",
    ]
    assert {"target 1", "untrained 1.63", "warming up", "failing"} < set(legend)
    assert [entry for entry in legend if entry.startswith("keep")] == ["keep step 100"]
    alphas = figure.axes[0].get_lines()[0]
    np.testing.assert_array_equal(alphas.get_xdata(), [r.global_step for r in history])
    np.testing.assert_array_equal(alphas.get_ydata(), [r.alpha for r in history])
    [rankme] = figure.axes[2].get_lines()
    np.testing.assert_array_equal(rankme.get_ydata(), [r.scores["rankme"] for r in history])
    assert figure.get_size_inches()[0] * figure.dpi == 480  # fits a card without much shrinking


def test_the_phases_of_a_healthy_training():
    _, legend = texts(course_figure(told("0.03"), target=(1.5, 2.0)))
    assert {"settling", "settled", "target 1.5 to 2", "keep step 1,000"} < set(legend)
    assert legend.count("settled") == 1
    assert "failing" not in legend


@pytest.mark.parametrize(
    ("values", "titles"),
    [
        ({}, ["backbone (step 10)\nα = 1.250"]),
        ({"metrics": {"train_loss": 2.0}}, ["backbone (step 10)\nα = 1.250", "train_loss"]),
        (
            {"metrics": {"train_loss": 2.0, "val_twins_loss": 1.0, "val_loss": 3.0, "lr": 0.1}},
            ["backbone (step 10)\nα = 1.250", "val_loss"],
        ),
        ({"alpha": None, "fit_range": None}, ["backbone (step 10)\nα = nan"]),
        ({"metrics": {"val_loss": float("nan")}}, ["backbone (step 10)\nα = 1.250"]),
        ({"stderr": None, "untrained_alpha": 1.0}, ["backbone (step 10)\nα = 1.250"]),
    ],
)
def test_a_course_of_little_is_drawn_too(values, titles):
    for history in (
        [record(global_step=10, **values)],
        [record(), record(global_step=10, **values)],
    ):
        figure = course_figure(history)
        figure.canvas.draw()
        assert texts(figure)[0] == titles


def test_a_course_is_drawn_in_the_order_of_its_steps():
    history = told("0.03")
    shuffled = course_figure([history[3], *history[:3], *history[4:]])
    steps = shuffled.axes[0].get_lines()[0].get_xdata()
    np.testing.assert_array_equal(steps, sorted(steps))


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
    assert [image.step for image in events.Images("val_alpha_course_backbone")] == steps[1:]
    assert not list(tmp_path.rglob("*.png"))


def test_figures_lie_where_their_scalars_do_between_validations_too(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, logger, dataloader=unlabeled_loader(), at_steps=[0, 3, 7])
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    steps = [event.step for event in events.Scalars("val_alpha")]
    assert steps == [0, 3, 4, 7, 9]
    assert [image.step for image in events.Images("val_alpha_spectrum_backbone")] == steps


def test_pictures_of_a_checkpoint_lie_at_the_step_of_its_weights(tmp_path):
    keep = pl.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    loaders = labelled_loader(), labelled_loader(seed=5)
    options = {"enable_checkpointing": True}
    make_trainer(tmp_path, AlphaMonitor(), keep, **options).fit(TinyModule(), *loaders)
    logger = TensorBoardLogger(tmp_path / "validated")
    trainer = make_trainer(tmp_path, AlphaMonitor(), logger=logger)
    trainer.validate(TinyModule(), loaders[1], ckpt_path=tmp_path / "last.ckpt", verbose=False)
    events = EventAccumulator(logger.log_dir).Reload()
    assert [image.step for image in events.Images("val_alpha_spectrum_backbone")] == [9]


@pytest.mark.parametrize(("share", "drawn"), [(0.05, [9, 29]), (1e9, [9, 14, 19, 24, 29])])
def test_a_course_is_drawn_when_measuring_took_many_times_as_long(
    tmp_path, monkeypatch, share, drawn
):
    monkeypatch.setattr(loggers, "COURSE_SHARE", share)
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(tmp_path, AlphaMonitor(), logger=logger, max_epochs=6)
    trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    # The first, since what it costs is not known before; and the last, since it has all.
    assert [image.step for image in events.Images("val_alpha_course_backbone")] == drawn


def test_a_spectrum_costs_as_much_after_a_thousand_measurements(monkeypatch):
    read = []
    shares = AlphaRecord.shares.fget
    monkeypatch.setattr(AlphaRecord, "shares", property(lambda r: read.append(r) or shares(r)))
    history = told("0.03") * 200
    spectrum_figure(history[-1], history[:-1])
    assert len(read) <= 3 + EARLIER_SPECTRA  # of the newest: its points, and its line


def layout_of(logger):
    """What TensorBoard's own plugin makes of the event files: the last layout of a run counts."""
    if version.parse(tensorboard.__version__) < version.parse("2.17"):
        pytest.skip("its plugin does not work with the protobuf of today")
    multiplexer = EventMultiplexer().AddRunsFromDirectory(logger.log_dir).Reload()
    provider = MultiplexerDataProvider(multiplexer, logger.log_dir)
    plugin = CustomScalarsPlugin(TBContext(data_provider=provider, logdir=logger.log_dir))
    return plugin.layout_impl(RequestContext(), "")


def test_tensorboard_shows_alpha_beside_the_loss(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(tmp_path, logger, layer=["backbone", "backbone.3"])
    [category] = json.loads(layout_of(logger))["category"]
    assert category["title"] == "val_alpha beside the loss"
    charts = {chart["title"]: chart["multiline"]["tag"] for chart in category["chart"]}
    assert list(charts) == ["α", "R²", "loss", "RankMe"]
    scalars = EventAccumulator(logger.log_dir).Reload().Tags()["scalars"]
    shown = {
        title: [key for tag in tags for key in scalars if re.match(tag, key)]
        for title, tags in charts.items()
    }
    layers = ["", "_backbone_3"]
    assert shown["α"] == [f"val_{n}{e}" for e in layers for n in ("alpha", "alpha_distance")]
    assert shown["R²"] == [f"val_alpha_r2{end}" for end in layers]
    assert sorted(shown["loss"]) == ["train_loss", "val_loss"]
    assert shown["RankMe"] == [f"val_rankme{end}" for end in layers]


@pytest.mark.parametrize("after", [False, True])
def test_a_layout_of_the_users_own_stays(tmp_path, after):
    class Own(pl.Callback):
        def on_train_end(self, trainer, pl_module):
            trainer.logger.experiment.add_custom_scalars(theirs)

    theirs = {"mine": {"loss": ["Multiline", ["val_loss"]]}}
    logger = TensorBoardLogger(tmp_path)
    if not after:
        logger.experiment.add_custom_scalars(theirs)
    callbacks = [AlphaMonitor(), *([Own()] if after else [])]
    make_trainer(tmp_path, *callbacks, logger=logger).fit(
        TinyModule(), labelled_loader(), labelled_loader(seed=5)
    )
    assert [c["title"] for c in json.loads(layout_of(logger))["category"]] == ["mine"]


def test_mlflow_gets_figures_and_scalars(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.chdir(tmp_path)
    logger = MLFlowLogger(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=str(tmp_path / "files")
    )
    monitor = fit(tmp_path, logger)
    assert len(list((tmp_path / "files").rglob("val_alpha_spectrum_backbone/step=*.png"))) == 2
    assert len(list((tmp_path / "files").rglob("val_alpha_course_backbone.png"))) == 1
    values = logger.experiment.get_metric_history(logger.run_id, "val_alpha")
    assert [v.value for v in values] == pytest.approx([r.alpha for r in monitor.history], rel=1e-6)


def test_wandb_gets_figures_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit(tmp_path, WandbLogger(save_dir=tmp_path, offline=True))
    wandb.finish()
    pictures = list((tmp_path / "wandb").rglob("media/images/val_alpha_spectrum_backbone*.png"))
    assert len(pictures) == 2
    assert len(list((tmp_path / "wandb").rglob("images/val_alpha_course_backbone*.png"))) == 1


def test_wandb_gets_the_spectrum_of_each_validation_as_lines(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    sent = []
    monkeypatch.setattr(
        logger, "log_metrics", lambda metrics, step=None: sent.append((step, metrics))
    )
    monitor = fit(tmp_path, logger)
    wandb.finish()
    name = "val_alpha_spectrum_backbone_lines"
    charts = [(step, metrics[name]) for step, metrics in sent if name in metrics]
    assert [step for step, _ in charts] == [r.global_step - 1 for r in monitor.history]
    pictures = [step for step, metrics in sent if "val_alpha_spectrum_backbone" in metrics]
    assert pictures == [step for step, _ in charts]  # one slider moves both
    for (_, chart), measured in zip(charts, monitor.history, strict=True):
        assert chart.table.columns == ["step", "lineKey", "lineVal"]
        lines = {
            key: np.array([(x, y) for x, line, y in chart.table.data if line == key])
            for key in ("eigenvalues", "fit")
        }
        ranks = 10 ** lines["eigenvalues"][:, 0]
        np.testing.assert_allclose(ranks, np.arange(1, len(measured.shares) + 1))
        np.testing.assert_allclose(10 ** lines["eigenvalues"][:, 1], measured.shares)
        (x0, y0), (x1, y1) = lines["fit"]
        assert (y1 - y0) / (x1 - x0) == pytest.approx(-measured.alpha, rel=1e-9)


def test_a_long_spectrum_is_thinned_for_wandb():
    pytest.importorskip("wandb")

    class Logger:
        log_table = sent = None

        def log_metrics(self, metrics, step):
            self.sent = metrics["spectrum"].table.data

    wandb_logger = Logger()
    long = record(eigenvalues=tuple(float(n**-1.25) for n in range(1, 2049)))
    loggers.publish_lines(SimpleNamespace(loggers=[wandb_logger, object()]), "spectrum", long, 7)
    points = [(10**x, 10**y) for x, key, y in wandb_logger.sent if key == "eigenvalues"]
    assert len(points) <= 200
    np.testing.assert_allclose(points[:10], [(n, n**-1.25) for n in range(1, 11)])
    np.testing.assert_allclose(points[-1], (2048, 2048**-1.25))


def test_png_for_loggers_that_show_none(tmp_path):
    logger = CSVLogger(tmp_path)
    fit(tmp_path, logger)
    assert len(list(tmp_path.rglob("val_alpha_spectrum_backbone-epoch=1-step=10.png"))) == 1
    assert len(list(tmp_path.rglob("val_alpha_course_backbone*.png"))) == 1


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
    with pytest.warns(OutputWarning, match="a figure of α was lost: .*No space left"):
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
