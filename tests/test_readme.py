"""The README's Python is run, its commands are parsed."""

import re
import shlex
import time
from pathlib import Path

import pytest

import alphareq_lightning
from alphareq_lightning.commands.main import command_parser, main
from alphareq_lightning.commands.rank import NO_CHOICE

from tiny import TinyModule, labelled_loader, unlabeled_loader

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_python_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {
        "model": TinyModule(),
        "train_loader": labelled_loader(),
        "val_loader": labelled_loader(seed=5),
        "unlabeled_loader": unlabeled_loader(),
    }
    assert len(blocks("python")) == 4
    for block in blocks("python"):
        exec(block, names)
    output = capsys.readouterr().out
    assert "kept/epoch=" in output
    assert "AlphaReQ" in output
    assert len(list(Path("kept").glob("epoch=*-val_alpha=*.ckpt"))) == 3


def test_the_callback_fits_in_twelve_lines():
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 12


def test_train_commands_parse(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    commands = re.findall(r"^alphareq (train .*)$", README, flags=re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        arguments = command.split("#")[0].split()
        where = 2 if arguments[1] in ("fit", "validate") else 1
        arguments.insert(where, "--print_config")
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code in (0, None), command
    assert "AlphaMonitor" in capsys.readouterr().out


def test_files_that_the_readme_shows_exist():
    for path in re.findall(r"\]\(((?:docs|configs|benchmarks)/[^)]+)\)", README):
        assert (ROOT / path).is_file(), path
    for path in re.findall(r"`(?:pytest |python )?(tests/[\w/.]+)", README):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"configs/\w+\.yaml", README):
        assert (ROOT / path).is_file(), path


def commands_of(text):
    lines = re.findall(r"^(?:alphareq) (.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_parses():
    commands = [c for block in blocks("bash") for c in commands_of(block) if c[0] != "train"]
    assert {c[0] for c in commands} == {
        "demo",
        "rank",
        "score",
        "select",
        "report",
        "sweep",
        "profile",
    }
    for command in commands:
        command_parser(command[0]).parse_args(command)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_from_alpha_to_a_decision_in_ten_minutes(tmp_path, monkeypatch, capsys):
    [block] = [b for b in blocks("bash") if "alphareq select" in b]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    started = time.perf_counter()
    for command in commands_of(block):
        assert main(command) in (0, NO_CHOICE), command
    output = capsys.readouterr().out
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} minutes")
    for text in ("verdict: ", "caution", "records: runs/records.jsonl", "saved", "report.html"):
        assert text in output
    assert "20 of 20 configurations done" in output.replace("\n", " ")


def test_every_public_name_is_explained():
    pages = [README, *(page.read_text() for page in (ROOT / "docs").glob("*.md"))]
    explained = set(re.findall(r"`(\w+)", " ".join(pages)))
    assert set(alphareq_lightning.__all__) <= explained
