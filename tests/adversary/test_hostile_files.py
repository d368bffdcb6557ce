"""Files that somebody made to break the reader: one line and exit code 2, or a plain answer, soon.

Every command is run in this process; what hangs in C ends by the time limit of its test.
"""

import csv
import io
import json
import math
import os
import pickle
import random
import re
import shutil
import sqlite3
import time
import zipfile

import pytest
import torch

from alphareq_lightning import AlphaRecord
from alphareq_lightning.commands.main import main
from alphareq_lightning.commands.rank import NO_CHOICE
from alphareq_lightning.records import append_record, write_records
from alphareq_lightning.selection import select_by_readouts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.adversary("hostile files and names"),
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::alphareq_lightning.errors.AlphaReQWarning"),
]

SECONDS = 20
"""Of one processor, however busy it is; what hangs without work ends by the limit of its test."""
OBEYED = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
GOOD = {
    "alpha": 0.9,
    "r2": 0.99,
    "stderr": 0.01,
    "fit_range": [4, 51],
    "num_samples": 1000,
    "num_features": 256,
    "num_images": 1000,
    "run": "a",
    "layer": "backbone",
    "epoch": 1,
    "global_step": 4000,
    "scores": {"rankme": 30.0},
    "metrics": {"val_loss": 1.0},
    "eigenvalues": [3.0, 2.0, 1.0],
    "seconds": 0.1,
    "problem": None,
    "path": "a.ckpt",
    "path_step": None,
    "phase": "settled",
    "drift": 0.01,
    "untrained_alpha": 1.3,
}


