"""The colours of figures, but for those of methods (`attribution.registry`).

The pages have theirs in `templates/style.css`.
"""

MARGIN_POINTS = "#c1272d"
FULL_DATA_POINTS = "#444444"
LDS_HISTOGRAM = "#0000a7"
GUIDE_LINE = "black"
LEVEL_LINE = "#777777"
CURVE_MAP = "tab20"
