"""Makes the pictures of README and site again, of a finished default run.

python docs/pictures.py runs/fashion       (needs Chromium, its driver, and selenium)

First run `experiments.studies.explain --workdir=runs/fashion --target=27 --ks=5,10`, and
`experiments.report`. Colours are reduced, so that each file stays below 150 kB.
"""

import io
import pathlib
import shutil
import sys

import PIL.Image
from selenium import webdriver

DOCS = pathlib.Path(__file__).parent
TARGET = 27  # Of the story.


def screenshot(page: pathlib.Path, target: int) -> bytes:
  """The report's browser of targets as PNG, with one target chosen."""
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which("chromium") or ""
  for option in ("headless=new", "no-sandbox", "disable-gpu", "window-size=1320,1160"):
    options.add_argument(f"--{option}")
  service = webdriver.ChromeService(shutil.which("chromedriver"))
  driver = webdriver.Chrome(options, service)
  try:
    driver.get(page.resolve().as_uri())
    row = f"#targets-body tr[data-number='{target}']"
    driver.find_element("css selector", row).click()
    driver.execute_script("document.querySelector('#targets').scrollIntoView()")
    return driver.get_screenshot_as_png()
  finally:
    driver.quit()


def write(name: str, picture: PIL.Image.Image, colours: int) -> None:
  """Writes a picture with fewer colours."""
  few = picture.convert("RGB").quantize(colours, dither=PIL.Image.Dither.NONE)
  few.save(DOCS / name, optimize=True)


def main() -> None:
  """Reads a workdir, writes docs/*.png."""
  workdir = pathlib.Path(sys.argv[1])
  for name in ("brittleness.png", "calibration.png"):
    shutil.copy(workdir / "figures" / name, DOCS / name)
  write("story.png", PIL.Image.open(workdir / f"explain_{TARGET}.png"), 128)
  shot = PIL.Image.open(io.BytesIO(screenshot(workdir / "report.html", TARGET)))
  size = shot.width * 2 // 3, shot.height * 2 // 3
  write("report.png", shot.resize(size, PIL.Image.Resampling.LANCZOS), 96)


if __name__ == "__main__":
  main()
