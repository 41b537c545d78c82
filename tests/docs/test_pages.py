"""README and site: links, anchors, pictures, commands, and what has a page."""

import ast
import dataclasses
import functools
import json
import pathlib
import re
import textwrap
import typing
import urllib.parse
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import jaxdm
from experiments.config import settings
from experiments.runtime import workdir_models

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
URL = re.search(r"^url = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]


def prose(path: pathlib.Path) -> str:
  """A page without its blocks of code."""
  return re.sub(r"(?ms)^```.*?^```$", "", path.read_text(encoding="utf-8"))


def links(path: pathlib.Path) -> list[str]:
  """The targets of a page's links and pictures."""
  text = re.sub(r"`[^`\n]*`", "", prose(path))
  found = re.findall(r"\]\(([^)\s]+)\)", text)
  return found + re.findall(r'(?:href|src)="([^"]+)"', text)


@functools.cache
def anchors(path: pathlib.Path) -> set[str]:
  """The anchors that both GitHub and mkdocs give to the headings of a page."""
  found = set()
  for heading in re.findall(r"(?m)^#+ (.+)$", prose(path)):
    plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading))
    github = plain.strip().lower().replace(" ", "-")
    if github == re.sub(r"[-\s]+", "-", github):
      found.add(github)
  return found


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_no_link_is_dead(page) -> None:
  dead = []
  for link in links(page):
    if re.match(r"[a-z]+:", link):
      parts = urllib.parse.urlsplit(link)
      is_well_formed = parts.scheme == "https" and "." in parts.netloc
      if not is_well_formed:
        dead.append(link)
      continue
    target, _, anchor = link.partition("#")
    path = (page.parent / target).resolve() if target else page
    if not path.exists() or (anchor and anchor not in anchors(path)):
      dead.append(link)
  assert dead == []


