"""The README and the pages of the site: their Python is run, their commands are parsed."""

import ast
import importlib
import inspect
import re
import runpy
import shlex
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

import alphareq_lightning
from alphareq_lightning import AlphaMonitor, errors
from alphareq_lightning.commands.main import command_parser, main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.recipes import BarlowTwins, DigitsDataModule

from tiny import TinyModule, labelled_loader, unlabeled_loader

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]
ELSEWHERE = {"any_loop.md"}
"""Run by tests/measure/test_gauge.py."""


def blocks(language, page=README):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


WITH_PYTHON = [page for page in PAGES if blocks("python", page) and page.name not in ELSEWHERE]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short training, as the pages that begin after one take for granted."""
    folder = tmp_path_factory.mktemp("trained")
    monitor = AlphaMonitor(figures=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=2,
        logger=False,
        callbacks=[monitor, ModelCheckpoint(folder)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(BarlowTwins(backbone_options={"width": 16}), datamodule=DigitsDataModule())
    return folder, monitor


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_blocks_run(page, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, monitor = trained
    names = {
        "model": TinyModule(),
        "train_loader": labelled_loader(),
        "val_loader": labelled_loader(seed=5),
        "unlabeled_loader": unlabeled_loader(),
    }
    if page.stem in ("trust", "python", "select"):
        (tmp_path / "runs").symlink_to(folder)
        names["monitor"] = monitor
    for block in blocks("python", page):
        if page == README:  # pasted alone; two epochs are enough to see that it runs
            names, block = {}, block.replace("max_epochs=20", "max_epochs=2")
        exec(block, names)
    if page.stem == "quickstart":
        assert len(list(Path("kept").glob("epoch=*-val_alpha=*.ckpt"))) == 3


def test_the_readme_is_short_and_the_callback_fits_in_eleven_lines():
    assert len(README.read_text().splitlines()) <= 150
    [block] = blocks("python")
    assert len([line for line in block.splitlines() if line.strip()]) <= 11


def test_train_commands_parse(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", "")
    commands = set(re.findall(r"^alphareq (train .*)$", text, flags=re.MULTILINE))
    assert len(commands) >= 3
    for command in commands:
        arguments = command.split("#")[0].split()
        where = 2 if arguments[1] in ("fit", "validate") else 1
        arguments.insert(where, "--print_config")
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code in (0, None), command
    assert "AlphaMonitor" in capsys.readouterr().out


def test_yaml_blocks_are_configs(tmp_path, capsys):
    [block] = blocks("yaml", DOCS / "recipes.md")
    config = tmp_path / "config.yaml"
    model = "alphareq_lightning.recipes.BarlowTwins"
    config.write_text(yaml.safe_dump({"model": model, **yaml.safe_load(block)}))
    with pytest.raises(SystemExit) as ended:
        main(["train", "--print_config", "--config", str(config)])
    assert ended.value.code in (0, None)
    assert "stable_rank" in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_are_named_exist(page):
    text = page.read_text()
    for path in re.findall(r"\]\(([^)#:]+)\)", text):  # what is included is linked from its place
        assert (page.parent / path).is_file(), path
    for path in re.findall(r"`(?:pytest |python )?((?:tests|study|examples)/[\w/.]+)", text):
        assert (ROOT / path).exists(), path
    for path in re.findall(r"configs/\w+\.yaml", text):
        assert (ROOT / path).is_file(), path


def commands_of(text):
    lines = re.findall(r"^(?:alphareq) (.*)$", text.replace("\\\n", ""), flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_every_command_parses_and_is_shown_and_has_its_help():
    found = [c for page in PAGES for block in blocks("bash", page) for c in commands_of(block)]
    names = set(re.findall(r"^    (\w+)  ", command_parser().format_help(), flags=re.MULTILINE))
    assert {command[0] for command in found} == names
    for command in found:
        if command[0] != "train":
            command_parser(command[0]).parse_args(command)
    helped = re.findall(r"```\{command-help\} (\w+)", (DOCS / "cli.md").read_text())
    assert sorted(helped) == sorted(names)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning")
def test_from_alpha_to_a_decision_in_ten_minutes(tmp_path, monkeypatch, capsys):
    [block] = [b for b in blocks("bash", DOCS / "select.md") if "alphareq select" in b]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    started = time.perf_counter()
    for command in commands_of(block):
        assert main(command) in (0, NO_CHOICE), command
    output = capsys.readouterr().out
    minutes = (time.perf_counter() - started) / 60
    print(f"{minutes:.1f} minutes")
    for text in ("verdict: ", "doubt: ", "records: runs/records.jsonl", "saved", "report.html"):
        assert text in output
    assert "20 of 20 configurations done" in output.replace("\n", " ")


def test_every_public_name_is_explained():
    explained = set(re.findall(r"`(\w+)", " ".join(page.read_text() for page in PAGES)))
    assert set(alphareq_lightning.__all__) <= explained


def test_what_is_said_of_an_attribute_is_not_cut_at_its_colon():
    napoleon = pytest.importorskip("sphinx.ext.napoleon")
    prepare = runpy.run_path(str(DOCS / "conf.py"))["prepare_docstring"]
    for what in ("attribute", "property"):
        lines = ["Whether α has passed its peak: before, it misleads."]
        prepare(None, what, "turned", None, None, lines)
        read = napoleon.GoogleDocstring(lines, napoleon.Config(), what=what, name="turned")
        assert read.lines()[-1] == "Whether α has passed its peak: before, it misleads."


def described_modules():
    pages = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    return re.findall(r"automodule:: (\S+)", pages)


@pytest.mark.parametrize("module", described_modules())
def test_every_field_of_a_named_tuple_is_described(module):
    """Sphinx writes "Alias for field number 0" for the others."""
    kinds = [
        kind for kind in vars(importlib.import_module(module)).values() if inspect.isclass(kind)
    ]
    for kind in kinds:
        for name in getattr(kind, "_fields", ()):
            below = inspect.getsource(kind).partition(f"\n    {name}: ")[2].partition("\n")[2]
            assert below.startswith('    """'), f"{kind.__name__}.{name}"


def test_every_error_and_warning_has_its_entry():
    classes = {name for name, _ in inspect.getmembers(errors, inspect.isclass)}
    entries = re.findall(r"^### `(\w+)`\n\n(.+)", (DOCS / "troubleshooting.md").read_text(), re.M)
    assert sorted(name for name, _ in entries) == sorted(classes)
    assert all(len(text.split()) >= 8 for _, text in entries)


def messages():
    """The texts in the sources, with … for what is put in."""
    for file in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [n.value if isinstance(n, ast.Constant) else "…" for n in node.values]
                yield from ("".join(parts), "".join(parts).replace("…", ""))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_that_are_quoted_are_what_is_said():
    page = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"(?<!\*)\*([^*\n]+(?:\\\*[^*\n]+)*)\*(?!\*)", page)
    said = "\n".join(messages())
    parts = {part for text in quoted for part in text.replace("\\", "").split("…")}
    assert len(quoted) > 25
    assert sorted(part for part in parts if part not in said) == []
