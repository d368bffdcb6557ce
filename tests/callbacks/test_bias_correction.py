"""`AlphaMonitor(bias_correction=)`: what is logged, kept, and said when there is none."""

import json
import math

import pytest
import torch

from alphareq_lightning import AlphaMonitor, AlphaRecord, OptionError
from alphareq_lightning.errors import NoFitWarning
from alphareq_lightning.functional import correct_alpha, eigenspectrum, spectrum
from alphareq_lightning.functional.moments import feature_moments
from alphareq_lightning.measure.measurement import correct, measure
from alphareq_lightning.metrics import StreamingMoments
from alphareq_lightning.metrics.scores import Seen

from tiny import TinyModule, images, labelled_loader, make_trainer

pytestmark = pytest.mark.filterwarnings(
    "ignore::alphareq_lightning.errors.PoorFitWarning",
    "ignore::alphareq_lightning.errors.UndersampledWarning",
    "ignore:.*num_workers.*",
)
KEYS = {"val_alpha_corrected", "val_alpha_stderr"}


def fit(tmp_path, monitor, n=320):
    torch.manual_seed(0)
    module = TinyModule()
    trainer = make_trainer(tmp_path, monitor, max_epochs=1)
    trainer.fit(module, labelled_loader(), labelled_loader(n, seed=5))
    module.eval()
    with torch.no_grad():
        features = module.backbone(images(n, seed=5))
    return trainer.callback_metrics, monitor.history[-1], features


def test_logs_and_keeps_the_corrected_alpha(tmp_path):
    logged, record, x = fit(tmp_path, AlphaMonitor(bias_correction="inversion"))
    expected = correct_alpha(eigenspectrum(x), num_samples=320, num_features=48)
    assert record.bias_correction == "inversion"
    assert record.alpha_corrected == pytest.approx(expected.alpha.item(), rel=1e-4)
    assert record.alpha_stderr == pytest.approx(expected.stderr.item(), rel=1e-3)
    assert logged["val_alpha_corrected"].item() == pytest.approx(record.alpha_corrected, rel=1e-6)
    assert logged["val_alpha_stderr"].item() == pytest.approx(record.alpha_stderr, rel=1e-6)
    # The plain α is untouched, and the record outlives JSON.
    assert record.alpha == pytest.approx(expected.raw.alpha.item(), rel=1e-5)
    assert AlphaRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_no_spectrum_is_solved_and_no_state_is_summed_twice(tmp_path, monkeypatch):
    counted = []

    def counting(name, function):
        def counted_function(*args, **kwargs):
            counted.append(name)
            return function(*args, **kwargs)

        return counted_function

    monkeypatch.setattr(spectrum, "solve_symmetric", counting("solve", spectrum.solve_symmetric))
    monkeypatch.setattr(StreamingMoments, "reduced", counting("reduce", StreamingMoments.reduced))
    monitor = AlphaMonitor(bias_correction="inversion", scores=[])
    _, record, _ = fit(tmp_path, monitor)
    assert math.isfinite(record.alpha_corrected)
    assert (counted.count("solve"), counted.count("reduce")) == (1, 1)


def test_nothing_is_added_when_it_is_not_asked_for(tmp_path):
    logged, record, _ = fit(tmp_path, AlphaMonitor())
    assert not KEYS & set(logged)
    assert record.alpha_corrected is record.alpha_stderr is record.bias_correction is None
    old = {k: v for k, v in record.to_dict().items() if not k.startswith(("alpha_", "bias_"))}
    assert AlphaRecord.from_dict(old) == record


def test_an_outlier_direction_is_nan_and_one_warning():
    population = torch.arange(1, 513, dtype=torch.float64) ** -0.5
    population[0] *= 100
    x = torch.randn(256, 512, generator=torch.manual_seed(0), dtype=torch.float64)
    seen = Seen(feature_moments(x * population.sqrt()))
    record, problem = correct(measure(seen, "auto", ()), seen, "inversion")
    assert "no α corrected by 'inversion': " in problem
    assert "comes out rising" in problem
    assert math.isfinite(record.alpha)
    assert math.isnan(record.alpha_corrected)
    assert math.isnan(record.alpha_stderr)


def test_without_a_fit_both_are_nan(tmp_path):
    monitor = AlphaMonitor(bias_correction="inversion")
    with pytest.warns(NoFitWarning, match="needs at least 30 attainable ranks"):
        logged, record, _ = fit(tmp_path, monitor, n=20)
    assert all(math.isnan(logged[key].item()) for key in KEYS)
    assert math.isnan(record.alpha_corrected)


def test_unknown_correction():
    with pytest.raises(OptionError, match="'inversion', which is .* got 'richardson'"):
        AlphaMonitor(bias_correction="richardson")
