"""Look at an installed wheel, for ``make wheel`` and ``make dist``: ``tests/wheel.py [FOLDER]``."""

import sys
from importlib import import_module, metadata
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement

IMPORTED_AS = {"scikit-learn": "sklearn", "vl-convert-python": "vl_convert"}
OF_USERS = ("plot", "readout", "report", "demo", "sweep", "timm")
DATA = ("py.typed", "report/page.css", "report/page.html", "report/page.js")


def main(folder: str | None = None) -> None:
    """Fail where a file, a public name or what an extra brings is missing."""
    if folder is not None:
        sys.path.insert(0, str(Path(folder).resolve()))
    package = import_module("alphareq_lightning")
    place, checkout = Path(package.__file__).parent, Path(__file__).resolve().parents[1]
    assert place.parent != checkout / "src", f"{place} is the checkout, not the wheel"
    rooms = [package, *(import_module(f"{package.__name__}.{path.name}") for path in _rooms(place))]
    names = [(room, name) for room in rooms for name in getattr(room, "__all__", ())]
    for room, name in names:
        getattr(room, name)
    for name in DATA:
        assert files(package).joinpath(name).is_file(), f"the wheel lacks {name}"
    installed = metadata.distribution("alphareq-lightning")
    assert Path(str(installed.locate_file(""))).resolve() == place.parent.resolve()
    brought = set()
    for line in installed.requires or []:
        requirement = Requirement(line)
        if any(requirement.marker and requirement.marker.evaluate({"extra": e}) for e in OF_USERS):
            brought.add(requirement.name)
    brought.discard("alphareq-lightning")
    for name in brought:
        import_module(IMPORTED_AS.get(name, name))
    print(f"{place}: {len(names)} public names, {len(DATA)} files, {', '.join(sorted(brought))}")


def _rooms(place: Path) -> list[Path]:
    return sorted(path.parent for path in place.glob("*/__init__.py"))


if __name__ == "__main__":
    main(*sys.argv[1:])