def told(capsys, *arguments):
    """Exit code and what was printed; that is bounded, plain, and one line if refused."""
    started = time.process_time()
    code = main([os.fspath(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert time.process_time() - started < SECONDS
    assert code in (0, 2, NO_CHOICE)
    assert not OBEYED.search(out)
    assert not OBEYED.search(err)
    assert len(out) + len(err) < 1_000_000
    notes = err.splitlines()
    assert all(note.startswith("alphareq: ") and len(note) < 3000 for note in notes)
    assert len(notes) <= 3  # a file passed over, and the refusal
    assert code != 2 or notes
    return code, out, err


def tower(kind, depth=40):
    """An item that holds another twice, and so on: small in a file, endless to walk through."""
    value = kind((1, 2)) if kind is not dict else {"a": 1}
    for _ in range(depth):
        value = {"a": value, "b": value} if kind is dict else kind((value, value))
    return value


def keyed_by_a_tower(depth=40):
    """A pickle of a dict whose key takes years to hash; it cannot be made by hashing it here."""
    get = b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(depth))
    return b"\x80\x02}q\xffX\x09\x00\x00\x00callbacksq\xfe}(K\x01K\x02\x86q\x00" + get + b"K\x01us."


def archive(path, pickled, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", pickled)
        file.writestr("a/version", "3\n")


def checkpoint(path, history):
    torch.save({"callbacks": {"AlphaMonitor{}": {"history": history}}, "state_dict": {}}, path)


SHARED = [GOOD] * 2_000_000
PICKLES = {
    "nested lists": lambda: {"callbacks": {"AlphaMonitor{}": tower(list)}},
    "nested dicts": lambda: {"callbacks": {"AlphaMonitor{}": tower(dict)}},
    "nested history": lambda: {"callbacks": {"AlphaMonitor{}": {"history": tower(list)}}},
    "nested record": lambda: {"callbacks": {"AlphaMonitor{}": {"history": [tower(dict)]}}},
    "nested in a field of a newer version": lambda: {
        "callbacks": {"AlphaMonitor{}": {"history": [{**GOOD, "new": tower(list)}]}}
    },
    "a field of a newer version a million times": lambda: {
        "callbacks": {"AlphaMonitor{}": {"history": [{**GOOD, "new": [1.0] * 60_000}] * 900}}
    },
    "nested callbacks": lambda: {"callbacks": tower(list)},
    "nested key": lambda: keyed_by_a_tower(),
    "one record a million times": lambda: {"callbacks": {"AlphaMonitor{}": {"history": SHARED}}},
    "one list a million times": lambda: {
        "callbacks": {
            "AlphaMonitor{}": {"history": [{**GOOD, "eigenvalues": [1.0] * 60_000}] * 900}
        }
    },
    "deep": lambda: b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "huge number of an object": lambda: b"\x80\x02]r\xff\xff\xff\xff.",
    "huge text": lambda: {"callbacks": {"AlphaMonitor{}": {"history": "x" * 10_000_000}}},
    "huge bytearray": lambda: b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
    "too large": lambda: b"\x80\x02(" + b"]" * 40_000_000 + b"l.",
    "empty": lambda: b"",
    "garbage": lambda: b"\x00\xff garbage",
    "no end": lambda: b"\x80\x02}",
    "code": lambda: b"cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.timeout(60, method="thread")  # what hangs in C hears no signal
@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("rank", "stored"),
        ("rank", "compressed"),
        ("rank", "bare"),
        ("report", "stored"),
        ("score", "stored"),
        ("score", "bare"),
        ("select", "stored"),
    ],
)
@pytest.mark.parametrize("name", PICKLES)
def test_pickles(tmp_path, monkeypatch, capsys, name, how, command):
    monkeypatch.chdir(tmp_path)
    value = PICKLES[name]()
    pickled = value if isinstance(value, bytes) else pickle.dumps(value, protocol=2)
    path = tmp_path / "bomb.ckpt"
    if how == "bare":
        path.write_bytes(pickled)
    else:
        archive(path, pickled, zipfile.ZIP_STORED if how == "stored" else zipfile.ZIP_DEFLATED)
    more = {
        "rank": (),
        "report": ("--out", tmp_path / "page.html"),
        "score": ("--model", "resnet18", "--data", "digits", "--out", tmp_path / "r.jsonl"),
        "select": ("--model", "resnet18", "--data", "digits", "--out", tmp_path / "out"),
    }[command]
    code, _, _ = told(capsys, command, path, *more)
    assert code == 2
    assert not (tmp_path / "pwned").exists()


NUMBERS = [math.inf, -math.inf, math.nan, 10**400, -(10**400), 2**70, 1e308, -5, 0, True, None]
WRONG = ["x", "9" * 5000, [], [[1]], {}, {"a": {}}, "\x1b[2J", [None], [math.inf], {"x": 10**400}]


@pytest.mark.parametrize("field", [*GOOD, "accuracy", "alpha_corrected", "bias_correction", "new"])
@pytest.mark.parametrize("source", ["checkpoint", "jsonl"])
def test_every_field_with_every_value(tmp_path, capsys, record_property, source, field):
    """Whatever comes out of a file is a record or is refused; nothing ends in a traceback."""
    values = [*NUMBERS, *WRONG]
    record_property("tried", 2 * len(values))
    record_property("held", 0)
    for value in values:
        record = {**GOOD, field: value}
        path = tmp_path / f"a.{'ckpt' if source == 'checkpoint' else 'jsonl'}"
        if source == "checkpoint":
            checkpoint(path, [record])
        else:
            path.write_text(json.dumps(record) + "\n")
        told(capsys, "rank", path)
        told(capsys, "report", path, "--out", tmp_path / "page.html")
    record_property("held", 2 * len(values))


NAMES = {
    "clears the screen": "\x1b[2J\x1b[H",
    "sets the title": "\x1b]0;owned\x07",
    "one byte escape": "\x9b31m",
    "back and over": "bad\b\b\bgood",
    "a line of its own": "a\nalphareq: all is well\r",
    "right to left": "\u202eckpt.exe",
    "formula": '=HYPERLINK("http://x","y")',
    "formula by plus": "+1+cmd|' /C calc'!A0",
    "formula by at": "@SUM(1)",
    "formula by minus": "-2+3",
    "formula behind a tab": "\t=1+1",
    "markup": "[bold][/nope][link=http://x]",
    "not UTF-8": os.fsdecode(b"caf\xe9\xff"),
    "long": "x" * 60_000,
    "nul": "a\0b",
    "html": "</script><script>alert(1)</script>",
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["path", "run", "phase", "layer", "score", "metric", "problem"])
def test_names(tmp_path, capsys, record_property, where, name):
    text = NAMES[name]
    second = {**GOOD, "path": "b.ckpt", "alpha": math.nan, "fit_range": None}
    changed = {
        "path": {"path": text},
        "run": {"run": text, "path": None},
        "phase": {"phase": text},
        "layer": {"layer": text},
        "score": {"scores": {text: 1.0}},
        "metric": {"metrics": {text: 1.0, "val_loss": 2.0}},
        "problem": {"problem": text},
    }[where]
    path = tmp_path / "records.jsonl"
    records = [AlphaRecord.from_dict({**GOOD, **changed}), AlphaRecord.from_dict(second)]
    write_records(path, records)
    outputs = []
    for more in (
        (),
        ("--json",),
        ("--csv",),
        ("--by", "nothing"),
        ("--layer", "nothing"),
        ("--force",),
    ):
        outputs.append(told(capsys, "rank", path, *more))
    _, out, _ = told(capsys, "rank", path, "--force", "--json")
    assert json.loads(out)["records"]
    _, out, _ = told(capsys, "rank", path, "--force", "--csv")
    for row in csv.reader(io.StringIO(out)):
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "@")), cell
            assert not cell.startswith("-") or float(cell) < 0
    told(capsys, "report", path, "--out", tmp_path / "page.html")
    if (tmp_path / "page.html").exists():
        assert "<script>alert" not in (tmp_path / "page.html").read_text()
    told(capsys, "select", path, "--model", "resnet18", "--data", "digits", "--out", tmp_path / "o")
    record_property("tried", len(outputs) + 4)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("nul", "long", "html")])
