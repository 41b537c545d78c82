"""One HTML page that needs no other file."""

import base64
import functools
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
from matplotlib import figure as mpl_figure
from matplotlib.backends import backend_agg

from jaxdm.report.browser import Browser

# The section that a browser of targets fills.
TARGETS = "targets"

_DPI = 120


class Table(NamedTuple):
  """A table of plain values.

  Attributes:
    header: of the columns.
    rows: of cells.
    caption: what they are.
    is_text: whether cells are words, which may take several lines.
  """

  header: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str = ""
  is_text: bool = False


class Picture(NamedTuple):
  """A picture with its bytes inside the page.

  Attributes:
    data: a PNG file.
    alt: what it shows, for those who do not see it.
    caption: what it means.
  """

  data: bytes
  alt: str
  caption: str = ""


class Section(NamedTuple):
  """A part of the page: paragraphs, then pictures, then tables.

  Attributes:
    name: its anchor.
    heading: above it.
    texts: paragraphs of plain text.
    pictures: below these.
    tables: below these.
    folded: whether it is closed until a reader opens it.
  """

  name: str
  heading: str
  texts: Sequence[str] = ()
  pictures: Sequence[Picture] = ()
  tables: Sequence[Table] = ()
  folded: bool = False


def png(fig: mpl_figure.Figure) -> bytes:
  """A figure as PNG bytes, whatever backend the process draws with."""
  buffer = io.BytesIO()
  fig.set_dpi(_DPI)
  backend_agg.FigureCanvasAgg(fig).print_png(buffer)
  return buffer.getvalue()


def page(
  title: str,
  sections: Sequence[Section],
  *,
  opening: Sequence[str] = (),
  warning: str = "",
  browser: Browser | None = None,
) -> str:
  """The whole page.

  Args:
    title: its heading.
    sections: in order.
    opening: paragraphs before the first section.
    warning: a paragraph before these that stands out; empty: there is none.
    browser: what the section `TARGETS` shows.
  """
  template = _templates().get_template("report.html")
  return template.render(
    title=title,
    sections=sections,
    opening=opening,
    warning=warning,
    browser=browser,
    targets_name=TARGETS,
  )


@functools.cache
def _templates() -> jinja2.Environment:
  """The templates of this package; every value in them is escaped."""
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader("jaxdm.report"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
  return environment
