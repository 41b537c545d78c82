"""The colours of all figures; the pages have theirs in `templates/style.css`."""

# Methods that have none here get matplotlib's own, in order.
METHODS = {
  "datamodel": "#c1272d",
  "influence": "#eecc16",
  "trak": "#008176",
  "tracin": "#b3b3b3",
  "similar": "#0000a7",
  "close": "#5b8ff9",
  "svm": "#e377c2",
  "pixels": "#9467bd",
  "random": "#777777",
  "relabel": "#d35400",
}
MARGIN_POINTS = "#c1272d"
FULL_DATA_POINTS = "#444444"
LDS_HISTOGRAM = "#0000a7"
GUIDE_LINE = "black"
LEVEL_LINE = "#777777"
CURVE_MAP = "tab20"
