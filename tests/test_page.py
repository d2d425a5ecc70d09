"""The page to play with in a browser without a window, which clicks through it; skipped without gradio, selenium or Chromium.

With FNODIFF_SCREENSHOT=docs/_static/playground.png in the environment it makes the picture of docs/playground.md.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from command import run
from PIL import Image

import fnodiff
from fnodiff import Model, sample
from fnodiff.cli.drawing import write_picture
from fnodiff.hub import write_space
from fnodiff.page import build

WAIT = 180  # seconds, on a machine that does other things too


def test_the_command_shows_the_page_or_writes_a_space(models, tmp_path, monkeypatch, capsys):
    pages = []
    monkeypatch.setattr("fnodiff.page.serve", lambda model, name, **options: pages.append((name, options)))
    assert run("app", models / "images", "--port", 7999) == 0
    ((name, options),) = pages
    assert name == str(models / "images") and (options["server_port"], options["server_name"]) == (7999, "127.0.0.1")
    assert run("app", models / "images", "--space", tmp_path / "space", "--licence", "mit") == 0
    assert {path.name for path in (tmp_path / "space").iterdir()} == {
        "README.md",
        "app.py",
        "requirements.txt",
        "model",
    }
    assert run("app", models / "images", "--space", tmp_path / "space") == 2
    assert "--space FOLDER and --licence together" in capsys.readouterr().err


def test_without_gradio_it_says_how_to_install_it(models, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert run("app", models / "images") == 2
    assert "pip install fnodiff[app]" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "there", "not_there"),
    [
        ("classes", {"Guidance, 1 for none", "Class", "Picture"}, {"Shown", "Measured"}),
        ("fields", {"Shown", "Measured"}, {"Guidance, 1 for none", "Class", "Picture"}),
    ],
)
def test_the_controls_are_those_of_the_model(models, name, there, not_there):
    pytest.importorskip("gradio")
    page = build(Model.from_pretrained(models / name))
    labels = {block.label for block in page.blocks.values() if getattr(block, "label", None) and block.visible}
    assert there <= labels and not not_there & labels


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the page of a Space's files, in a process of its own."""
    pytest.importorskip("gradio")
    folder = write_space(tmp_path_factory.mktemp("space"), "portraits", licence="mit")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = str(Path(fnodiff.__file__).parent.parent)
    here = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_ANALYTICS_ENABLED": "False"}
    here["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=os.environ | here, stdout=log, stderr=log)
    try:
        until = time.monotonic() + WAIT
        while True:
            assert server.poll() is None and time.monotonic() < until, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
        assert "Traceback" not in (folder / "log").read_text()
    finally:
        server.terminate()
        server.wait()


class Page:
    """The page in a browser of some width."""

    def __init__(self, driver, address, width):
        self.driver, self.width = driver, width
        size = {"width": width, "height": 950, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(address)

    def find(self, css):
        return self.driver.find_elements("css selector", css)

    def until(self, true, what):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, WAIT, 0.3, [StaleElementReferenceException]).until(lambda _: true(), what)

    def pictures(self, name):
        return [image.get_attribute("src") for image in self.find(f"#{name} img")]

    def captions(self, name):
        return [caption.text for caption in self.find(f"#{name} figcaption")]

    def tab(self, name):
        (tab,) = [tab for tab in self.find("button[role=tab]") if tab.text == name]
        tab.click()

    def press(self, name):
        (button,) = [b for b in self.find("button") if b.text == name and b.is_displayed()]
        button.click()

    def number(self, label, value):
        from selenium.webdriver.common.keys import Keys

        (field,) = [f for f in self.find(f"input[type=number][aria-label*='{label}']") if f.is_displayed()]
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(str(value), Keys.TAB)

    def click_truth(self, across, down):
        from selenium.webdriver.common.action_chains import ActionChains

        (image,) = self.find("#truth img")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
        x, y = (round((part - 0.5) * image.size[side]) for part, side in ((across, "width"), (down, "height")))
        ActionChains(self.driver).move_to_element_with_offset(image, x, y).click().perform()

    def fits(self):
        widths = self.driver.execute_script(
            "const page = document.scrollingElement; return [page.scrollWidth, page.clientWidth, window.innerWidth]"
        )
        assert widths[0] <= widths[1] <= widths[2] == self.width, "nothing overflows"


@pytest.fixture
def browser(address, tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or chromedriver is None:
        pytest.skip("no chromium, or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    quiet = ("background-networking", "component-update", "sync", "gpu", "quic", "dev-shm-usage")
    offline = "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    for flag in ("headless", "no-sandbox", "no-first-run", *(f"disable-{name}" for name in quiet), offline):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'browser'}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(chromedriver))
    yield driver
    driver.quit()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_clicks_through_the_page(browser, address, width, tmp_path):
    page = Page(browser, address, width)
    page.until(lambda: len(page.pictures("resolutions")) == 3, "one function on three grids")
    first = page.pictures("resolutions")
    page.fits()
    page.number("Size", 48)
    page.until(lambda: "48x48, not trained on" in page.captions("resolutions"), "another size")
    assert page.pictures("resolutions")[:2] == first[:2], "the coarse grids show the same function"
    page.number("Seed", 5)
    page.until(lambda: len({*page.pictures("resolutions"), *first}) == 6, "another seed")

    page.tab("Upscale")
    page.press("Draw samples")
    page.until(lambda: "expected a picture, got none" in page.find("#upscaled")[0].text, "what is wrong, on the page")
    write_picture(tmp_path / "a.png", sample(Model.from_pretrained("portraits"), 32, [7])[0])
    page.find("input[type=file]")[0].send_keys(str(tmp_path / "a.png"))
    page.until(lambda: len(page.pictures("upscaled")) == 6, "the picture, a bicubic one and four samples")
    assert (
        page.captions("upscaled")[::5] == ["32x32, given", "64x64, seed 3"] and len({*page.pictures("upscaled")}) == 6
    )
    page.fits()

    page.tab("Sensors")
    page.until(lambda: page.find("#truth img") and page.find("#truth img")[0].is_displayed(), "what is measured")
    bare = page.pictures("truth")
    page.click_truth(0.52, 0.35)
    page.until(lambda: page.pictures("truth") != bare, "a ring")
    page.until(lambda: len(page.pictures("posterior")) == 4, "mean, spread and two samples")
    for place in ((0.3, 0.9), (0.52, 0.6), (0.8, 0.2), (0.35, 0.45)):
        before, marked = page.pictures("posterior"), page.pictures("truth")
        page.click_truth(*place)
        page.until(lambda marked=marked: page.pictures("truth") != marked, "another ring")
        page.until(lambda before=before: page.pictures("posterior") != before, "another mean")
    assert [caption.split(",")[0] for caption in page.captions("posterior")] == [
        "mean",
        "spread",
        "a sample",
        "another",
    ]
    page.fits()
    shot = tmp_path / f"{width}.png"
    browser.execute_script("window.scrollTo(0, 0)")
    browser.save_screenshot(str(shot))
    if width == 1280 and (place := os.environ.get("FNODIFF_SCREENSHOT")):
        Image.open(shot).convert("RGB").save(place, optimize=True)
    page.press("Take all away")
    page.until(lambda: "expected a sensor" in page.find("#posterior")[0].text, "no sensor, no posterior")
