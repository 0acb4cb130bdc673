"""The page in a real browser, from a file: no request, no error, and all that it offers works."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages_for_tests import HOSTILE, poisoned
from PIL import Image

from embedcal.reporting.page import render

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: the page is not opened")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("no chromium with its chromedriver here", allow_module_level=True)

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

WIDTHS = (360, 768, 1280)
OWN = ("file:///", "data:", "blob:")


class Browser:
    """Chromium without a window. Whatever it asks of the network would fail, and is listed."""

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for word in (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--no-first-run", "--hide-scrollbars",
        ):  # fmt: skip
            options.add_argument(word)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        self.downloads = downloads
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def command(self, name: str, **values):
        return self.driver.execute_cdp_cmd(name, values)

    def view(self, width: int, scheme: str = "light", media: str = "screen") -> None:
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=900, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        features = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},  # what moves is not clicked
        ]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def open(self, path: Path) -> None:
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri())

    def run(self, script: str, *values):
        return self.driver.execute_script(script, *values)

    def find(self, selector: str):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def requests(self) -> list[str]:
        found = [
            json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")
        ]
        sent = [each["params"] for each in found if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in sent]

    def blocked(self) -> list[str]:
        """Why requests failed, of those that did."""
        lost = self.network("loadingFailed")
        return [each.get("blockedReason", each["errorText"]) for each in lost]

    def network(self, event: str) -> list[dict]:
        log = [
            json.loads(each["message"])["message"] for each in self.driver.get_log("performance")
        ]
        return [each["params"] for each in log if each["method"] == f"Network.{event}"]

    def errors(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def picture(self, path: Path) -> Image.Image:
        """The whole page, also written to ``path`` for somebody to look at."""
        self.run("for (const i of document.images) i.loading = 'eager'")
        width, height = self.run(
            "const e = document.documentElement; return [e.scrollWidth, e.scrollHeight]"
        )
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        found = self.command(
            "Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip
        )
        path.write_bytes(base64.b64decode(found["data"]))
        return Image.open(io.BytesIO(path.read_bytes()))


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("downloads"))
    yield made
    made.driver.quit()


@pytest.fixture(scope="module")
def plain(page, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "a page.html"
    path.write_text(render(page))
    return path


@pytest.fixture(scope="module")
def hostile(page, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("hostile") / "page.html"
    path.write_text(render(poisoned(page)))
    return path


@pytest.fixture(params=["plain", "hostile"])
def either(request) -> Path:
    return request.getfixturevalue(request.param)


def test_it_asks_for_nothing_and_complains_of_nothing(browser, either):
    browser.view(1280)
    browser.open(either)
    browser.run("window.scrollTo(0, document.documentElement.scrollHeight)")
    time.sleep(0.3)
    asked = browser.requests()
    assert asked
    assert all(url.startswith(OWN) for url in asked), asked
    assert [url for url in asked if url.startswith("file:")] == [either.as_uri()]
    assert browser.errors() == []


def test_the_policy_would_stop_what_slipped_in(browser, plain):
    """Without the policy each of these would run or load."""
    browser.open(plain)
    browser.run(
        """
        window.ran = [];
        const script = document.createElement("script");
        try {
          script.textContent = "window.ran.push('script')"; document.body.append(script);
        } catch {}
        const image = document.createElement("img");
        image.src = "http://example.org/x.png"; document.body.append(image);
        document.body.setAttribute("style", "color: rgb(1, 2, 3)");
        try {
          document.body.insertAdjacentHTML("beforeend", "<b onclick='1'>x</b>");
          window.ran.push("html");
        } catch {}
        """
    )
    time.sleep(0.2)
    assert browser.run("return window.ran") == []
    assert browser.run("return getComputedStyle(document.body).color") != "rgb(1, 2, 3)"
    assert browser.blocked() == ["csp"]


def test_hostile_names_stay_text(browser, hostile):
    browser.view(1280)
    browser.open(hostile)
    assert not browser.run(
        "return [...document.querySelectorAll('[onerror],[onload],[onclick]')].length"
    )
    assert browser.run("return document.scripts.length") == 1
    assert browser.run(
        "return [...document.images].every(i => i.src.startsWith('data:') && i.loading !== 'x')"
    )
    text = browser.run("return document.body.textContent")
    assert "<img src=x onerror=alert(1)></script><script>alert(2)</script>" in text
    assert "{{7*7}}" in text
    assert "\u202e" not in text
    assert browser.run("return document.title").startswith("<img src=x")
    assert browser.driver.execute_script("return document.readyState") == "complete"  # no dialog


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(browser, either, width, scheme, tmp_path):
    browser.view(width, scheme)
    browser.open(either)
    assert browser.run("return document.documentElement.scrollWidth") <= width
    wide = browser.run(
        """
        const inside = (e) => e.closest(".scroll, .across, .unseen, .skip, svg");
        return [...document.body.querySelectorAll("*")].filter((e) => !inside(e)
          && e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 120))
        """
    )
    assert wide == []
    if either.parent.name.startswith("hostile"):
        return
    shot = browser.picture(tmp_path / f"{either.parent.name}-{width}-{scheme}.png")
    corner = sum(shot.convert("RGB").getpixel((2, 2)))
    assert corner > 700 if scheme == "light" else corner < 150


def column(browser, table: str, index: int) -> list[str]:
    return browser.run(
        "return [...document.getElementById(arguments[0]).closest('table').tBodies[0].rows]"
        ".map((r) => r.cells[arguments[1]].textContent.trim())",
        table,
        index,
    )


def test_a_table_sorts_by_click_and_by_keyboard(browser, plain):
    browser.view(1280)
    browser.open(plain)
    heads = browser.run(
        "return [...document.getElementById('p0-table').closest('table').tHead.rows[0].cells]"
    )
    buttons = [head.find_element(By.TAG_NAME, "button") for head in heads]
    before = column(browser, "p0-table", 0)
    assert len(before) == 3
    buttons[0].click()
    assert column(browser, "p0-table", 0) == sorted(before)
    assert heads[0].get_attribute("aria-sort") == "ascending"
    assert "sorted by Row, ascending" in browser.find("#status").get_attribute("textContent")
    browser.run("arguments[0].focus()", buttons[0])
    browser.press(Keys.ENTER)
    assert column(browser, "p0-table", 0) == sorted(before, reverse=True)
    assert heads[0].get_attribute("aria-sort") == "descending"
    browser.run("arguments[0].focus()", buttons[1])
    browser.press(Keys.SPACE)
    worst = [float(text.split(" ")[0]) for text in column(browser, "p0-table", 1)]
    assert worst == sorted(worst, reverse=True)
    assert heads[0].get_attribute("aria-sort") is None
    assert heads[1].get_attribute("aria-sort") == "descending"
    buttons[1].click()
    assert [float(t.split(" ")[0]) for t in column(browser, "p0-table", 1)] == worst[::-1]
    # As numbers, not as texts: 9 before 10. What is not there stays at the end either way.
    browser.run(
        "const rows = document.getElementById('p0-table').closest('table').tBodies[0].rows;"
        "['10', '', '9'].forEach((v, i) => { rows[i].cells[1].dataset.value = v;"
        " rows[i].cells[1].textContent = v || '–'; })"
    )
    buttons[1].click()
    assert column(browser, "p0-table", 1) == ["10", "9", "–"]
    buttons[1].click()
    assert column(browser, "p0-table", 1) == ["9", "10", "–"]


def test_the_keyboard_gets_everywhere(browser, plain):
    browser.view(1280)
    browser.open(plain)
    browser.press(Keys.TAB)
    assert browser.run("return document.activeElement.className") == "skip"
    assert browser.run("return document.activeElement.getBoundingClientRect().left") >= 0
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.press(Keys.ENTER)
    assert browser.run("return document.activeElement.id") == "main"
    browser.press(Keys.TAB)
    assert browser.run("return document.getElementById('main').contains(document.activeElement)")
    seen = set()
    for _ in range(300):
        seen.add(
            browser.run("const e = document.activeElement; return e.tagName + ' ' + e.className")
        )
        browser.press(Keys.TAB)
        if browser.run("return document.activeElement === document.body"):
            break
    assert {"DIV scroll", "DIV across", "BUTTON sort", "BUTTON copy", "SUMMARY ", "INPUT "} <= seen


@pytest.mark.parametrize("which", ["plain", "hostile"])
def test_verdicts_are_saved_as_annotate_reads_them(browser, request, page, which):
    for old in browser.downloads.iterdir():
        old.unlink()
    browser.view(1280)
    browser.open(request.getfixturevalue(which))
    button, told = browser.find("[data-save]"), browser.find("[data-told]")
    button.click()
    assert "judge at least one" in told.text
    assert not list(browser.downloads.iterdir())
    sets = browser.all("fieldset[data-attribute]")
    for place, value in ((0, "spurious"), (1, "healthy")):
        radio = sets[place].find_element(By.CSS_SELECTOR, f"input[value={value}]")
        browser.run("arguments[0].scrollIntoView({block: 'center'})", radio)
        radio.find_element(By.XPATH, "..").click()
    assert told.text == "2 verdicts."
    button.click()
    path = browser.downloads / "verdicts.json"
    deadline = time.monotonic() + 20
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    saved = json.loads(path.read_text())
    detected, block = page.parts[0].detected, page.parts[0].block
    names = [each.attribute for each in detected.judged]
    assert saved["embedcal"] == "verdicts"
    assert saved["format"] == 1
    assert saved["detector"] == "clip"
    if which == "plain":
        assert saved["fingerprint"] == block.fingerprint
        assert saved["verdicts"] == {names[0]: "spurious", names[1]: "healthy"}
    else:
        assert saved["verdicts"] == {HOSTILE: "healthy"}
    assert "Saved" in told.text
    assert browser.errors() == []


def test_dark_and_light_follow_the_system_until_somebody_chooses(browser, plain):
    def ground():
        return browser.run("return getComputedStyle(document.body).backgroundColor")

    def ink():
        return browser.run("return getComputedStyle(document.querySelector('.plot text')).fill")

    browser.view(1280, "light")
    browser.open(plain)
    browser.run("localStorage.clear()")
    browser.open(plain)
    light, light_ink, toggle = ground(), ink(), browser.find("#theme")
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    dark = ground()
    assert dark != light
    assert ink() != light_ink, "the drawings follow"
    assert toggle.get_attribute("aria-pressed") == "true"
    browser.open(plain)
    assert ground() == dark, "kept"
    browser.run("arguments[0].focus()", browser.find("#theme"))
    browser.press(Keys.SPACE)
    assert ground() == light
    browser.run("localStorage.clear()")
    browser.view(1280, "dark")
    browser.open(plain)
    assert ground() == dark


def test_commands_are_copied_or_selected(browser, plain, page):
    browser.open(plain)
    browser.command(
        "Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"]
    )
    button = browser.all("button.copy")[0]
    browser.run("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    time.sleep(0.3)
    told = browser.find("#status").get_attribute("textContent")
    if told == "copied":
        copied = browser.driver.execute_async_script(
            "navigator.clipboard.readText().then(arguments[0], () => arguments[0](null))"
        )
    else:
        copied = browser.run("return getSelection().toString()")
    assert copied.strip() == page.parts[0].commands.grids[0]


def test_it_prints_light_and_whole(browser, plain):
    browser.view(1280, "dark")
    browser.open(plain)
    browser.view(1280, "dark", media="print")
    assert (
        browser.run("return getComputedStyle(document.body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    hidden = (
        "return [...document.querySelectorAll('nav, #theme, .copy')].every(e => !e.offsetParent)"
    )
    assert browser.run(hidden)
    assert browser.run(
        "return [...document.querySelectorAll('.scroll')]"
        ".every(e => getComputedStyle(e).overflowX === 'visible')"
    )
    browser.run("dispatchEvent(new Event('beforeprint'))")
    assert browser.run("return [...document.querySelectorAll('details')].every(e => e.open)")
    browser.run("dispatchEvent(new Event('afterprint'))")
    assert not browser.run("return [...document.querySelectorAll('details')].every(e => e.open)")
    printed = base64.b64decode(browser.command("Page.printToPDF", printBackground=False)["data"])
    assert printed.startswith(b"%PDF")
    browser.view(1280)


def test_it_can_be_read_without_its_script(browser, plain):
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.view(1280)
        browser.open(plain)
        shown = browser.all("#theme, [data-save], .sort, .copy")
        assert not [each for each in shown if each.is_displayed()], "no button that does nothing"
        assert browser.find(".verdict").text
        assert browser.all("table")[0].text
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
