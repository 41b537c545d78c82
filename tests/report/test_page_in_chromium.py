"""The page in a browser, as a reader uses it.

Needs Debian's packages:

apt-get install chromium chromium-driver
"""

import csv
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from etils import epath
from support.pages import HOSTILE, NUMBERS, planted, write_audit

from jaxdm.report import browser, page, tables

PROGRAMS = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
MISSING = [name for name, path in PROGRAMS.items() if path is None]
if importlib.util.find_spec("selenium") is None:
  MISSING.append("selenium")
pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]
SOURCES = ("shirts/a.png", "shirts/b.png", f"{HOSTILE}.png", "d.png")


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
  """A browser without a window or a network."""
  from selenium import webdriver

  options = webdriver.ChromeOptions()
  options.binary_location = PROGRAMS["chromium"]
  for argument in (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "window-size=1200,1000",
  ):
    options.add_argument(f"--{argument}")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(PROGRAMS["chromedriver"])
  made = webdriver.Chrome(options, service)
  yield made
  made.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> epath.Path:
  """A page and its table, of planted numbers and names of files as the worst are."""
  path = epath.Path(tmp_path_factory.mktemp("page"))
  names = HOSTILE, "trousers"
  sources = tuple(f"train/{i}.png" for i in range(12))
  made = planted(class_names=names, test_sources=SOURCES, train_sources=sources)
  parts = [page.Section(page.TARGETS, "The targets"), page.Section("audit", "Examples")]
  shown = browser.make_browser(*made, write_audit(path / "audit.csv", names))
  (path / "report.html").write_text(page.page("title", parts, browser=shown))
  vectors = {
    "train_images": made.models.weights_tn.T.copy(),
    "test_images": made.models.weights_tn[:, :4].copy(),
  }
  shown = browser.make_browser(*planted(**vectors))
  (path / "vectors.html").write_text(page.page("title", parts, browser=shown))
  for name, is_repair in (("brittleness", False), ("repair", True)):
    found = [v for v in made.searches["removed"] if v.is_repair == is_repair]
    tables.write_verdicts(path / f"{name}.csv", found, made.base_margins_rt, made.data)
  return path


@pytest.fixture
def reader(driver, folder) -> Iterator[Callable[[str], list[Any]]]:
  """Finds elements by a CSS selector; at the end nothing may be on the console."""
  driver.get("about:blank")
  driver.get(f"file://{folder}/report.html")
  yield lambda selector: driver.find_elements("css selector", selector)
  assert driver.get_log("browser") == []
  assert driver.title == "title"


def rows_of(reader, name: str = "targets") -> list[int]:
  """The targets or examples in the list, in order."""
  return [int(row.get_attribute("data-number")) for row in reader(f"#{name}-body tr")]


def read_table(path: epath.Path) -> list[dict[str, str]]:
  """The rows of a CSV file."""
  with open(path, newline="") as file:
    return list(csv.DictReader(file))


def choose(reader, name: str, value: str) -> None:
  """Chooses an option of a filter."""
  [option] = reader(f"#{name} option[value='{value}']")
  option.click()


def signed(number: str) -> str:
  """A number of a table as the page shows it."""
  return f"{float(number):+.2f}".replace("-", "\u2212")


def test_numbers_are_those_of_the_tables(reader, folder) -> None:
  rows = read_table(folder / "brittleness.csv") + read_table(folder / "repair.csv")
  rows = [row for row in rows if row["method"] == "datamodel"]
  assert [row["is_repair"] for row in rows] == ["False"] * 3 + ["True"]
  for row in rows:
    [line] = reader(f"#targets-body tr[data-number='{row['target']}']")
    line.click()
    cells = [cell.text for cell in line.find_elements("css selector", "td")]
    k = f"> {row['largest']}" if row["censored"] == "True" else row["k"]
    assert cells[3:5] == [signed(row["base_mean_margin"]), k]
    [said] = [found.text for found in reader("#found-removed .verdict")]
    interval = f"[{signed(row['margin_low'])}, {signed(row['margin_high'])}]"
    assert f"mean margin {signed(row['mean_margin'])} {interval}" in said
    assert f"clear after {row['models']} models" in said
    assert said.startswith("Censored" if row["censored"] == "True" else "Verified")
    if row["censored"] == "False":
      what = "right" if row["is_repair"] == "True" else "wrong"
      assert f"with {row['k']} image" in said and f"new models are {what}" in said
      changed = row["examples"].split()[: int(row["k"])]
      shown = [item.text.split()[0] for item in reader("#found-removed .pictures li")]
      assert shown == changed


