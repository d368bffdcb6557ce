"""The picture of the README shows the trainings that are stored."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def study_at_hand(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))


def test_the_figure_of_the_course_marks_the_choice_and_the_failures():
    from study.records import records_of
    from study.verdicts import courses_figure

    folder = ROOT / "study" / "results" / "turned"
    files = sorted(folder.glob("*.json"))
    alphas, accuracies = courses_figure(folder).axes
    assert len(alphas.lines) == len(accuracies.lines) == len(files) == 5
    for line, shown, file in zip(alphas.lines, accuracies.lines, files, strict=True):
        records = records_of(file)
        assert list(line.get_ydata()) == [record.alpha for record in records]
        read = [record.accuracy for record in records if record.accuracy is not None]
        assert list(shown.get_ydata()) == read
    labels = [line.get_label() for line in accuracies.lines]
    best = max(accuracies.lines, key=lambda line: line.get_ydata()[-1])
    assert [label for label in labels if label.endswith(", chosen")] == [best.get_label()]
    assert [label for label in labels if "failing" in label] == [
        "λ = 0.2, failing",
        "λ = 1.0, failing",
    ]