def test_names_of_files(tmp_path, capsys, name):
    text = NAMES[name].replace("/", "_")
    folder = tmp_path / text
    folder.mkdir()
    checkpoint(folder / f"{text}.ckpt", [GOOD])
    (folder / "b.ckpt").write_text("none")
    for arguments in (
        ("rank", folder),
        ("rank", folder, "--json"),
        ("rank", folder, "--csv"),
        ("rank", folder, "--plot", folder / "plot.png"),
        ("rank", folder / "gone.ckpt"),
        ("rank", folder / "gone.jsonl"),
        ("rank", folder / "b.ckpt"),
        ("report", folder, "--out", folder / "page.html"),
        ("report", folder, "--out", folder),
        ("score", folder, "--model", "resnet18", "--data", "digits", "--out", folder / "r.jsonl"),
        ("score", folder, "--config", folder / "gone.yaml", "--out", folder / "r.jsonl"),
        ("sweep", "--config", folder / "gone.yaml"),
        ("select", folder, "--model", "resnet18", "--data", folder, "--out", folder / "out"),
    ):
        told(capsys, *arguments)


@pytest.fixture(params=["pipe", "folder", "endless", "loop", "dangling", "long name", "empty"])
def no_file(request, tmp_path):
    path = tmp_path / "thing"

    def make(suffix):
        target = path.with_suffix(suffix)
        if request.param == "pipe":
            os.mkfifo(target)
        elif request.param == "folder":
            target.mkdir()
        elif request.param == "endless":
            target.symlink_to("/dev/zero")
        elif request.param == "loop":
            target.symlink_to(target)
        elif request.param == "dangling":
            target.symlink_to(tmp_path / "nowhere" / "else")
        elif request.param == "long name":
            target = path.with_name("x" * 300 + suffix)
        else:
            target.write_bytes(b"")
        return target

    return make


def test_what_is_no_file(tmp_path, capsys, no_file, record_property):
    good = tmp_path / "good.jsonl"
    write_records(good, [AlphaRecord.from_dict(GOOD)])
    records, weights, config = no_file(".jsonl"), no_file(".ckpt"), no_file(".yaml")
    journal, safe, page = no_file(".journal"), no_file(".safetensors"), no_file(".html")
    network = ("--model", "resnet18", "--data", "digits")
    commands = [
        ("rank", records),
        ("rank", weights),
        ("rank", journal),
        ("rank", f"sqlite:///{no_file('.db')}"),
        ("report", records, "--out", tmp_path / "p.html"),
        ("score", weights, *network, "--out", tmp_path / "r.jsonl"),
        ("score", safe, *network, "--out", tmp_path / "r.jsonl"),
        ("score", weights, "--config", config, "--out", tmp_path / "r.jsonl"),
        ("score", weights, *network, "--out", records),
        ("select", records, *network, "--out", tmp_path / "out"),
        ("select", good, *network, "--out", records),
        ("sweep", "--config", config),
        ("sweep", "--config", config, "--status"),
        ("profile", "--weights", weights, "--max-images", "10", "--out", tmp_path / "profile"),
    ]
    for command in commands:
        assert told(capsys, *command)[0] == 2, command
    for command in (("rank", tmp_path), ("rank", good), ("report", good, "--out", page)):
        told(capsys, *command)
    record_property("tried", len(commands) + 3)