def test_a_repair_that_was_not_verified_is_censored(reader) -> None:
  reader("#targets-body tr[data-number='3']")[0].click()
  assert "Repair: images relabelled" in reader("#found-relabelled h4")[0].text
  assert reader("#found-relabelled .verdict")[0].text.startswith("Censored")


def test_numbers_of_examples_are_those_of_the_audit(reader, folder) -> None:
  for row in read_table(folder / "audit.csv"):
    [line] = reader(f"#examples-body tr[data-number='{row['index']}']")
    line.click()
    heading = f"Training example {row['index']}: {row['label']}"
    assert reader("#examples-detail h3")[0].text == heading
    assert reader("#examples-detail .soft")[0].text == row["source"]
    models = f"{row['models_in']} trained on it, {row['models_out']} not"
    assert models in reader("#examples-detail")[0].text
    said = reader("#suggestion")[0].text
    is_doubted = row["suggested_label"] != row["label"]
    assert said.endswith(f": {row['suggested_label']}.") == is_doubted
    for name in NUMBERS:
      cells = reader(f"#examples-detail tr[data-name='{name}'] td")
      value, interval = (cell.text.replace("\u2212", "-") for cell in cells)
      if row[name] in ("", "nan"):
        assert (value, interval) == ("unknown", "")
        continue
      low, high = interval.split(" to ")
      for text, column in ((value, ""), (low, "_low"), (high, "_high")):
        assert abs(float(text) - float(row[f"{name}{column}"])) <= 0.005 + 1e-9


def test_examples_are_filtered_and_sorted(reader) -> None:
  assert rows_of(reader, "examples")[:2] == [1, 2]  # By label quality.
  assert rows_of(reader, "examples")[-1] == 4  # Unknown.
  for state, expected in {
    "doubted": [1, 2],
    "suspicious": [1],
    "memorised": [5],
    "paired": [8, 9],
    "": list(range(12)),
  }.items():
    choose(reader, "example-state", state)
    assert sorted(rows_of(reader, "examples")) == expected, state
    assert reader("#examples-count")[0].text == f"{len(expected)} of 12 examples"
  choose(reader, "example-label", "trousers")
  assert sorted(rows_of(reader, "examples")) == [1, 3, 5, 7, 9, 11]
  choose(reader, "example-label", "")
  for name, text, expected in (
    ("label_quality", "0.25", [1]),
    ("memorisation", "0.5", [5]),
    ("text", "10.png", [10]),
  ):
    [field] = reader(f"#example-{name}")
    field.send_keys(text)
    assert sorted(rows_of(reader, "examples")) == expected, name
    field.clear()
    field.send_keys(" \b")
  reader("#examples-head button")[4].click()  # Memorisation.
  reader("#examples-head button")[4].click()
  assert rows_of(reader, "examples")[0] == 5
  assert rows_of(reader, "examples")[-1] == 4  # Still.


def test_examples_and_targets_lead_to_each_other(driver, reader) -> None:
  reader("#targets-body tr[data-number='2']")[0].click()
  reader("#found-removed .pictures a")[0].click()
  assert reader("#examples-detail h3")[0].text.startswith("Training example 5:")
  [chosen] = reader("#examples-body tr[aria-selected='true']")
  assert chosen.get_attribute("data-number") == "5"
  assert driver.switch_to.active_element == chosen
  driver.switch_to.active_element.send_keys("\ue010")
  assert reader("#examples-detail h3")[0].text.startswith("Training example 4:")
  [link, *_] = reader("#examples-detail .pictures a[href^='#target']")
  target = link.text.split()[1]  # The first line is the weight.
  link.click()
  assert reader("#targets-detail h3")[0].text.startswith(f"Target {target}:")


def test_an_address_names_an_example(driver, reader, folder) -> None:
  driver.get("about:blank")
  driver.get(f"file://{folder}/report.html#example=7")
  assert reader("#examples-detail h3")[0].text == "Training example 7: trousers"


