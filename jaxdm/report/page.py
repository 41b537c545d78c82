"""One HTML page that needs no other file."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure as mpl_figure

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem .75rem; border-bottom: 1px solid #ddd; text-align: right; }
td:first-child, th:first-child { text-align: left; }
img { max-width: 100%; }
p.note { color: #555; }
"""


def png(fig: mpl_figure.Figure) -> bytes:
  """A figure as PNG bytes."""
  buffer = io.BytesIO()
  fig.savefig(buffer, format="png", dpi=120)
  return buffer.getvalue()


def image(data: bytes, alt: str) -> str:
  """An image with its bytes inside the page."""
  text = base64.b64encode(data).decode()
  return f'<img src="data:image/png;base64,{text}" alt="{html.escape(alt)}">'


def paragraph(text: str, *, note: bool = False) -> str:
  """A paragraph of plain text."""
  return f"<p{' class=note' if note else ''}>{html.escape(text)}</p>"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """A table of plain values."""

  def line(cells: Sequence[Any], tag: str) -> str:
    inner = "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells)
    return f"<tr>{inner}</tr>"

  return f"<table>{line(header, 'th')}{''.join(line(r, 'td') for r in rows)}</table>"


def settings_table(settings: Mapping[str, Mapping[str, Any]]) -> str:
  """All settings, a row each."""
  rows = [(f"{g}.{k}", v) for g, values in settings.items() for k, v in values.items()]
  return table(("setting", "value"), rows)


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
  """The whole page.

  Args:
    title: its heading.
    sections: (heading, HTML) pairs.
  """
  body = "".join(f"<h2>{html.escape(name)}</h2>{inner}" for name, inner in sections)
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
    f"<body><h1>{html.escape(title)}</h1>{body}</body></html>"
  )