def test_pipes_in_place_of_the_files_of_a_search(tmp_path, capsys):
    from alphareq_lightning import SelectionError

    records = [AlphaRecord.from_dict({**GOOD, "path": f"{k}.ckpt"}) for k in range(3)]
    for name in ("search.json", "settings.json"):
        folder = tmp_path / name.split(".")[0]
        select_by_readouts(records, lambda r: 50.0, folder)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(SelectionError, match=r"is no regular file"):
            select_by_readouts(records, lambda r: 50.0, folder)


BAD_JSON = [
    "",
    "{",
    "[]",
    "5",
    "null",
    '"x"',
    "[" * 100_000,
    '{"top_k": 1e999, "margin": 0, "pending": {}, "readouts": {}, "skipped": {}}',
    '{"top_k": 2.5, "margin": 0, "pending": {}, "readouts": {}, "skipped": {}}',
    '{"top_k": 2, "margin": "0", "pending": {}, "readouts": {}, "skipped": {}}',
    '{"top_k": 2, "margin": 0, "pending": [], "readouts": {}, "skipped": {}}',
    '{"top_k": 2, "margin": 0, "pending": {"a": 1%s}, "readouts": {}, "skipped": {}}' % ("0" * 400),
    '{"top_k": 2, "margin": 0, "pending": {}, "readouts": {"a": [1, 1%s]}, "skipped": {}}'
    % ("0" * 400),
    '{"top_k": 2, "margin": 0, "pending": {}, "readouts": {"a": 5}, "skipped": {}}',
    '{"top_k": 1%s, "margin": 0, "pending": {}, "readouts": {}, "skipped": {}}' % ("0" * 5000),
    "\ud800",
    "\x00" * 100,
]


@pytest.mark.parametrize("file", ["search.json", "settings.json"])
@pytest.mark.parametrize("place", range(len(BAD_JSON)))
def test_states_of_searches(tmp_path, capsys, file, place):
    from alphareq_lightning import SelectionError

    folder = tmp_path / "out"
    records = [AlphaRecord.from_dict({**GOOD, "path": f"{k}.ckpt"}) for k in range(3)]
    select_by_readouts(records, lambda r: 50.0, folder)
    (folder / file).write_text(BAD_JSON[place], errors="surrogatepass")
    with pytest.raises(SelectionError) as refused:
        select_by_readouts(records, lambda r: 50.0, folder)
    assert len(str(refused.value)) < 3000
    told(capsys, "report", folder, "--out", tmp_path / "page.html")


def begin_study(storage):
    optuna = pytest.importorskip("optuna")
    from alphareq_lightning.sweep.storage import open_storage
    from alphareq_lightning.sweep.trial import PATH, RECORD

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="tiny", storage=open_storage(storage), direction="maximize"
    )
    for place in range(6):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        trial.set_user_attr("slot", place)
        trial.set_user_attr("alpha", 0.9)
        trial.set_user_attr(RECORD, {**GOOD, "alpha": 0.9 + place / 100})
        trial.set_user_attr(PATH, f"{place}.ckpt")
        study.tell(trial, float(place))
    return study


def sweep_file(tmp_path, storage):
    (tmp_path / "train.yaml").write_text("{}")
    config = tmp_path / "tiny.yaml"
    values = {"train": "train.yaml", "space": {"x": [1]}, "storage": storage, "out": str(tmp_path)}
    config.write_text(json.dumps(values))
    return config


