"""How commands come from typed functions, and what ``alphareq`` costs before one runs."""

import argparse
import json
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch  # noqa: F401  (its log keeps the stderr of the first import)
import pytest

import alphareq_lightning
from alphareq_lightning import append_record
from alphareq_lightning.commands._options import add_options
from alphareq_lightning.commands.main import command_parser, main

from plain_records import plain_record

CONFIG = Path(__file__).parents[2] / "configs" / "barlow_twins_digits.yaml"
HEAVY = ("torch", "torchvision", "lightning", "numpy", "rich", "optuna", "jsonargparse")
ALL = ("train", "demo", "sweep", "rank", "score", "select", "report", "profile")


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], check=True, capture_output=True, text=True)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_heavy(option):
    told = python("-X", "importtime", "-m", "alphareq_lightning", option)
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in told.stderr.splitlines()}
    assert "alphareq_lightning" in imported
    assert imported.isdisjoint(HEAVY)


def test_rank_imports_torch_alone_of_what_is_heavy(tmp_path):
    records = str(tmp_path / "r.jsonl")
    append_record(records, plain_record(path="a.ckpt"))
    told = python("-X", "importtime", "-c", f"""
import sys
from alphareq_lightning.commands._options import add_options
from alphareq_lightning.commands.main import command_parser, main
main(["rank", {records!r}])
""")  # fmt: skip
    imported = {line.split("|")[-1].strip().partition(".")[0] for line in told.stderr.splitlines()}
    heavy = {"torchmetrics", "torchvision", "lightning", "optuna", "transformers", "scipy"}
    assert imported.isdisjoint(heavy)


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"alphareq {alphareq_lightning.__version__}\n"


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    told = capsys.readouterr().out
    assert all(f"\n    {name} " in told for name in ALL)
    assert "Sort checkpoints by α: no data, no model, no labels" in told


