"""What mkdocs calls: links to files of the repository, and the page of all flags."""

import pathlib
import posixpath
import re
import sys
from typing import Any

DOCS = pathlib.Path(__file__).parent
FLAGS_MARK = "<!-- flags -->"
# A relative link or picture: `](target)` without a scheme, with an optional anchor.
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]+)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
  """The text of a page as the site shows it."""
  if FLAGS_MARK in markdown:
    sys.path.insert(0, str(DOCS.parent))  # The programs are not installed.
    from experiments.runtime import flags_page

    markdown = markdown.replace(FLAGS_MARK, flags_page.page())
  return link_to_repository(markdown, config.repo_url)


def link_to_repository(markdown: str, url: str) -> str:
  """Points links to files that are no part of the site to the repository.

  Args:
    markdown: of a page in docs/.
    url: of the repository.
  """

  def pointed(found: re.Match[str]) -> str:
    target, anchor = found.group(1), found.group(2) or ""
    path = posixpath.normpath(posixpath.join("docs", target))
    is_page = pathlib.PurePosixPath(path).suffix in (".md", ".png")
    if is_page and path.startswith("docs/"):
      return found.group()
    kind = "tree" if (DOCS / target).is_dir() else "blob"
    return f"]({url}/{kind}/main/{path}{anchor})"

  return _LINK.sub(pointed, markdown)