def test_the_readme_fits_on_some_screens() -> None:
  lines = README.read_text(encoding="utf-8").splitlines()
  assert len(lines) <= 150
  wrapped = [line for line in lines if not re.match(r"\||!|<|python3|\[", line)]
  assert max(map(len, wrapped)) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_tables_are_complete(page) -> None:
  for table in re.findall(r"(?m)(?:^\|.*\n)+", prose(page)):
    rows = [re.split(r"(?<!\\)\|", row)[1:-1] for row in table.splitlines()]
    assert len({len(row) for row in rows}) == 1, table[:200]
    is_rule = [all(re.fullmatch(r" *:?-{3,}:? *", c) for c in row) for row in rows]
    assert is_rule == [False, True] + [False] * (len(rows) - 2), table[:200]
  # A row that lost its beginning.
  assert re.findall(r"(?m)^[^|\n].*\|$", prose(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_examples_are_python(page) -> None:
  text = page.read_text(encoding="utf-8")
  for code in re.findall(r"(?ms)^ *```python\n(.*?)^ *```$", text):
    ast.parse(textwrap.dedent(code))


def test_pictures_are_shown_and_small() -> None:
  shown = {
    (page.parent / link).resolve()
    for page in PAGES
    for link in links(page)
    if link.endswith(".png")
  }
  assert shown == set(DOCS.glob("*.png"))
  assert max(path.stat().st_size for path in shown) < 150_000


def test_every_page_is_in_the_navigation() -> None:
  named = re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
  assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_every_public_name_is_on_the_page_of_names() -> None:
  named = re.findall(r"(?m)^::: jaxdm\.(\w+)$", (DOCS / "api.md").read_text())
  assert sorted(named) == sorted(jaxdm.__all__)


def commands(path: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
  """The modules that a page runs, each with the flags of its command."""
  text = path.read_text(encoding="utf-8").replace("\\\n", " ")
  for block in re.findall(r"(?ms)^```bash\n(.*?)^```$", text):
    for module, rest in re.findall(r"python -m (experiments[\w.]+)([^#\n]*)", block):
      yield module, re.findall(r"--(\w+)", rest)
  text = re.sub(r"(?ms)^```.*?^```$", "", text)
  for module, rest in re.findall(r"python\s+-m\s+(experiments[\w.]+)([^`]*)`", text):
    yield module, re.findall(r"--(\w+)", rest)


def test_commands_exist() -> None:
  page = flags_page()
  for path in PAGES:
    for module, names in commands(path):
      file = ROOT / f"{module.replace('.', '/')}.py"
      assert "__main__" in file.read_text(encoding="utf-8"), (path.name, module)
      unknown = [
        n
        for n in {*names} - {"help", "helpfull"}
        if not re.search(rf"-(\[no\])?{n}`", page)
      ]
      assert unknown == [], (path.name, module)


@functools.cache
def flags_page() -> str:
  """The page of programs and flags, as the site has it."""
  from experiments.runtime import flags_page

  return flags_page.page()


def defined_flags(path: pathlib.Path) -> set[str]:
  """The names in a module's definitions of flags, and in its dataclasses of settings."""
  text = path.read_text(encoding="utf-8")
  found = set(re.findall(r'(?:DEFINE_\w+|define_path)\(\s*"(\w+)"', text))
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.ClassDef) and re.search("Config$|^Speed$", node.name):
      found |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
  return found


def test_every_flag_and_program_is_on_the_page_of_flags() -> None:
  configs = (
    "brittleness/config",
    "datamodels/config",
    "training/config",
    "training/speed",
  )
  files = [ROOT / "jaxdm" / f"{name}.py" for name in configs]
  files += (ROOT / "experiments").rglob("*.py")
  page = flags_page()
  names = set().union(*map(defined_flags, files))
  assert {"alpha", "max_share", "vmap_width", "scores", "workdir", "drill"} <= names
  missing = [n for n in sorted(names) if f"`--{n}`" not in page]
  assert [n for n in missing if f"`--[no]{n}`" not in page] == []
  for path in files:
    if "\nif __name__" in path.read_text(encoding="utf-8"):
      module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
      assert f"\n### {module}\n" in page


def test_the_page_of_flags_says_what_help_says() -> None:
  page = flags_page()
  assert (
    "- `--alpha`: Share of the training set in each random subset. [fashion: 0.5]\n"
    in (page)
  )
  assert "in [0, 2\\*\\*32)" in page  # Neither Markdown nor HTML there.
  assert "- `--preset`: &lt;fashion|" in page


def test_the_address_of_the_repository_is_one() -> None:
  assert f"\nrepo_url: {URL}\n" in (ROOT / "mkdocs.yml").read_text()
  assert f"\nrepository-code: {URL}\n" in (ROOT / "CITATION.cff").read_text()
  for path in (ROOT / "colabs").glob("*.ipynb"):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
      for address in re.findall(
        r"github(?:\.com)?/([\w-]+/[\w-]+)", "".join(cell["source"])
      ):
        assert URL.endswith(f"/{address}"), path.name


@pytest.mark.slow
def test_the_example_of_the_readme_finds_removals(capsys) -> None:
  [code] = re.findall(r"(?ms)^```python\n(.*?)^```$", README.read_text(encoding="utf-8"))
  assert len([line for line in code.splitlines() if line]) <= 15
  names: dict = {}
  exec(code, names)
  lines = capsys.readouterr().out.splitlines()
  assert len(lines) == 2
  for line in lines:
    target, removed = (
      int(line[0]),
      set(map(int, re.search(r"\((.*?),?\)", line)[1].split(","))),
    )
    x, labels = names["x"], names["labels"]
    rest = [i for i in range(len(labels)) if i not in removed]
    fresh = LogisticRegression().fit(x[rest], labels[rest])
    full = LogisticRegression().fit(x, labels)
    image, right = names["x_target"][[target]], names["target_labels"][target]
    assert full.predict(image) == right
    assert fresh.predict(image) != right
  assert np.isfinite(names["verdict"].margin_high)


def test_all_settings_that_models_depend_on_are_said_to_stay() -> None:
  text = (DOCS / "how_it_works.md").read_text(encoding="utf-8")
  stays = text.partition("**What cannot change.**")[2].partition("**Files")[0]
  recipe = text.partition("\n## The recipe")[2].partition("\n## ")[0]
  kinds = typing.get_type_hints(settings.Experiment)
  groups = [group for group in workdir_models.BINDING if group != "start"]
  names = [field.name for group in groups for field in dataclasses.fields(kinds[group])]
  binding = {*names, "preset"} - {*settings.GROWING}
  missing = {name for name in binding if f"--{name}`" not in stays + recipe}
  assert not missing
