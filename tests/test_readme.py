"""The README's Python is run, its commands are parsed."""

import re
from pathlib import Path

import pytest

from alphareq_lightning.cli import main

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
    for path in re.findall(r"configs/\w+\.yaml", README):
        assert (ROOT / path).is_file(), path