@pytest.mark.parametrize("name", [name for name in ALL if name != "train"])
def test_every_option_of_every_command_is_explained(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "`" not in told
    assert "console" not in told


def test_a_command_is_one_file(tmp_path, monkeypatch, capsys):
    (tmp_path / "greet.py").write_text(
        '''
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console

GREETINGS = {"hello": 1, "good day": 2}


def greet_people(
    names: str | Sequence[str],
    *,
    age: int,
    window: tuple[int, int] | None = None,
    near: float | tuple[float, float] = 1.0,
    words: Annotated[str | Sequence[str], GREETINGS] = ("hello",),
    mode: Literal["loud", "low"] = "low",
    more: Mapping[str, int] | None = None,
    out: Path = Path("here"),
    is_quiet: bool = False,
    console: Console | None = None,
):
    """Greet people, 100 % of them.

    Args:
        names: Of people.
        age: Of all, unless ``is_quiet``.
        window: Two ranks.
        near: One number or two.
        words: What to say.
        mode: How loud.
        more: Anything.
        out: A file.
        is_quiet: Say nothing.
        console: Where to.
    """
    return dict(vars(), console=type(console).__name__, out=str(out))


def as_json(result):
    import json

    return json.dumps(result)


def as_csv(result):
    return ",".join(result)


def exit_code(result):
    return result["age"]
'''
    )
    import alphareq_lightning.commands as room

    monkeypatch.setattr(room, "__path__", [*room.__path__, str(tmp_path)])

    def greet(*arguments):
        assert main(["greet", "--age", "7", "--json", *arguments]) == 7
        return json.loads(capsys.readouterr().out)

    assert greet("ann") == {
        "names": "ann",
        "age": 7,
        "window": None,
        "near": 1.0,
        "words": ["hello"],
        "mode": "low",
        "more": None,
        "out": "here",
        "is_quiet": False,
        "console": "Console",
    }
    found = greet("ann", "bob", "--window", "1", "9", "--near", "2", "3", "--words", "--is-quiet")
    assert found["names"] == ["ann", "bob"]
    assert (found["window"], found["near"], found["words"]) == ([1, 9], [2.0, 3.0], [])
    found = greet("--near", "2", "--mode", "loud", "--more", '{"a": 1}', "--words", "a", "--", "b")
    assert (found["near"], found["mode"], found["more"]) == (2.0, "loud", {"a": 1})
    assert (found["words"], found["names"]) == ("a", "b")
    assert main(["greet", "ann", "--age", "0", "--csv"]) == 0
    assert capsys.readouterr().out.startswith("names,age,")
    for arguments, text in (
        (("ann",), "the following arguments are required: --age"),
        (("ann", "--age", "1", "--json", "--csv"), "--csv: not allowed with argument --json"),
        (("ann", "--age", "1", "--mode", "high"), "argument --mode: invalid choice: 'high'"),
        (("ann", "--age", "1", "--window", "1"), "--window: expected 2 arguments"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["greet", *arguments])
        assert ended.value.code == 2
        assert text in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["greet", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert "Greet people, 100 % of them" in told
    assert "Of all, unless --is-quiet" in told
    assert "What to say: hello, good day (default: hello)" in told


def test_json_and_csv_are_refused_together(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["rank", "runs", "--json", "--csv"])
    assert ended.value.code == 2
    assert "argument --csv: not allowed with argument --json" in capsys.readouterr().err


def test_an_interrupted_command_ends_in_one_line(monkeypatch, capsys):
    import alphareq_lightning.commands.rank as rank_command

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(rank_command, "gather_records", interrupted)
    assert main(["rank", "runs"]) == 130
    assert capsys.readouterr().err == "alphareq: interrupted\n"


def test_the_working_directory_is_looked_in_once_and_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    before = list(sys.path)
    for _ in range(2):
        assert main(["score", "gone.ckpt", "--module", "a.B", "--data", "digits"]) == 2
    assert sys.path == [*before, str(tmp_path)]


def test_the_door_imports_what_is_asked_for():
    code = """
import sys
import alphareq_lightning as door
assert "torch" not in sys.modules
door.OptionError
assert "torch" not in sys.modules
assert set(door.__all__) <= set(dir(door))
from alphareq_lightning import *
assert [globals()[name] for name in door.__all__] == [getattr(door, name) for name in door.__all__]
assert door.functional.rankme is door.rankme
"""
    python("-c", code)
    with pytest.raises(AttributeError, match="has no attribute 'AlphaMonitr'"):
        getattr(alphareq_lightning, "AlphaMonitr")  # noqa: B009


def test_without_a_command_there_is_help(capsys):
    assert main([]) == 2
    told = capsys.readouterr().err
    assert all(f"\n    {name} " in told for name in ALL)


def test_a_near_command_is_told(capsys):
    assert main(["rnak", "runs"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("alphareq: no command 'rnak'; there are: demo, ")
    assert told.endswith("; did you mean 'rank'?\n")


@pytest.mark.parametrize("name", ALL)
def test_every_help_ends_with_an_example_that_is_one(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    words = " ".join(capsys.readouterr().out.split()).partition("Example: alphareq ")[2].split()
    assert words[0] == name
    if name == "train":  # parsed by LightningCLI
        assert Path(CONFIG.parents[1], words[-1]) == CONFIG
    else:
        command_parser(name).parse_args(words)


def test_shells_complete_commands_and_options(capsys, monkeypatch):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 0
    script = capsys.readouterr().out
    assert "--labels-per-class" in script
    assert "_subparsers=(demo profile rank report score select sweep train)" in script
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "--print-completion needs shtab: pip install shtab" in capsys.readouterr().err


def test_a_list_is_read_as_a_list():
    parser = argparse.ArgumentParser()

    def command(words, more=()):
        """Do.

        Args:
            words: Some.
            more: Others.
        """

    command.__annotations__ = {"words": list[str], "more": Sequence[int]}
    add_options(parser, types.SimpleNamespace(command=command), "command")
    options = parser.parse_args(["abc", "de", "--more", "1", "2"])
    assert (options.words, options.more) == (["abc", "de"], [1, 2])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config", "nope.yaml"], "File does not exist: '"),
        (["--model.backbne", "resnet18"], "Option 'backbne' is not accepted; see alphareq train"),
        (
            ["--model.lambd", "abc"],
            "alphareq: model.lambd: Expected a <class 'float'>. Got value: abc",
        ),
        (["--model.backbone", "resnet81"], "there is no model 'resnet81'; did you mean resnet18"),
        (["--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_what_training_refuses_is_told_in_one_line(arguments, told, capsys):
    known = [] if arguments[0] == "--config" else ["--config", str(CONFIG)]
    assert main(["train", *known, *arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "Seed set" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("alphareq: ")
    assert told in lines[0]
