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
from support.pages import HOSTILE, planted

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
  made = planted(class_names=(HOSTILE, "trousers"), test_sources=SOURCES)
  section = page.Section(page.TARGETS, "The targets")
  shown = browser.make_browser(*made)
  (path / "report.html").write_text(page.page("title", [section], browser=shown))
  vectors = {
    "train_images": made.models.weights_tn.T.copy(),
    "test_images": made.models.weights_tn[:, :4].copy(),
  }
  shown = browser.make_browser(*planted(**vectors))
  (path / "vectors.html").write_text(page.page("title", [section], browser=shown))
  tables.write_verdicts(
    path / "brittleness.csv", made.searches["removed"], made.base_margins_rt, made.data
  )
  return path


@pytest.fixture
def reader(driver, folder) -> Iterator[Callable[[str], list[Any]]]:
  """Finds elements by a CSS selector; at the end nothing may be on the console."""
  driver.get("about:blank")
  driver.get(f"file://{folder}/report.html")
  yield lambda selector: driver.find_elements("css selector", selector)
  assert driver.get_log("browser") == []
  assert driver.title == "title"


def rows_of(reader) -> list[int]:
  """The targets in the list, in order."""
  return [int(row.get_attribute("data-target")) for row in reader("#list-body tr")]


def choose(reader, name: str, value: str) -> None:
  """Chooses an option of a filter."""
  [option] = reader(f"#{name} option[value='{value}']")
  option.click()


def signed(number: str) -> str:
  """A number of a table as the page shows it."""
  return f"{float(number):+.2f}".replace("-", "\u2212")


def test_numbers_are_those_of_the_table(reader, folder) -> None:
  with open(folder / "brittleness.csv", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["method"] == "datamodel"]
  for row in rows:
    [line] = reader(f"#list-body tr[data-target='{row['target']}']")
    line.click()
    cells = [cell.text for cell in line.find_elements("css selector", "td")]
    k = f"> {row['largest']}" if row["censored"] == "True" else row["k"]
    assert cells[3:5] == [signed(row["base_mean_margin"]), k]
    [said] = [found.text for found in reader("#verdict")]
    interval = f"[{signed(row['margin_low'])}, {signed(row['margin_high'])}]"
    assert f"mean margin {signed(row['mean_margin'])} {interval}" in said
    assert f"clear after {row['models']} models" in said
    assert said.startswith("Censored" if row["censored"] == "True" else "Verified")


def test_targets_are_filtered(reader) -> None:
  assert sorted(rows_of(reader)) == [0, 1, 2, 3]
  for state, expected in {
    "flipped": [0, 2],
    "censored": [1],
    "relabelled": [0, 1, 2],
    "wrong": [3],
    "searched": [0, 1, 2],
  }.items():
    choose(reader, "by-state", state)
    assert sorted(rows_of(reader)) == expected, state
    assert reader("#count")[0].text == f"{len(expected)} of 4 targets"
  choose(reader, "by-state", "")
  choose(reader, "by-class", "1")
  assert sorted(rows_of(reader)) == [1, 3]
  choose(reader, "by-class", "")
  for name, text, expected in (
    ("by-k", "2", [2]),
    ("by-margin", "1.5", [1, 3]),
    ("by-text", "shirts", [0, 1]),
  ):
    [field] = reader(f"#{name}")
    field.send_keys(text)
    assert sorted(rows_of(reader)) == expected, name
    field.clear()
    field.send_keys(" \b")


def test_targets_are_sorted_by_any_column(reader) -> None:
  assert rows_of(reader) == [2, 0, 1, 3]  # By k; those not searched are last.
  reader("#list-head button")[3].click()
  assert rows_of(reader) == [3, 1, 0, 2]
  reader("#list-head button")[3].click()
  assert rows_of(reader) == [2, 0, 1, 3]
  assert reader("#list-head th")[3].get_attribute("aria-sort") == "descending"


def test_arrow_keys_move_through_the_list(driver, reader) -> None:
  reader("#list-body tr")[0].click()
  for key, expected in (("\ue015", 0), ("\ue015", 1), ("\ue013", 0), ("\ue010", 3)):
    driver.switch_to.active_element.send_keys(key)
    [chosen] = reader("#list-body tr[aria-selected='true']")
    assert int(chosen.get_attribute("data-target")) == expected
    assert driver.switch_to.active_element == chosen
    assert reader("#detail h3")[0].text.startswith(f"Target {expected}:")
  assert "was not searched" in reader("#detail")[0].text


def test_another_search_of_the_target_is_shown(reader) -> None:
  choose(reader, "by-method", "datamodel")
  reader("#list-body tr[data-target='2']")[0].click()
  choose(reader, "search", "1")
  assert "budget of models ran out" not in reader("#verdict")[0].text
  assert reader("#verdict")[0].text.startswith("Censored")
  choose(reader, "search", "2")
  assert "with 2 images relabelled" in reader("#verdict")[0].text


def test_names_are_shown_as_they_are(reader) -> None:
  reader("#list-body tr[data-target='2']")[0].click()
  assert reader("#detail h3")[0].text == f"Target 2: {HOSTILE}"
  assert reader("#detail .soft")[0].text == SOURCES[2]
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
  driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
  assert width <= 360


def test_vectors_have_a_page_without_pictures(driver, reader, folder) -> None:
  driver.get(f"file://{folder}/vectors.html")
  reader("#list-body tr[data-target='1']")[0].click()
  assert reader("#detail h3")[0].text == "Target 1: class 1"
  assert reader(".thumb") == [] and len(reader(".examples li")) > 10