def test_targets_are_filtered(reader) -> None:
  assert sorted(rows_of(reader)) == [0, 1, 2, 3]
  for state, expected in {
    "flipped": [0, 2],
    "censored": [1],
    "relabelled": [0, 1, 2],
    "wrong": [3],
    "repaired": [3],
    "searched": [0, 1, 2, 3],
  }.items():
    choose(reader, "by-state", state)
    assert sorted(rows_of(reader)) == expected, state
    assert reader("#targets-count")[0].text == f"{len(expected)} of 4 targets"
  choose(reader, "by-state", "")
  choose(reader, "by-class", "1")
  assert sorted(rows_of(reader)) == [1, 3]
  choose(reader, "by-class", "")
  for name, text, expected in (
    ("by-k", "2", [2, 3]),
    ("by-margin", "1.5", [1, 3]),
    ("by-text", "shirts", [0, 1]),
  ):
    [field] = reader(f"#{name}")
    field.send_keys(text)
    assert sorted(rows_of(reader)) == expected, name
    field.clear()
    field.send_keys(" \b")


def test_targets_are_sorted_by_any_column(reader) -> None:
  assert rows_of(reader) == [2, 3, 0, 1]  # By k; censored ones are last.
  reader("#targets-head button")[3].click()
  assert rows_of(reader) == [3, 1, 0, 2]
  reader("#targets-head button")[3].click()
  assert rows_of(reader) == [2, 0, 1, 3]
  assert reader("#targets-head th")[3].get_attribute("aria-sort") == "descending"


def test_arrow_keys_move_through_the_list(driver, reader) -> None:
  reader("#targets-body tr")[0].click()
  for key, expected in (("\ue015", 3), ("\ue015", 0), ("\ue013", 3), ("\ue010", 1)):
    driver.switch_to.active_element.send_keys(key)
    [chosen] = reader("#targets-body tr[aria-selected='true']")
    assert int(chosen.get_attribute("data-number")) == expected
    assert driver.switch_to.active_element == chosen
    assert reader("#targets-detail h3")[0].text.startswith(f"Target {expected}:")


def test_another_method_on_the_target_is_shown(reader) -> None:
  choose(reader, "by-method", "datamodel")
  reader("#targets-body tr[data-number='2']")[0].click()
  assert "with 2 images relabelled" in reader("#found-relabelled .verdict")[0].text
  choose(reader, "search-method", "random")
  assert "budget of models ran out" not in reader("#found-removed .verdict")[0].text
  assert reader("#found-removed .verdict")[0].text.startswith("Censored")
  assert reader("#found-relabelled") == []  # By the datamodel alone.


def test_nothing_is_fetched(driver, reader) -> None:
  names = driver.execute_script(
    "return performance.getEntriesByType('resource').map((entry) => entry.name)"
  )
  assert all(name.startswith("data:") for name in names)
  assert reader("[src]:not([src^='data:']), link:not([href^='data:'])") == []


def test_names_are_shown_as_they_are(reader) -> None:
  reader("#targets-body tr[data-number='2']")[0].click()
  assert reader("#targets-detail h3")[0].text == f"Target 2: {HOSTILE}"
  assert reader("#targets-detail .soft")[0].text == SOURCES[2]
  assert reader("img") == []


def test_every_thumbnail_says_what_it_shows(reader) -> None:
  shown = reader(".thumb")
  assert len(shown) > 10
  assert all(thumb.get_attribute("aria-label") for thumb in shown)
  assert all(svg.get_attribute("aria-label") for svg in reader("svg"))


def test_a_narrow_screen_need_not_scroll_sideways(driver, reader) -> None:
  size = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
  driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
  width = driver.execute_script("return document.documentElement.scrollWidth")
  reader("#examples-body tr")[0].click()
  widest = driver.execute_script("return document.documentElement.scrollWidth")
  driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
  assert width <= 360 and widest <= 360


def test_vectors_have_a_page_without_pictures(driver, reader, folder) -> None:
  driver.get(f"file://{folder}/vectors.html")
  reader("#targets-body tr[data-number='1']")[0].click()
  assert reader("#targets-detail h3")[0].text == "Target 1: class 1"
  assert reader(".thumb") == [] and len(reader(".pictures li")) > 10
  assert reader("#audit .browser") == []  # Nothing was audited.
