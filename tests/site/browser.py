"""One headless Chromium, offline, that opens the pages of a built site under file://."""
import io
import json
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND")
PROBES = (Path(__file__).parent / "probes.js").read_text("utf-8")
# the theme preloads its icon fonts across origins: from file:// that fails, the fonts do not
ICON_FONT = re.compile(r"/_static/vendor/fontawesome/[\w./-]+\.woff2")
PATIENCE = 90  # seconds; a page with hundreds of formulas takes a slow machine a while
SETTLED = """
const done = arguments[0];
Promise.resolve(window.MathJax?.startup?.promise).then(() => document.fonts.ready).then(done);
"""


def missing() -> str:
    """What to do if the browser or its driver is not there; empty if both are."""
    absent = [tool for tool in ("chromium", "chromedriver") if shutil.which(tool) is None]
    return absent and (f"{' and '.join(absent)} not found: the site is tested in a real browser. "
                       "On Debian or Ubuntu: apt-get install chromium chromium-driver") or ""


class Browser:
    def __init__(self, site: Path, profile: Path):
        self.site = site
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(PATIENCE)
        self.driver.set_script_timeout(PATIENCE)
        self.requests, self.errors = [], []
        self.desktop()

    def close(self):
        self.driver.quit()

    # ------------------------------------------------------------------------------ pages
    def visit(self, page: str) -> None:
        """Open a page of the site and wait until its formulas and fonts are there."""
        self.driver.get("about:blank")
        self.read_logs()
        self.driver.get(f"{self.site.as_uri()}/{page}")
        self.settle()
        self.read_logs()

    def settle(self):
        self.until("return document.readyState === 'complete'")
        self.driver.execute_async_script(SETTLED)

    def read_logs(self):
        """Requests and severe console messages since the logs were last read."""
        messages = [json.loads(entry["message"])["message"]
                    for entry in self.driver.get_log("performance")]
        self.requests = [m["params"]["request"]["url"] for m in messages
                         if m["method"] == "Network.requestWillBeSent"]
        self.requests += [m["params"]["url"] for m in messages
                          if m["method"] in ("Network.webSocketCreated",
                                             "Network.webTransportCreated")]
        self.errors = [entry["message"] for entry in self.driver.get_log("browser")
                       if entry["level"] == "SEVERE" and not ICON_FONT.search(entry["message"])]

    def foreign(self) -> list[str]:
        """Requests of the page for anything but files of the site and data it holds itself."""
        home = urlsplit(self.site.as_uri()).path + "/"
        return [url[:200] for url in self.requests
                if urlsplit(url).scheme not in ("data", "blob", "about")
                and not (urlsplit(url).scheme == "file" and urlsplit(url).path.startswith(home))]

    # ----------------------------------------------------------------------------- looking
    def script(self, code: str, *arguments):
        return self.driver.execute_script(code, *arguments)

    def probe(self, call: str) -> list[str]:
        """The result of one of the functions in probes.js."""
        return self.script(f"{PROBES}\nreturn {call};")

    def until(self, code: str, *arguments, seconds: float = 20):
        """Wait until a script returns something true, and return that."""
        return WebDriverWait(self.driver, seconds, 0.05).until(
            lambda driver: driver.execute_script(code, *arguments),
            f"never came true within {seconds} s: {code}")

    def command(self, name: str, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    # --------------------------------------------------------------------------- conditions
    def screen(self, width: int, height: int, mobile: bool):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=height,
                     deviceScaleFactor=1, mobile=mobile)

    def desktop(self):
        self.screen(1280, 900, False)
        self.media("light")

    def phone(self):
        self.screen(390, 844, True)

    def media(self, scheme: str):
        """The reader's system prefers `scheme`, and no motion."""
        self.command("Emulation.setEmulatedMedia", media="screen", features=[
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def theme(self, scheme: str):
        self.command("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)  # points at nothing
        self.media(scheme)
        self.until("return document.documentElement.dataset.theme === arguments[0]", scheme)

    # ------------------------------------------------------------------------------ figures
    def figure_faults(self, image) -> list[str]:
        """Whether a figure stands on the page's own background and can be told from it."""
        self.script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", image)
        pixels = np.asarray(Image.open(io.BytesIO(image.screenshot_as_png)).convert("RGB"))
        packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        values, counts = np.unique(packed, return_counts=True)
        colors = np.stack([values >> 16, values >> 8 & 255, values & 255], axis=1)
        ground = colors[counts.argmax()]
        page = np.array(self.script(
            f"{PROBES}\nreturn backdrop(arguments[0].closest('.admonition, .bd-article'));", image))
        best = max(contrast(ground, color) for color in colors[counts >= 3])
        label = (image.get_attribute("alt") or "")[:50]
        faults = []
        if contrast(ground, page) > 1.1:
            faults.append(f"“{label}” stands on {ground.tolist()}, the page is {page.tolist()}")
        if best < 7:
            faults.append(f"“{label}”: its best contrast is {best:.1f}:1")
        return faults


def contrast(one, other) -> float:
    """Contrast ratio of two sRGB colors, as WCAG defines it.

    >>> round(contrast([0, 0, 0], [255, 255, 255]))
    21
    """
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color) -> float:
    s = np.asarray(color) / 255
    linear = np.where(s <= 0.04045, s / 12.92, ((s + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
