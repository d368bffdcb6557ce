"""The page of the long study: with two trainings, with all of them, and the committed one."""

import json
import re

import matplotlib
import pytest

from alphareq_lightning.selection import verdict
from study import mended, report, run, table
from study.hypotheses import LAST, trainings_of
from study.records import records_of

from planted_study import READ, STEPS, grid_of, planted, put, seeds, turned_around

PLANNED = sum(table.PLANNED.values())
LAMBDAS = (0.000412, 0.00169, 0.00697, 0.0287, 0.118, 0.486)
KINDS = ((1e-4, 1024), (1e-4, 64), *((lambd, 256) for lambd in LAMBDAS))
BASES = [
    table.RESULTS / "barlow_twins" / f"lambd={lambd},projector_dim={width}.json"
    for lambd, width in KINDS
]
"""Always these, whatever more is committed: half of them have turned, and there is a choice."""


def study(folder, experiments, most=99):
    """Results of every planned training, made of the committed ones."""
    number = 0
    for name in experiments:
        config = run.read_experiment(run.CONFIGS / f"{name}.yaml")
        for params in list(run.planned(config))[:most]:
            values = json.loads(BASES[number % len(BASES)].read_text(encoding="utf-8"))
            own = {key.partition(".")[2]: value for key, value in params.items()}
            values["hyperparameters"] |= own
            values |= {"experiment": name, "params": params, "images": config["images"]}
            values["seed"] = params.get("seed_everything", 0)
            for row in values["steps"]:
                if "readout" in row:  # no two are alike
                    row["readout"]["top1"] += 0.01 * number
            path = run.of_training(folder, name, params)
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(values), encoding="utf-8")
            number += 1


def headings(text):
    return re.findall(r"^## (.*)$", text, flags=re.MULTILINE)


def test_the_page_with_two_trainings(tmp_path):
    study(tmp_path, ["barlow_twins"], most=2)
    rows = table.table(tmp_path)
    text = report.page(rows, report.all_answers(tmp_path), tmp_path)
    assert f"**Preliminary: 2 of 24 trainings of the grid, 2 of {PLANNED} of the study." in text
    assert "Not decided yet. At step 4,000" in text
    assert not {"Budgets", "Seeds", "A wider network"} & set(headings(text))
    outcomes = [line.split(" | ")[3] for line in text.splitlines() if re.match(r"\| H\d", line)]
    assert len(outcomes) == 19
    assert all(outcome.startswith("preliminary, 2 of 24; now: ") for outcome in outcomes)
    for draw in report.DRAWINGS.values():
        assert draw(rows).axes


def test_the_page_with_all_trainings(tmp_path):
    study(tmp_path, run.ORDER)
    rows = table.table(tmp_path)
    text = report.page(rows, report.all_answers(tmp_path), tmp_path)
    assert "reliminary" not in text
    assert f"All {PLANNED} planned trainings are there." in text
    assert "On a GPU, and on_cpu" in headings(text)
    assert ": ." not in text  # a part of which nothing is told
    assert {
        "Budgets",
        "Seeds",
        "A wider network",
        "Other kinds of learning: the sign of ρ",
        "The hypotheses: projector 1,024 alone",
        "The hypotheses: tiny_imagenet",
    } <= set(headings(text))
    for experiment, count in table.PLANNED.items():
        assert f"| {experiment} | {count} of {count} |" in text
    assert len(report.draw_courses(rows).axes) == 6  # two sets of images: two windows and colours