@pytest.mark.timeout(900)
def test_corrupt_pages_of_a_database(tmp_path, capsys, record_property):
    file = tmp_path / "study.db"
    begin_study(f"sqlite:///{file}")
    with sqlite3.connect(file) as database:
        [size] = database.execute("pragma page_size").fetchone()
    good = file.read_bytes()
    config = sweep_file(tmp_path, f"sqlite:///{file}")
    random.seed(0)
    tried = 0
    for page in range(len(good) // size):
        for noise in (b"\0" * size, b"\xff" * size, random.randbytes(size), good[:0]):
            damaged = bytearray(good)
            damaged[page * size : (page + 1) * size] = noise
            file.write_bytes(damaged)
            told(capsys, "rank", f"sqlite:///{file}")
            told(capsys, "sweep", "--config", config, "--status")
            tried += 2
    record_property("tried", tried)


GARBAGE = [
    b"garbage\n",
    b"{}\n",
    b"[]\n",
    b"null\n",
    b'{"op_code": 99}\n',
    b'{"op_code": 4}\n',
    b'{"op_code": "x", "worker_id": 1}\n',
    b'{"op_code": 6, "worker_id": "w", "trial_id": 999, "state": 1}\n',
    b'{"op_code": 8, "worker_id": "w", "trial_id": 0, "user_attr": {"record": 5}}\n',
    b'{"op_code": 8, "worker_id": "w", "trial_id": 1, "user_attr": [[[]]]}\n',
    b'{"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"sweep": 5}}\n',
    b"[" * 100_000 + b"\n",
    b"\xff\xfe\x00\n",
    b"\x00" * 5000 + b"\n",
    b'{"op_code": 4, "worker_',
    b"9" * 5000 + b"\n",
]


@pytest.mark.parametrize("place", range(len(GARBAGE)))
@pytest.mark.parametrize("where", ["first", "middle", "last", "alone"])
def test_garbage_in_a_journal(tmp_path, capsys, where, place):
    file = tmp_path / "study.journal"
    begin_study(str(file))
    lines = file.read_bytes().splitlines(keepends=True)
    at = {"first": 0, "middle": len(lines) // 2, "last": len(lines), "alone": 0}[where]
    kept = [] if where == "alone" else lines
    file.write_bytes(b"".join([*kept[:at], GARBAGE[place], *kept[at:]]))
    before = file.read_bytes()
    told(capsys, "rank", file)
    told(capsys, "report", file, "--out", tmp_path / "page.html")
    told(capsys, "sweep", "--config", sweep_file(tmp_path, str(file)), "--status")
    assert file.read_bytes() == before


ATTRIBUTES = [5, "x", None, [], {}, {"a": []}, 10**30, "\x1b[2J", [[1]], -1.5, True]


@pytest.mark.parametrize(
    "name", ["slot", "alpha", "record", "path", "seconds", "outcome", "r2", "error", "paid"]
)
def test_attributes_of_trials(tmp_path, capsys, record_property, name):
    storage = f"{tmp_path}/study.journal"
    begin_study(storage)
    good = (tmp_path / "study.journal").read_bytes()
    config = sweep_file(tmp_path, storage)
    from alphareq_lightning.sweep import load_study

    for value in ATTRIBUTES:
        (tmp_path / "study.journal").write_bytes(good)
        trial = load_study(storage).ask()
        for key, item in {
            "slot": 7,
            "alpha": 0.9,
            "record": GOOD,
            "path": "z",
            name: value,
        }.items():
            trial.set_user_attr(key, item)
        trial.study.tell(trial, 50.0)
        told(capsys, "rank", storage)
        told(capsys, "sweep", "--config", config, "--status")
        told(capsys, "sweep", "--config", config, "--status", "--json")
    record_property("tried", 3 * len(ATTRIBUTES))


ALIASES = "a0: &a0 [x, x]\n" + "".join(
    f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40)
)
CONFIGS = {
    "aliases": ALIASES + "train: *a39\nspace: *a39\n",
    "aliases in the space": ALIASES + "train: train.yaml\nspace: {x: *a39}\n",
    "aliases in a choice": ALIASES + "train: train.yaml\nspace: {x: [*a39]}\n",
    "aliases elsewhere": ALIASES + "train: train.yaml\nspace: {x: [1]}\noverrides: {y: *a39}\n",
    "itself": "train: &a [*a]\nspace: *a\n",
    "deep": "train: " + "[" * 10_000,
    "code": "train: !!python/object/apply:os.system [touch pwned]\n",
    "numbers": "train: train.yaml\nspace: {x: {low: 1, high: 1" + "0" * 400 + "}}\n",
    "infinite": "train: train.yaml\nspace: {x: {low: .inf, high: .nan}}\n",
    "escape": 'train: train.yaml\nspace: {"\\e[2J": {"\\e[2J": 1}}\n',
    "tab": "train:\t\n\t- x",
    "nul": "train: \x00",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.yaml").write_text("{}")
    (tmp_path / "bad.yaml").write_text(CONFIGS[name])
    weights = tmp_path / "w.ckpt"
    checkpoint(weights, [GOOD])
    assert told(capsys, "sweep", "--config", "bad.yaml", "--trials", "1")[0] == 2
    assert told(capsys, "score", weights, "--config", "bad.yaml", "--out", "r.jsonl")[0] == 2
    assert not (tmp_path / "pwned").exists()


MODULES = [
    "..",
    ".",
    "",
    "...x",
    "a..b",
    "os.",
    ".os",
    "os.path",
    "no.Such",
    "sys.modules",
    "\x1b[2J",
    "a\nb.C",
]


@pytest.mark.parametrize("name", MODULES)
def test_names_of_modules(tmp_path, capsys, name):
    checkpoint(tmp_path / "w.ckpt", [GOOD])
    score = ("score", tmp_path / "w.ckpt", "--data", "digits", "--out", tmp_path / "r.jsonl")
    assert told(capsys, *score, "--module", name)[0] == 2


STORED = [
    {1: 2},
    {None: 1},
    {"width": 10**30},
    {"width": "x" * 10_000_000},
    {"width": tower(list)},
    {"nothing": 1},
    [1, 2],
    "x",
    {"width": -1},
    {"width": math.nan},
]


@pytest.mark.parametrize("place", range(len(STORED)))
def test_hyperparameters(tmp_path, capsys, place):
    path = tmp_path / "w.ckpt"
    torch.save({"hyper_parameters": STORED[place], "state_dict": {}}, path)
    score = ("score", path, "--data", "digits", "--out", tmp_path / "r.jsonl")
    assert told(capsys, *score, "--module", "tiny.TinyModule")[0] == 2


STATES = [
    {1: torch.ones(2)},
    {"backbone.1.weight": "x"},
    {"a": tower(list)},
    [1],
    "x",
    None,
    {"x": None},
]


@pytest.mark.parametrize("place", range(len(STATES)))
@pytest.mark.parametrize("what", [("--module", "tiny.TinyModule"), ("--model", "resnet18")])
def test_weights(tmp_path, capsys, place, what):
    for values in ({"state_dict": STATES[place]}, STATES[place]):
        path = tmp_path / "w.ckpt"
        torch.save(values, path)
        told(capsys, "score", path, *what, "--data", "digits", "--out", tmp_path / "r.jsonl")


def test_bytes_of_a_checkpoint_and_of_records_are_changed_by_chance(
    tmp_path, capsys, record_property
):
    random.seed(0)
    checkpoint(tmp_path / "a.ckpt", [GOOD] * 3)
    append_record(tmp_path / "a.jsonl", AlphaRecord.from_dict(GOOD))
    append_record(tmp_path / "a.jsonl", AlphaRecord.from_dict({**GOOD, "path": "b"}))
    tried = 0
    for name in ("a.ckpt", "a.jsonl"):
        good = (tmp_path / name).read_bytes()
        for _ in range(150):
            bad = bytearray(good)
            for _ in range(random.choice((1, 1, 3, 20))):
                bad[random.randrange(len(bad))] = random.randrange(256)
            if random.random() < 0.2:
                del bad[random.randrange(len(bad)) :]
            (tmp_path / f"bad-{name}").write_bytes(bad)
            told(capsys, "rank", tmp_path / f"bad-{name}")
            tried += 1
    record_property("tried", tried)
    shutil.rmtree(tmp_path)
