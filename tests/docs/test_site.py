"""What mkdocs calls while it builds the site."""

import importlib.util
import pathlib

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def load(name: str):
  """A module of docs/, which is no package."""
  spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.mark.parametrize(
  ("link", "expected"),
  [
    ("results.md#speed", "results.md#speed"),
    ("story.png", "story.png"),
    ("#here", "#here"),
    ("https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
    ("../CONTRIBUTING.md", "https://a.b/c/blob/main/CONTRIBUTING.md"),
    ("examples/pytorch.py", "https://a.b/c/blob/main/docs/examples/pytorch.py"),
    ("../colabs", "https://a.b/c/tree/main/colabs"),
    ("leaderboard", "https://a.b/c/tree/main/docs/leaderboard"),
  ],
)
def test_links_to_files_of_the_repository_leave_the_site(link, expected) -> None:
  hooks = load("site_hooks")
  changed = hooks.link_to_repository(
    f"see [this]({link}) and ![that]({link}).", "https://a.b/c"
  )
  assert changed == f"see [this]({expected}) and ![that]({expected})."


def test_examples_of_docstrings_become_code() -> None:
  pytest.importorskip("griffe")
  text = "First.\n\n>>> a = [\n...   1]\n>>> a\n[1]\n\nArgs:\n  b: c.\n"
  expected = (
    "First.\n\n```pycon\n>>> a = [\n...   1]\n>>> a\n[1]\n```\n\nArgs:\n  b: c.\n"
  )
  assert load("doctest_blocks").fence(text) == expected
  assert load("doctest_blocks").fence("No example.\n") == "No example.\n"