def test_the_verdict_beside_h3_is_that_of_the_package(tmp_path):
    study(tmp_path, ["barlow_twins"])
    paths = sorted((tmp_path / "barlow_twins").glob("*.json"))
    found = verdict([record for path in paths for record in records_of(path)])
    ends = [json.loads(path.read_text())["steps"][-1]["readout"]["top1"] for path in paths]
    lost = max(ends) - found.choice.accuracy
    text = report.product(grid_of(table.table(tmp_path)), tmp_path)
    assert f"loses {lost:.2f} points; the choice and its ties, {1 + len(found.ties)} of all" in text
    answer = report.answers_of(tmp_path, "barlow_twins")[LAST]
    assert answer.lost == pytest.approx(lost)
    assert answer.at_random == pytest.approx(max(ends) - sum(ends) / len(ends))
    few = grid_of(table.table(tmp_path))
    for path in paths:
        values = json.loads(path.read_text())
        values["steps"] = values["steps"][:3]  # too early for any to have turned
        path.write_text(json.dumps(values))
    assert report.product(few, tmp_path).endswith("H3 has no choice.")


def test_what_the_verdict_says_at_each_length():
    told = {
        200: report.Answer(None, {"a": 40.0, "b": 50.0, "c": 52.13}),
        1000: report.Answer("b", {"a": 30.0, "b": 51.7, "c": 52.0}),
        4000: report.Answer("c", {"a": 30.0, "b": 30.0, "c": 49.2}),
    }
    [_, _, line] = report.asked({"barlow_twins": told, "seeds": {}})
    assert line == "| barlow_twins | – (4.8) |  | 0.3 (7.4) |  | 0.0 (12.8) |"
    sentence = report.early_and_late(told)
    assert "after 200 steps it makes no choice; after 1,000, 4,000 it loses 0.3, 0.0" in sentence
    assert "points (7.4, 12.8)" in sentence


def test_a_choice_that_could_not_be_read_out_loses_all(tmp_path):
    study(tmp_path, ["barlow_twins"])
    paths = sorted(tmp_path.glob("*/*.json"))
    found = verdict([record for path in paths for record in records_of(path)])
    path = tmp_path / f"{found.choice.run}.json"
    values = json.loads(path.read_text())
    values["steps"][-1]["readout"]["top1"] = None
    path.write_text(json.dumps(values))
    ends = [records_of(path)[-1].accuracy for path in paths]
    best = max(accuracy for accuracy in ends if accuracy is not None)
    answer = report.answers_of(tmp_path, "barlow_twins")[LAST]
    mean = sum(accuracy or 0 for accuracy in ends) / len(ends)
    assert (answer.lost, answer.at_random) == (best, pytest.approx(best - mean))


def test_committed_page_is_what_the_committed_code_makes_of_the_committed_results():
    text, rows = report.PAGE.read_text(encoding="utf-8"), table.table()
    told = report.all_answers()
    assert report.page(rows, told) == text, "run make study-report"
    assert "\n".join(report.chosen(rows, told)) in report.README.read_text(encoding="utf-8")
    pictures = set(re.findall(r"\]\((\w+\.png)\)", text))
    assert pictures == {f"long_study_{name}.png" for name in report.DRAWINGS}
    assert all(report.PAGE.with_name(name).is_file() for name in pictures)


def test_the_readme_says_of_what_the_verdict_makes_no_choice():
    text = report.PAGE.read_text(encoding="utf-8").split("## The verdict, asked at each length")[1]
    rows = [line.split(" | ") for line in text.split("##")[0].splitlines()]
    asked = {cells[0].removeprefix("| "): cells[1:] for cells in rows}
    assert "after 200 or 400 it makes no choice of any of them" in report.README.read_text()
    early = [cell for name in report.CHOSEN for cell in asked.get(name, [])[:2]]
    assert len(early) >= 10
    assert all(cell.startswith("– (") for cell in early)
    assert all(cell.startswith("– (") for cell in asked["simclr"])  # "Of SimCLR … none at all"
    assert asked["rate_decay"][-1].startswith("– (")  # "Of other learning rates … none at the end"


def nearest_loses(rows):
    """α of a poor model and of the best change places at the end."""
    turned_around(rows, "alpha", (4000,), (12, 20))


def around(name):
    return lambda rows: turned_around(rows, name, (4000,))


