"""Imports go down only, and the library knows nothing of its launchers."""

import ast
import graphlib
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
# From the ground up; a module imports from its own floor or from those below it.
FLOORS = (
  {
    "typing",
    "errors",
    "labels",
    "intervals",
    "numerics",
    "cgroups",
    "memory",
    "rounding",
    "progress",
    "devices",
    "prng",
    "identity",
    "matrices",
    "tiling",
  },
  {"training_sets"},
  {"storage"},
  {"data", "margins"},
  {"training", "lasso"},
  {"attribution", "datamodels"},
  {"brittleness", "problems"},
  {"audits"},
  {"report"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: pathlib.Path) -> list[tuple[str, ...]]:
  """The modules of this project that a file imports, as parts of their names."""
  found = []
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
      found += [f"{node.module}.{alias.name}" for alias in node.names]
  names = [tuple(name.split(".")) for name in found]
  return [parts for parts in names if parts[0] in ("jaxdm", "experiments", "support")]


def test_every_room_has_a_floor() -> None:
  paths = (ROOT / "jaxdm").iterdir()
  rooms = {p.stem for p in paths if p.is_dir() or p.suffix == ".py"}
  assert rooms - {"__init__", "__pycache__", "py"} == FLOOR_OF.keys()


def test_imports_go_down() -> None:
  wrong = []
  for path in (ROOT / "jaxdm").rglob("*.py"):
    room = path.relative_to(ROOT / "jaxdm").parts[0].removesuffix(".py")
    for parts in imports(path):
      inside = parts[0] == "jaxdm"
      if not inside or (room != "__init__" and FLOOR_OF[parts[1]] > FLOOR_OF[room]):
        wrong.append((str(path), parts))
  assert wrong == []


def test_rooms_form_no_cycle() -> None:
  rooms_below: dict[str, set[str]] = {room: set() for room in FLOOR_OF}
  for path in (ROOT / "jaxdm").rglob("*.py"):
    room = path.relative_to(ROOT / "jaxdm").parts[0].removesuffix(".py")
    if room != "__init__":
      rooms_below[room] |= {parts[1] for parts in imports(path)} - {room}
  graphlib.TopologicalSorter(rooms_below).prepare()  # CycleError names the rooms.


def test_what_programs_share_imports_no_program() -> None:
  programs = {path.stem for path in (ROOT / "experiments").glob("[!_]*.py")}
  wrong = [
    (str(path), parts)
    for folder in ("config", "report_page", "runtime")
    for path in (ROOT / "experiments" / folder).rglob("*.py")
    for parts in imports(path)
    if parts[0] == "experiments" and parts[1] in programs
  ]
  assert wrong == []


def test_no_test_imports_another() -> None:
  wrong = [
    str(path)
    for path in (ROOT / "tests").rglob("test_*.py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, (ast.Import, ast.ImportFrom))
    for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
    if name.split(".")[0].startswith("test_")
  ]
  assert wrong == []


def test_the_library_reads_no_flag() -> None:
  wrong = [
    str(path)
    for path in (ROOT / "jaxdm").rglob("*.py")
    if "absl" in path.read_text(encoding="utf-8")
  ]
  assert wrong == []


def test_the_library_names_no_flag_or_launcher() -> None:
  wrong = [
    (str(path), node.value)
    for path in (ROOT / "jaxdm").rglob("*.py")
    for tree in [ast.parse(path.read_text(encoding="utf-8"))]
    for node in ast.walk(tree)
    if isinstance(node, ast.Constant) and isinstance(node.value, str)
    if re.search(r"--[a-z]|python -m experiments|launcher", node.value)
  ]
  assert wrong == []


def test_paths_become_epaths_in_one_place() -> None:
  """Which expands a home directory."""
  folders = (ROOT / "jaxdm", ROOT / "experiments")
  found = {
    path.relative_to(ROOT).as_posix()
    for folder in folders
    for path in folder.rglob("*.py")
    if re.search(r"epath\.Path\(", path.read_text(encoding="utf-8"))
  }
  assert found == {"jaxdm/storage/atomic_io.py"}
