import pytest

from alphareq_lightning import AlphaMonitor, OptionError
from alphareq_lightning.errors import FitRangeError

from tiny import TinyModule, labelled_loader, make_trainer


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fit_range": None}, "got fit_range=None"),
        ({"fit_range": 7}, "got fit_range=7"),
        ({"target": None}, "got None"),
        ({"target": ("a", "b")}, r"got \('a', 'b'\)"),
        ({"prefix": None}, "expected a string, got prefix=None"),
        ({"scores": None}, "expected a list of names, got scores=None; there are: rankme"),
        ({"every_n_epochs": "2"}, "expected an integer every_n_epochs >= 1, got .*'2'"),
        ({"every_n_epochs": 1.5}, "got every_n_epochs=1.5"),
        ({"max_samples": 1.5}, "got max_samples=1.5"),
        ({"max_samples": True}, "got max_samples=True"),
        ({"dataloader_idx": -1}, "expected an integer dataloader_idx >= 0"),
        ({"layer": 5}, "list of different names, got layer=5"),
        ({"layer": []}, r"got layer=\[\]"),
        ({"layer": ["fc", "fc"]}, r"got layer=\['fc', 'fc'\]"),
        ({"layer": ["a.b", "a_b"]}, "list of different names"),
    ],
)
def test_options_of_the_wrong_type_are_refused_in_our_words(options, text):
    with pytest.raises((OptionError, FitRangeError), match=text):
        AlphaMonitor(**options)


def test_one_score_by_name():
    assert AlphaMonitor(scores="rankme").scores == ("rankme",)


def test_a_tuple_of_layers_continues_the_history_of_a_list():
    names = ["backbone", "backbone.1"]
    assert AlphaMonitor(tuple(names)).state_key == AlphaMonitor(names).state_key


def test_two_monitors_may_not_log_under_one_key(tmp_path):
    trainer = make_trainer(tmp_path, AlphaMonitor("backbone"), AlphaMonitor("backbone.1"))
    with pytest.raises(OptionError, match="under one key, val_alpha; give one .* prefix="):
        trainer.fit(TinyModule(), labelled_loader(), labelled_loader(seed=5))


def test_a_module_that_logs_the_same_key_is_told_before_training(tmp_path):
    class Logs(TinyModule):
        def on_validation_epoch_end(self):
            self.log("val_alpha", 1.0)

        def on_train_batch_start(self, batch, batch_idx):
            pytest.fail("training had begun")

    with pytest.raises(OptionError, match="logs val_alpha too, .* another prefix= than 'val_'"):
        make_trainer(tmp_path, AlphaMonitor()).fit(
            Logs(), labelled_loader(), labelled_loader(seed=5)
        )