def nothing_known(rows):
    order = [11, 3, 17, 8, 22, 0, 14, 5, 19, 9, 1, 23, 12, 6, 20, 15, 2, 10, 18, 4, 13, 21, 7, 16]
    put(rows, "alpha", lambda row, n: 1.5 + order[n] / 100, (4000,))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: None, "At the end of these trainings, yes. At step 4,000"),
        (nearest_loses, "Not alone. At step 4,000"),
        (around("alpha"), "No: its sign is wrong. At step 4,000"),
        (nothing_known, "Nothing is certain about it. At step 4,000"),
        (
            lambda rows: None,
            "From step 2,000 on ρ stays above 0, 0.99 [0.94, 1.00] there; at step 100 it is −1.00",
        ),
        (around("alpha"), "At no step does ρ turn for good"),
        (lambda rows: None, "A turned α tells which trainings learn: balanced accuracy 1.00"),
        (
            lambda rows: put(rows, "phase", lambda row, n: "settled", (4000,)),
            "A turned α does not tell well which trainings learn: balanced accuracy 0.50",
        ),
        (
            lambda rows: put(rows, "top1", lambda row, n: 60.0, (4000,)),
            "Whether a turned α tells which trainings learn is not tested",
        ),
        (lambda rows: None, "ρ ≥ .7 holds for −E, −SelfCluster. At"),
        (around("twins_error"), "ρ ≥ .7 holds for −SelfCluster. At"),
        (
            lambda rows: [turned_around(rows, n, (400,)) for n in ("twins_error", "selfcluster")],
            "ρ ≥ .7 holds for no other score",
        ),
        (lambda rows: None, "(H3) loses 0.0 points"),
        (
            lambda rows: put(rows, "phase", lambda row, n: "warming up", (4000,)),
            "no training has turned, so H3 makes no choice",
        ),
    ],
)
def test_the_first_sentences_follow_the_figures(change, sentence):
    rows = planted()
    for name in {*report.SCORES} - {*rows[0]}:  # scores that say nothing
        put(rows, name, lambda row, n: 0.0)
    change(rows)
    assert sentence in "\n".join(report.answers(grid_of(rows)))


def test_the_picture_of_choices_shows_what_is_lost():
    rows = planted()
    for name in {*report.SCORES} - {*rows[0]}:
        put(rows, name, lambda row, n: float(-n))
    [axes] = report.draw_choices(rows).axes
    shown = axes.images[0].get_array()
    last = READ.index(LAST) - 1  # from step 100 on
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert shown[labels.index("−E"), last] == 0
    values = [training[LAST]["top1"] for training in grid_of(rows)]
    assert shown[-1, last] == pytest.approx(max(values) - sum(values) / len(values))
    with matplotlib.rc_context(report.SIZES):
        assert len(report.draw_scatter(rows).axes) == len(report.AT)


def test_the_picture_of_courses_marks_untrained_networks_and_what_fails():
    rows = [*planted(), *seeds()]
    put(rows, "rankme", lambda row, n: 20.0 if row["step"] < 400 else 10.0, STEPS, (0, 7))
    every = [*grid_of(rows), *trainings_of(rows, "seeds")]
    for training in every[-6:]:
        training[0]["alpha_2_50"] = 1.3
    [axes, _] = report.draw_seeds(rows).axes
    courses = [line for line in axes.lines if len(line.get_xdata()) == len(STEPS)]
    for training, line in zip(every, courses, strict=True):
        steps = sorted(training)
        alphas = [training[s]["alpha_2_50"] for s in steps]
        assert (list(line.get_xdata()), list(line.get_ydata())) == (steps, alphas)
    dashed = {n for n, line in enumerate(courses) if line.get_linestyle() == "--"}
    assert dashed == {n for n, training in enumerate(every) if mended.failing(training)}
    assert 0 in dashed
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert {line.get_ydata()[0] for line in dotted} == {1.6, 1.3}
