"""The site: ``make docs``. It is built without a network, and its pages load nothing from one."""

from __future__ import annotations

import inspect
import re
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.images import get_image_size
from sphinx.util.nodes import make_refnode

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for the records of the study

import alphareq_lightning  # noqa: E402
from alphareq_lightning.commands.main import main  # noqa: E402
from alphareq_lightning.report import write_report  # noqa: E402
from study.records import records_of  # noqa: E402

BUILT = HERE / "_build"
EXTRA = BUILT / "extra"
HIDDEN: list[tuple[Any, dict[str, Any]]] = []
REPORTS = {"long_study": 4000, "early": 400}
"""Pages of the grid of the long study, up to a step."""

project = "alphareq-lightning"
copyright = "the authors of alphareq-lightning"
version = release = alphareq_lightning.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "alphareq-lightning"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = [str(EXTRA)]
html_math_renderer = "mathml"
html_domain_indices = False
myst_heading_anchors = 3

# Google docstrings. A single backtick is a reference where the name is known, and code elsewhere.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autosummary_generate = False
add_module_names = False
python_use_unqualified_type_names = True

# A build without a network falls back to the second inventory, which names nothing.
NAMELESS = BUILT / "nameless.inv"
intersphinx_timeout = 5
intersphinx_mapping = {
    name: (url, (None, str(NAMELESS)))
    for name, url in {
        "python": "https://docs.python.org/3",
        "numpy": "https://numpy.org/doc/stable",
        "torch": "https://docs.pytorch.org/docs/stable",
        "lightning": "https://lightning.ai/docs/pytorch/stable",
        "torchmetrics": "https://lightning.ai/docs/torchmetrics/stable",
    }.items()
}


def write_files(*_: Any) -> None:
    """Write the inventory without names, and the reports of the gallery."""
    EXTRA.mkdir(parents=True, exist_ok=True)
    header = "# Sphinx inventory version 2\n# Project: none\n# Version: none\n# zlib\n"
    NAMELESS.write_bytes(header.encode() + zlib.compress(b""))
    files = sorted((HERE.parent / "study/results/barlow_twins").glob("*.json"))
    every = [record for file in files for record in records_of(file)]
    for name, end in REPORTS.items():
        course = [record for record in every if record.global_step <= end]
        last = [record for record in course if record.global_step == end]
        title = f"24 Barlow Twins after {end:,} steps"
        write_report(EXTRA / f"report_{name}.html", last, course=course, title=title)


class CommandHelp(Directive):
    """What ``alphareq NAME --help`` prints."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Ask the command itself."""
        said = StringIO()
        plain = mock.patch.dict("os.environ", {"COLUMNS": "84", "NO_COLOR": "1"})
        with plain, redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
            main([self.arguments[0], "--help"])
        text = "".join(c for c in said.getvalue() if c.isprintable() or c == "\n")
        return [nodes.literal_block(text, text, language="none")]


def note_public_names(_: Any, env: Any) -> None:
    """Let `AlphaMonitor` and ``alphareq_lightning.AlphaMonitor`` lead to where it is described."""
    objects, package = env.get_domain("py").objects, alphareq_lightning.__name__
    for name in alphareq_lightning.__all__:
        [described] = [
            key
            for key, entry in objects.items()
            if not entry.aliased and key.startswith(package) and key.split(".")[1:][-1:] == [name]
        ]
        for other in {name, f"{package}.{name}"} - {described}:
            objects[other] = objects[described]._replace(aliased=True)


def link_public_names(app: Any, doctree: nodes.document, page: str) -> None:
    """Make a link of each public name that a page writes as code."""
    objects = app.env.get_domain("py").objects
    for literal in list(doctree.findall(nodes.literal)):
        name = literal.astext()
        inside = isinstance(literal.parent, (nodes.reference, nodes.title))
        if name in alphareq_lightning.__all__ and not inside:
            to = objects[f"{alphareq_lightning.__name__}.{name}"]
            link = make_refnode(app.builder, page, to.docname, to.node_id, literal.deepcopy())
            literal.replace_self(link)


def link_pictures(app: Any, doctree: nodes.document, _: str) -> None:
    """Make a link to its full size of each picture: Sphinx does so where a width is set."""
    for image in doctree.findall(nodes.image):
        size = get_image_size(app.srcdir / image["uri"])
        if size is not None:
            image["width"] = f"{size[0]}px"


def prepare_docstring(_: Any, what: str, *rest: Any) -> None:
    """Keep napoleon from reading "The first ones: they are …" as a type; show commands as code."""
    lines = rest[-1]
    lines[:] = [re.sub(r"^(\s+)(alphareq .+)$", r"\1``\2``", line) for line in lines]
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]  # an empty comment


def plain_types(_: Any, described: Any, __: bool) -> None:
    """Hide from autodoc what an annotation tells the command line, until it has read the types."""
    if inspect.isfunction(described):
        full = described.__annotations__
        HIDDEN.append((described, full))
        described.__annotations__ = {
            name: re.sub(r"^Annotated\[(.+), \w+\]$", r"\1", kind)
            if isinstance(kind, str)
            else kind
            for name, kind in full.items()
        }


def full_types(*_: Any) -> None:
    """Undo `plain_types`: the help of the commands is made of them, too."""
    while HIDDEN:
        described, described.__annotations__ = HIDDEN.pop()


def visit_math(self: Any, node: nodes.Element) -> None:
    """Write MathML, which browsers show without a script."""
    self.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    """Register what is above."""
    app.connect("config-inited", write_files)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)  # before napoleon
    app.connect("autodoc-before-process-signature", plain_types)
    app.connect("autodoc-process-signature", full_types, priority=900)  # after autodoc
    app.connect("env-updated", note_public_names)
    app.connect("doctree-resolved", link_public_names)
    app.connect("doctree-resolved", link_pictures)
    app.add_directive("command-help", CommandHelp)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
