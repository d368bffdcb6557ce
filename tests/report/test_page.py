"""The page is read by a parser and by a browser, never by the code that wrote it."""

import base64
import csv
import hashlib
import html
import io
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import scipy.stats
import torch

from alphareq_lightning.commands._gather import gather_records
from alphareq_lightning.commands.main import main
from alphareq_lightning.errors import OptionError, SelectionError
from alphareq_lightning.records import append_record
from alphareq_lightning.report.choices import choices_by_score
from alphareq_lightning.report.page import _chart_library, report_data, write_report
from alphareq_lightning.selection import AlphaIntervalSearch

from oracles import weighted_line
from plain_records import plain_record, with_values

WINDOW = (4, 100)
FLOAT32 = 1e-5  # torchmetrics takes ranks in float32, and adds 1e-6 to what it divides by
EVIL = (
    "</script ><!--<script></script><script>window.hacked=1</script>"
    "<img src=x onerror=window.hacked=1>\"'`${1}🦊\u2028"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")


def record(alpha, *, accuracy=None, path=None, num_eigenvalues=512, **values):
    eigenvalues = np.arange(1, num_eigenvalues + 1.0) ** -alpha
    settings = {
        "r2": 0.99,
        "stderr": 0.01,
        "fit_range": WINDOW,
        "num_samples": 10_000,
        "num_features": 2048,
        "layer": "backbone",
        "global_step": 2000,
        "eigenvalues": tuple(eigenvalues.tolist()),
        **values,
    }
    return plain_record(alpha=alpha, accuracy=accuracy, path=path, **settings)


def landscape(num_models=80, *, read_out=True, seed=0):
    """Models as a search meets them, and the interval after each."""
    rng = np.random.default_rng(seed)
    search, records, intervals = AlphaIntervalSearch(), [], []
    for index in range(num_models):
        alpha = rng.uniform(0.4, 2.2)
        accuracy = 90 - 25 * (alpha - 1) ** 2 + rng.normal()
        name = f"sweep/{index:04d}/epoch=19.ckpt"
        paid = read_out and bool(search.ask({name: alpha}))
        if paid:
            search.tell({name: accuracy})
        records.append(
            record(
                alpha,
                accuracy=accuracy if paid else None,
                path=name,
                scores={"rankme": 400 / alpha},
                metrics={"val_loss": 30 + rng.normal(), "lr": 0.1},
            )
        )
        intervals.append(search.interval)
    return records, intervals


class Scripts(HTMLParser):
    """Scripts and headings of a page, as a browser's tokenizer sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts, self.heading, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            self.scripts.append(data)
        if self.inside == "h1":
            self.heading += data


def script_hash(script):
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def page_data(path):
    return json.loads(Scripts(path.read_text(encoding="utf-8")).scripts[0])


def test_the_page_fetches_nothing(tmp_path):
    path = write_report(tmp_path / "deep" / "report.html", landscape()[0])
    page = path.read_text(encoding="utf-8")
    _, library, script = Scripts(page).scripts
    own = page.replace(library, "")
    assert not re.findall(r"https?://", own)
    assert not re.search(r"\b(src|href)=|@import|url\(|\bfetch\(|\son\w+=", own)
    assert len(own) < 150_000
    assert len(library) < 1_000_000
    [policy] = re.findall(r'content="(default-src [^"]*)"', page)
    allowed = " ".join(map(script_hash, (library, script)))
    assert " ".join(policy.split()) == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"
    )


def test_who_has_no_charts_is_told_what_to_install(tmp_path, monkeypatch):
    _chart_library.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(OptionError, match=r"^the report needs its extra: pip install '.*report]'$"):
        write_report(tmp_path / "report.html", [record(1.0)])


def test_the_replay_is_the_search(tmp_path):
    records, intervals = landscape()
    models = page_data(write_report(tmp_path / "report.html", records))["models"]
    assert sum(model["paid"] for model in models) == sum(r.accuracy is not None for r in records)
    assert any(math.isfinite(low) for low, _ in intervals)
    for model, bounds in zip(models, intervals, strict=True):
        shown = [math.copysign(math.inf, b) if s is None else s
                 for s, b in zip(model["interval"], bounds, strict=True)]  # fmt: skip
        assert shown == pytest.approx(bounds, rel=1e-5)


def test_top_k_and_margin_reach_the_replay():
    records, _ = landscape()
    widths = []
    for top_k, margin in ((2, 0), (5, 0), (5, 2)):
        low, high = report_data(records, top_k=top_k, margin=margin)["models"][-1]["interval"]
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_fitted_line_and_spectrum_against_numpy():
    rng = np.random.default_rng(1)
    eigenvalues = np.sort(np.arange(1, 301) ** -1.3 * np.exp(rng.normal(0, 0.1, 300)))[::-1] * 7
    slope, intercept, _ = weighted_line(eigenvalues, 5, 60)
    model = record(slope, eigenvalues=tuple(eigenvalues.tolist()), fit_range=(5, 60))
    data = report_data([model])
    [shown] = data["models"]
    ends = (intercept - slope * np.log([5, 60]) - np.log(eigenvalues[0])) / np.log(10)
    assert shown["line"] == pytest.approx([5, 60, *ends], abs=1e-3)
    at = np.asarray(data["ranks"]) - 1
    assert {0, 4, 59, 299} <= set(at.tolist())
    assert shown["spectrum"] == pytest.approx(np.log10(eigenvalues[at] / eigenvalues[0]), abs=1e-3)


def test_a_spectrum_ends_where_it_collapses():
    eigenvalues = (4.0, 2.0, 1.0, 0.5, 0.0, 0.0)
    [model] = report_data([record(1.0, eigenvalues=eigenvalues, fit_range=(1, 5))])["models"]
    assert len(model["spectrum"]) == 4
    assert model["line"] is None


def test_names_and_title_stay_text(tmp_path):
    records = [record(1.0, path=EVIL), record(0.9, path="\udcff.ckpt")]
    path = write_report(tmp_path / "report.html", records, title=EVIL)
    page = Scripts(path.read_text(encoding="utf-8"))
    assert page.tags.count("script") == 3
    assert "img" not in page.tags
    assert page.heading == EVIL
    assert [m["name"] for m in page_data(path)["models"]] == [EVIL, "\udcff.ckpt"]


def test_names_are_shortened_by_whole_folders():
    def names(*paths):
        data = report_data([record(1.0, path=path) for path in paths])
        return data["folder"], [model["name"] for model in data["models"]]

    assert names("/a/run1/x.ckpt", "/a/run2/x.ckpt") == ("/a", ["run1/x.ckpt", "run2/x.ckpt"])
    assert names("/a/x.ckpt", "y.ckpt") == ("", ["/a/x.ckpt", "y.ckpt"])
    assert names("a/x.ckpt") == ("a", ["x.ckpt"])
    assert names(None) == ("", ["step 2000"])


def test_trainings_without_a_shared_folder_keep_their_names():
    runs = ("/data/a", "b")
    data = report_data([record(1.0, run=run, path=f"{run}/x.ckpt") for run in runs])
    assert (data["folder"], data["trainings"]) == ("", list(runs))


def test_the_verdict_names_records_as_the_table_does():
    runs = {"/a/b/b /a/b/c,width=64": 1.0, "/a/b/lambd=2,width=64": 2.0}
    records = [
        record(alpha, run=run, path=f"{run}/x.ckpt", global_step=step)
        for run, alpha in runs.items()
        for step in (1000, 2000)
    ]
    data = report_data(records)
    told = "\n".join(text for _, text in data["verdict"])
    assert data["folder"] == "/a/b"
    assert told.count("\nb /a/b/c,width=64/x.ckpt; lambd=2,width=64/x.ckpt") == 1


def test_the_better_end_of_a_score_comes_first():
    scores = {"rankme": 5.0, "condition_number": 9.0, "uniformity": -2.0}
    columns = report_data([record(1.0, scores=scores)])["columns"]
    better = {key.removeprefix("score "): end for key, _, _, end in columns}
    assert [better[name] for name in scores] == ["high", "low", "low"]


def test_columns_are_what_the_records_have():
    def headings(records):
        return [heading for _, heading, *_ in report_data(records)["columns"]]

    records, _ = landscape(12)
    assert {"accuracy", "RankMe", "val_loss"} < set(headings(records))
    assert "lr" not in headings(records)
    bare = headings([record(1.0)])
    assert not {"accuracy", "RankMe", "layer"} & set(bare)
    assert "layer" in headings([record(1.0), record(1.0, layer="fc")])


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        (
            {"fit_range": (11, 90)},
            r"different fit windows do not compare: ranks 4–100, 11–90; refit on one\.",
        ),
        (
            {"layer": "fc"},
            r"different layers do not compare: \['backbone', 'fc'\]; choose one layer\.",
        ),
        ({"r2": 0.5}, r"R² is below 0.95 in 1 of 12 models"),
        (
            {"alpha": math.nan, "fit_range": None, "problem": "collapse"},
            r"Without α: 1 of 12 models, for example: collapse",
        ),
        ({"accuracy": math.nan}, r"Readouts that failed: 1. They count as paid"),
        ({"scores": {"rankme": math.nan}}, None),
    ],
)
def test_notes(changed, note):
    records, _ = landscape(12)
    records[0] = with_values(records[0], **changed)
    notes = report_data(records)["notes"]
    assert len(notes) == (note is not None)
    assert note is None or re.search(note, notes[0])


def test_cautions_of_the_ranking_are_told():
    records, _ = landscape(30)
    records = [replace(r, scores={"rankme": abs(r.alpha - 1)}) for r in records]
    [note] = report_data(records)["notes"]
    assert note.startswith("Note that α and RankMe disagree (Kendall τ = -1.00)")
    # Orders over mixed windows are no orders, so nothing is said about their agreement.
    mixed = [with_values(r, fit_range=(11, 90)) if i % 2 else r for i, r in enumerate(records)]
    [note] = report_data(mixed)["notes"]
    assert "different fit windows" in note


def test_a_thousand_models_stay_small(tmp_path):
    path = write_report(tmp_path / "report.html", landscape(1000)[0])
    assert path.stat().st_size < 1_900_000  # half of it are the charts


def test_what_is_refused(tmp_path):
    with pytest.raises(SelectionError, match="there are no records to report on"):
        write_report(tmp_path / "report.html", [])
    with pytest.raises(OptionError, match="top_k=0"):
        write_report(tmp_path / "report.html", [record(1.0)], top_k=0)
    with pytest.raises(OptionError, match=r"expected target .* got \(2, 1\)"):
        write_report(tmp_path / "report.html", [record(1.0)], target=(2, 1))
    (tmp_path / "file").touch()
    with pytest.raises(SelectionError, match=r"cannot write the report to .*file/report.html"):
        write_report(tmp_path / "file" / "report.html", [record(1.0)])


def checkpoint(path, *records):
    history = [r.to_dict() for r in records]
    torch.save({"callbacks": {"AlphaMonitor{'x': 1}": {"history": history}}}, path)


def test_command_reads_record_files_and_run_folders(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    checkpoint(tmp_path / "run" / "last.ckpt", record(1.2))
    append_record(tmp_path / "records.jsonl", record(0.8, accuracy=71.0, path="a"))
    sources = [str(tmp_path / "records.jsonl"), str(tmp_path / "run")]
    assert [r.alpha for r in gather_records(sources)] == [0.8, 1.2]
    out = tmp_path / "page.html"
    arguments = ["--out", str(out), "--title", "Mine & yours", "--target", "0.8", "1.2"]
    assert main(["report", *sources, *arguments]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert Scripts(out.read_text(encoding="utf-8")).heading == "Mine & yours"
    data = page_data(out)
    typed = shlex.split(data["command"])
    assert typed[:4] == ["alphareq", "report", *sources]
    assert main(typed[1:]) == 0
    assert page_data(out) == data | {"written": page_data(out)["written"]}
    assert data["target"] == [0.8, 1.2]
    assert [model["distance"] for model in data["models"]] == [0, 0]


def test_command_refuses_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path / "missing")]) == 2
    assert re.fullmatch(r"alphareq: there is no checkpoint .*missing\n", capsys.readouterr().err)
    (tmp_path / "empty.jsonl").touch()
    assert main(["report", str(tmp_path / "empty.jsonl"), "--out", str(tmp_path / "x.html")]) == 2
    assert re.fullmatch(r"alphareq: .*empty.jsonl holds no record\n", capsys.readouterr().err)


# ---- In a browser ----

PROBE = """(async () => {
await ready;
const count = selector => document.querySelectorAll(selector).length;
const column = n => [...document.querySelectorAll("#models tbody tr")]
  .map(row => row.cells[n].textContent);
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", {key}));
const wait = () => new Promise(done => setTimeout(done, 300));
const slide = (selector, value) => {
  document.querySelector(selector).value = value;
  document.querySelector(selector).dispatchEvent(new Event("input"));
};
let saved;
// Reading a blob is done by another process, for which virtual time does not wait.
window.Blob = class extends Blob {
  constructor(parts, options) { super(parts, options); this.written = parts.join(""); }
};
URL.createObjectURL = blob => { saved = blob; return "#"; };
await wait();
const result = {
  error: document.querySelector("#error").textContent,
  verdict: document.querySelector("#verdict h2").textContent,
  cards: [...document.querySelectorAll("main > :is(section, dl)")].map(card => card.id),
  dots: count("#scatter .dots_marks path"), ticks: count("#scatter .without_marks line"),
  spectra: count("#curves .spectra_marks path"), rows: count("#models tbody tr"),
  parallel: count("#coordinates .parallel_marks path"),
  lines: count("#course-alpha .lines_marks path"),
  replay: document.querySelector("#state")?.textContent, first: column(0), second: column(1),
  notes: [...document.querySelectorAll("#notes li")].map(item => item.textContent),
  wide: document.documentElement.scrollWidth > innerWidth, hacked: window.hacked ?? null,
};
ACTIONS
await wait();
result.bad = [...document.querySelectorAll("header, main")].map(node => node.outerHTML).join("")
  .match(/NaN|undefined|Infinity/);
document.body.append(Object.assign(document.createElement("pre"),
  {id: "probe", textContent: JSON.stringify(result)}));
})();"""


def browse(path, *, actions="", width=1280):
    """Open the page in headless Chromium, act, and return what was found in it."""
    probe = PROBE.replace("ACTIONS", actions)
    page = path.read_text(encoding="utf-8") + f"<script>{probe}</script>"
    page = page.replace("script-src ", f"script-src {script_hash(probe)} ", 1)
    path.with_suffix(".probe.html").write_text(page, encoding="utf-8")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr")
    ended = subprocess.run(
        [
            CHROMIUM,
            *flags,
            f"--user-data-dir={path.parent / 'browser'}",
            f"--window-size={width},1000",
            "--virtual-time-budget=60000",
            "--dump-dom",
            path.with_suffix(".probe.html").as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    assert not re.findall(r".*CONSOLE.*", ended.stderr)
    [found] = re.findall(r'<pre id="probe">(.*?)</pre>', ended.stdout, flags=re.DOTALL)
    result = json.loads(html.unescape(found))
    assert result["error"] == ""
    assert result["bad"] is None
    assert result["hacked"] is None
    assert not result["wide"]
    return result


@needs_browser
def test_browser_draws_what_was_measured(tmp_path):
    records, intervals = landscape()
    paid = [r for r in records if r.accuracy is not None]
    best = max(paid, key=lambda r: r.accuracy)
    path = write_report(tmp_path / "report.html", records)
    seen = browse(
        path,
        actions="""
        result.rhos = [...document.querySelectorAll("#choices tbody tr")]
          .map(row => row.lastChild.textContent);
        document.querySelectorAll("#models thead button")[2].click();
        result.byAlpha = column(2);
        document.querySelectorAll("#models thead button")[1].click();
        document.querySelectorAll("#models thead button")[1].click();
        result.byAccuracyUp = column(1);
        document.querySelectorAll("#models thead button")[2].click();
        document.querySelectorAll("#models thead button")[2].click();
        result.byAlphaDown = column(2);
        result.sorts = count("[aria-sort]");
        document.querySelector("#models tbody tr").click();
        await wait();
        result.picked = document.querySelector("#picked").textContent;
        result.highlighted = count("#curves :is(.strong_marks, .fit_marks) path");
        result.pressed = count("tr.chosen-row button[aria-pressed=true]");
        slide("#replay", 30);
        await wait();
        result.then = document.querySelector("#state").textContent;
        result.later = count("#closing [opacity='0.15']");
        press(document.querySelector("#scatter"), "ArrowRight");
        await wait();
        result.tip = document.querySelector("#scatter ~ .tip").textContent;
        result.rings = count("#scatter .ring_marks path");
        """,
    )
    assert (seen["dots"], seen["ticks"], seen["rows"]) == (len(paid), 80 - len(paid), 80)
    assert seen["spectra"] == 60
    assert seen["verdict"] == "No choice"
    assert seen["cards"][:2] == ["verdict", "choices"]
    assert seen["first"][0] == best.path.removeprefix("sweep/")
    _, choices = choices_by_score(records)
    known = [(c.rho, *c.interval) for c in choices if not math.isnan(c.rho)]
    rhos = [f"{rho:.2f} ({low:.2f} to {high:.2f})".replace("-", "−") for rho, low, high in known]
    assert [text for text in seen["rhos"] if text] == rhos

    accuracies = [float(text.split()[0]) for text in seen["second"] if text != "–"]
    assert accuracies == sorted(accuracies, reverse=True)
    assert seen["second"].count("–") == 80 - len(paid)
    assert "–" not in seen["second"][: len(paid)]
    assert seen["byAccuracyUp"] == [*seen["second"][: len(paid)][::-1], *["–"] * (80 - len(paid))]
    assert seen["byAlpha"] == [f"{alpha:.3f}" for alpha in sorted(r.alpha for r in records)]
    assert seen["byAlphaDown"] == seen["byAlpha"][::-1]
    assert seen["sorts"] == 1

    highest = max(records, key=lambda r: r.alpha)
    assert highest.path.removeprefix("sweep/") in seen["picked"]
    assert (seen["highlighted"], seen["pressed"]) == (2, 1)  # its spectrum and its line

    low, high = intervals[-1]
    assert f"paid {len(paid)}, saved {80 - len(paid)}. " in seen["replay"]
    assert f"{low:.3f} – {high:.3f}" in seen["replay"]
    low, high = intervals[29]
    paid_then = sum(r.accuracy is not None for r in records[:30])
    assert f"30 of 80 models. Readouts paid {paid_then}, " in seen["then"]
    assert f"{low:.3f} – {high:.3f}" in seen["then"]
    assert seen["later"] == 50
    lowest = min(records, key=lambda r: r.alpha)
    assert seen["tip"].startswith(lowest.path.removeprefix("sweep/"))
    assert seen["rings"] == 2 - (lowest.accuracy is None) - (highest.accuracy is None)


def trainings(lambdas=(0.01, 0.1, 1.0), *, names=True, labels=True):
    """A few trainings from their first step on, of which the last steps were read out."""
    found = []
    for place, lambd in enumerate(lambdas):
        run = f"runs/lambd={lambd},width=64" if names else f"runs/{place}"
        peaks = dict(
            zip((0, 100, 200, 400, 700, 1000), (1.5, 1.9, 2.0, 1.9, 1.8, 1.7), strict=True)
        )
        found += [
            record(
                alpha + place / 10,
                accuracy=60 - 9 * place if labels and step >= 700 else None,
                path=f"{run}/step={step}.ckpt",
                run=run,
                global_step=step,
                scores={"rankme": 100 - place},
                metrics={"val_loss": 9 + place, "val_twins_error": 0.1 + 0.1 * place},
                params={} if names else {"lambd": lambd, "width": 64, "optimizer": "a<b" * place},
            )
            for step, alpha in peaks.items()
        ]
    return found


@needs_browser
@pytest.mark.parametrize("width", [500, 1280])
def test_browser_shows_a_sweep(tmp_path, width):
    records = trainings()
    seen = browse(
        write_report(tmp_path / "report.html", records),
        width=width,
        actions="""
        result.step = document.querySelector("#now").textContent;
        slide("#step", 0);
        await wait();
        result.atFirst = count("#curves .spectra_marks path");
        document.querySelector("#play").click();
        await new Promise(done => setTimeout(done, 5000));
        result.played = document.querySelector("#now").textContent;
        result.button = document.querySelector("#play").textContent;
        document.querySelector("#parallel .save").click();
        result.svg = saved.written;
        document.querySelector("#csv").click();
        result.csv = saved.written;
        """,
    )
    assert seen["verdict"].startswith("Keep runs/lambd=0.01,width=64/step=1000.ckpt")
    assert (seen["lines"], seen["parallel"], seen["spectra"], seen["atFirst"]) == (3, 3, 3, 3)
    assert seen.get("replay") is None  # no search pays for the last models first
    assert seen["step"] == seen["played"] == "step 1,000"
    assert seen["button"] == "▶"
    assert "var(" not in seen["svg"]
    assert re.match(r'<svg [^>]*xmlns="http://www.w3.org/2000/svg"', seen["svg"])
    header, *rows = csv.reader(io.StringIO(seen["csv"]))
    assert header[:3] == ["model", "lambd", "accuracy"]
    alphas = [float(row[header.index("α")]) for row in rows]
    assert alphas == pytest.approx([r.alpha for r in records], rel=1e-8)  # nine digits are kept


@needs_browser
def test_browser_shows_one_training(tmp_path):
    records = trainings((0.1,))
    name = "word" * 30  # longer than a phone is wide
    records = [replace(r, path=f"{r.path}/{name}") for r in records]
    seen = browse(
        write_report(tmp_path / "report.html", records[3:], course=records),
        width=500,
        actions="""
        result.phases = [...document.querySelectorAll("#course p .key")].map(k => k.textContent);
        result.choice = count("#course-alpha .choice_marks path");
        press(document.querySelector("#course-alpha"), "ArrowRight");
        await wait();
        result.tip = document.querySelector("#course-alpha ~ .tip").textContent;
        """,
    )
    assert (seen["rows"], seen["lines"], seen["parallel"]) == (3, 1, 0)
    assert seen["phases"] == ["unknown", "warming up", "settling"]
    assert seen["choice"] == 1
    assert "step 0, α 1.500, unknown" in seen["tip"]


@needs_browser
def test_browser_without_readouts(tmp_path):
    records, _ = landscape(30, read_out=False)
    seen = browse(write_report(tmp_path / "report.html", records), width=500)
    nearest = min(records, key=lambda r: abs(r.alpha - 1))
    assert "choices" not in seen["cards"]
    assert (seen["dots"], seen["ticks"]) == (30, 0)
    assert seen.get("replay") is None
    assert seen["first"][0] == nearest.path.removeprefix("sweep/")


@needs_browser
def test_browser_with_a_thousand_models(tmp_path):
    records, _ = landscape(1000)
    paid = sum(r.accuracy is not None for r in records)
    last = "rows.at(-1).click(); await wait(); result.curves = count('#curves .strong_marks path');"
    seen = browse(write_report(tmp_path / "report.html", records), actions=last)
    assert (seen["dots"], seen["ticks"], seen["rows"]) == (paid, 1000 - paid, 1000)
    assert (seen["spectra"], seen["curves"]) == (60, 1)


def evil_record():
    return record(1.2, problem=EVIL, layer=EVIL, run=EVIL, params={EVIL: EVIL, "__proto__": EVIL})


HARD = {
    "one": ([record(1.1, accuracy=70.0)], 1),
    "no alpha": ([record(math.nan, fit_range=None, eigenvalues=())], 0),
    "no alpha, read out": ([record(math.nan, accuracy=9.0, fit_range=None, eigenvalues=())], 0),
    "alpha alone": ([record(1.0, eigenvalues=()), record(2.0, eigenvalues=())], 0),
    "failed": ([record(1.0, accuracy=math.nan), record(1.5, accuracy=60.0)], 1),
    "all failed": ([record(1.0, accuracy=math.nan, scores={"rankme": 3.0})], 1),
    "a score of some": ([record(1.0, scores={"rankme": 3.0}), record(1.5)], 1),
    "equal": ([record(1.0, accuracy=50.0)] * 12, 12),
    "evil": ([record(1.0, accuracy=5.0, path=EVIL), evil_record()], 1),
}


@needs_browser
@pytest.mark.parametrize("name", HARD)
def test_browser_survives(tmp_path, name):
    records, dots = HARD[name]
    seen = browse(write_report(tmp_path / "report.html", records, title=EVIL))
    assert seen["dots"] == dots
    assert seen["rows"] == len(records)
    if name == "evil":
        assert seen["first"] == [EVIL, "step 2000"]


# ---- What the page knows, without a browser ----


def test_hyperparameters_are_read_from_records_and_names():
    def shown(records):
        data = report_data(records)
        return data["params"], [
            [model[f"param {name}"] for name in data["params"]] for model in data["models"]
        ]

    assert shown(trainings()[5::6]) == (["lambd"], [[0.01], [0.1], [1.0]])
    named, values = shown(trainings(names=False)[5::6])
    assert named == ["lambd", "optimizer"]  # what is the same in all is no axis
    assert values == [[0.01, ""], [0.1, "a<b"], [1.0, "a<ba<b"]]
    assert shown(landscape(5)[0])[0] == []
    assert shown(trainings((0.1,)))[0] == []  # the step of a checkpoint is none


def test_choices_are_those_of_the_scores():
    records = trainings()
    count, found = choices_by_score(records)
    assert count == 3  # the newest of each
    by = {choice.criterion: choice for choice in found}
    assert list(by) == ["α", "RankMe", "Barlow Twins error", "loss", "random", "oracle"]
    assert by["α"].choice is records[5]
    assert (by["α"].accuracy, by["α"].lost) == (60, 0)
    assert math.isnan(by["α"].rho)  # of three models
    assert by["random"][1:4] == (None, 51, 9)
    four = trainings((0.01, 0.1, 0.3, 1.0))
    assert choices_by_score(four)[1][0].rho == pytest.approx(1, abs=FLOAT32)
    turned = [with_values(r, accuracy=-r.accuracy) for r in four if r.accuracy is not None]
    assert choices_by_score(turned)[1][0].rho == pytest.approx(-1, abs=FLOAT32)
    assert choices_by_score(records[:1])[1] == []
    _, found = choices_by_score(records, chosen=records[5])
    assert (found[0].criterion, found[0].accuracy) == ("the verdict", 60)


def test_rho_and_its_interval():
    rng = np.random.default_rng(0)
    models = [
        record(1 + abs(x), path=f"{i}/a.ckpt", accuracy=50 - abs(x) + rng.normal(0, 0.5))
        for i, x in enumerate(rng.normal(size=24))
    ]
    _, (first, *_) = choices_by_score(models)
    nearness = [-(r.alpha - 1) for r in models]
    rho = scipy.stats.spearmanr(nearness, [r.accuracy for r in models]).statistic
    assert first.rho == pytest.approx(rho, abs=FLOAT32)
    z, error = math.atanh(rho), 1.96 * math.sqrt((1 + rho**2 / 2) / 21)  # Bonett and Wright, 2000
    ends = (math.tanh(z - error), math.tanh(z + error))
    assert first.interval == pytest.approx(ends, abs=FLOAT32)
    few = [r for r in trainings((0.1, 0.2, 0.3, 0.4)) if r.global_step == 1000]
    low, high = choices_by_score(few)[1][0].interval  # a perfect order of four proves little
    assert low < 0 < high < 1


def test_the_course_joins_checkpoints_and_measurements():
    records = trainings((0.1,))
    [course] = report_data(records[3:], course=[replace(r, path=None) for r in records])["courses"]
    assert [point["step"] for point in course] == [0, 100, 200, 400, 700, 1000]
    assert [point["model"] for point in course] == [None, None, None, 0, 1, 2]
    assert [point["phase"] for point in course][-1] == "settling"
    mixed = [*records, with_values(records[0], layer="fc", path="b")]
    assert report_data(mixed)["courses"] == []


def test_the_verdict_is_told_with_its_reasons():
    labels = dict(report_data(trainings())["verdict"])
    assert labels["verdict"].startswith("runs/lambd=0.01")
    assert labels["advice"]
    mixed = [record(1.0, layer="fc"), record(1.0)]
    assert report_data(mixed)["verdict"][0][0] == "no verdict"
    roles = [model["role"] for model in report_data(trainings())["models"]]
    assert roles.count("choice") == 1
