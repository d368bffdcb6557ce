"""What another seed changes, and how configurations with several seeds are chosen from."""

import random

import numpy as np
import pytest
from planted_trainings import FAILING, SLOW, training, trainings

from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.selection import configurations_of, trainings_of, verdict
from alphareq_lightning.selection.seeds import spread_between_seeds


def grid(values, seeds, noise, rng):
    """Trainings of one λ each, whose error and RankMe scatter by a known share between seeds."""
    records, configurations = [], {}
    for number, value in enumerate(values):
        for seed in range(seeds):
            run = f"{number}/seed={seed}"
            error, rank = (value * (1 + rng.gauss(0, noise)) for _ in range(2))
            records += training(run, error=error, rankme=10 / rank)
            configurations[run] = str(number)
    return records, configurations


def test_the_pooled_spread_is_that_of_every_configuration_about_its_mean():
    values, groups = np.array([1.0, 3.0, 10.0, 14.0, 99.0]), [[0, 1], [2, 3], [4]]
    spread = spread_between_seeds(values, groups, relative=False)
    assert spread.degrees == 2
    assert spread.sd == pytest.approx(np.sqrt((2 + 8) / 2))
    shares = spread_between_seeds(-values, groups, relative=True)
    assert shares.sd == pytest.approx(np.sqrt((2 / 4 + 8 / 144) / 2))


@pytest.mark.parametrize("noise", [0.005, 0.03])
def test_planted_noise_is_measured_and_replaces_the_constant(noise):
    rng = random.Random(1)
    records, configurations = grid([0.1, 0.2, 0.4, 0.8], 5, noise, rng)
    found = verdict(records, configurations=configurations)
    assert found.spread["twins_error"] == pytest.approx(noise, rel=0.5)  # 16 degrees of freedom
    # Two configurations that differ by 4 %: as much as a rerun if it were 5 %.
    records, configurations = grid([0.100, 0.104, 0.2, 0.4], 5, noise, rng)
    ties = verdict(records, configurations=configurations).ties
    assert any(r.run.startswith("1/") for r in ties) == (noise == 0.03)


def test_configurations_that_are_alike_are_rarely_told_apart():
    rng = random.Random(2)
    apart = 0
    for _ in range(60):
        records, configurations = grid([0.1, 0.1], 2, 0.02, rng)
        ties = verdict(records, configurations=configurations).ties
        apart += len(ties) < 3
    assert apart <= 6  # 5 % of 60 by each of two scores, of which both have to say so


def test_the_mean_of_a_configuration_decides_and_not_its_luckiest_seed():
    lucky = [
        training(f"a/seed={i}", error=e, rankme=1 / e) for i, e in enumerate((0.05, 0.3, 0.31))
    ]
    steady = [
        training(f"b/seed={i}", error=e, rankme=1 / e) for i, e in enumerate((0.1, 0.11, 0.1))
    ]
    records = trainings(*lucky, *steady)
    alone = verdict(records, configurations={})
    assert alone.choice.run == "a/seed=0"
    assert verdict(records).choice.run.startswith("b/")


def test_the_other_seeds_of_the_choice_are_ties():
    records = [r for s in range(3) for r in training(f"a/seed={s}", error=0.1 + s / 100)]
    records += [r for s in range(3) for r in training(f"b/seed={s}", error=9.0, rankme=5.0)]
    found = verdict(records)
    assert found.choice.run == "a/seed=0"
    assert [r.run for r in found.ties] == ["a/seed=1", "a/seed=2"]


def test_seeds_of_one_configuration_are_not_chosen_from():
    found = verdict([r for s in range(4) for r in training(f"a/seed={s}", error=0.1 + s / 10)])
    assert len(found.ties) == 3
    assert "seeds of one configuration" in found.advice


def test_a_seed_that_has_turned_is_enough_and_is_the_choice():
    better = training("a/seed=0", SLOW, error=0.1, rankme=60.0)
    records = trainings(better, training("a/seed=1", error=0.11), training("b", error=0.4))
    configurations = {"a/seed=0": "a", "a/seed=1": "a"}
    found = verdict(records, configurations=configurations)
    assert found.choice.run == "a/seed=1"
    assert "a/seed=0" in [r.run for r in found.ties]
    alone = trainings(better, training("b", error=0.4, rankme=30.0))
    assert verdict(alone).choice is None


def test_a_configuration_of_which_a_seed_fails_is_a_doubt():
    good = [training(f"a/seed={s}", error=0.1) for s in range(2)]
    worse = [training(f"b/seed={s}", error=0.9, rankme=2.0) for s in range(2)]
    found = verdict(trainings(*good, *worse, training("a/seed=7", FAILING)))
    assert found.choice.run == "a/seed=0"
    assert "1 of 3 trainings of the choice's configuration" in " ".join(found.doubts)


def test_seeds_unknown_has_a_sentence():
    found = verdict(trainings(training("a"), training("b", error=0.3, rankme=9.0)))
    assert found.spread == {}
    assert "no configuration was trained with several seeds" in found.doubts[-1]
    assert not any("seeds" in doubt for doubt in verdict(training("a")).doubts)


def test_seeds_are_told_by_the_folders_and_only_if_they_differ():
    def named(*folders):
        records = trainings(*(training(folder) for folder in folders))
        return configurations_of(trainings_of(records))

    found = named("x/lambd=1/seed=0", "x/lambd=1/seed=1", "x/lambd=2/seed=0")
    assert found["x/lambd=1/seed=0"] == found["x/lambd=1/seed=1"] != found["x/lambd=2/seed=0"]
    assert len(set(named("a_seed3", "a_Seed-4", "b-seed_3").values())) == 2
    assert named("a", "b") == {}
    # A word that is in the way of all trainings alike is no seed of theirs.
    records = trainings(training("a"), training("b"))
    flat = [type(r)(**{**vars(r), "path": f"home/seed42/{r.run}.ckpt"}) for r in records]
    assert configurations_of(trainings_of(flat)) == {}


def test_another_pattern_may_tell_seeds():
    records = trainings(training("a-s1"), training("a-s2"), training("b-s1"))
    assert len(set(configurations_of(trainings_of(records), r"-s\d").values())) == 2
    with pytest.raises(OptionError, match=r"expected a regular expression, got '\('"):
        configurations_of(trainings_of(records), "(")


def test_a_training_that_is_not_there_has_no_configuration():
    with pytest.raises(SelectionError, match="no training 'c'; there are: a, b"):
        verdict(trainings(training("a"), training("b")), configurations={"c": "x"})


def test_the_spread_is_printed_and_in_json():
    records = [r for s in range(3) for r in training(f"a/seed={s}", error=0.1 + s / 100)]
    records += [r for s in range(3) for r in training(f"b/seed={s}", error=9.0, rankme=5.0)]
    found = verdict(records)
    [line] = [line for line in found.lines() if line.startswith("another seed changes")]
    assert "twins_error by 6.4 %" in line
    assert found.to_dict()["spread"]["twins_error"] == pytest.approx(0.0643, abs=1e-3)


def test_a_configuration_may_name_a_training_without_a_straight_line():
    records = trainings(training("a"), training("b", error=0.3), training("c", r2=0.9))
    found = verdict(records, min_r2=0.95, configurations={"a": "x", "c": "x"})
    assert found.choice.run == "a"
    assert set(found.courses) == {"a", "b"}
