"""The built site in a real browser, from file:// and without a network.

Run by `make site`.  SITE_DIR names another folder than _build/html.
"""
import contextlib
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import offline
import pytest
from lecturelib import ledger
from nbclient import NotebookClient
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CONTRAST = 4.5
PHONE = 390
PARTS = ("book/pde/", "book/quantization/")


def show(faults) -> str:
    return "\n".join(faults[:15] + [f"… and {len(faults) - 15} more"] * (len(faults) > 15))


def centre(browser, element):
    browser.script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", element)
    return element


def find(browser, selector):
    return browser.driver.find_elements(By.CSS_SELECTOR, selector)


# ------------------------------------------------------------------------- the site as files
def test_the_files_load_nothing_from_elsewhere(site):
    faults = offline.external_loads(site)
    assert not faults, show(faults)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_holds_what_is_tested_below(site, part):
    text = "".join(p.read_text("utf-8") for p in (site / part).glob("*.html"))
    for what in ('class="math', "<figure", 'class="lecture-slider"', 'class="solution dropdown',
                 'class="ledger-tick"', "btn-download-notebook-button"):
        assert what in text, f"{part}: no page has {what}"


def test_the_front_door_leads_into_the_book(site):
    target = re.search(r'url=([^"]+)"', (site / "index.html").read_text("utf-8")).group(1)
    assert (site / target).is_file(), f"index.html leads to {target}, which is missing"


# -------------------------------------------------------------------------------- every page
def test_nothing_leaves_the_machine(page, browser):
    assert not browser.foreign(), show(browser.foreign())


def test_the_console_is_quiet(page, browser):
    assert not browser.errors, show(browser.errors)


def test_every_equation_is_rendered(page, browser):
    faults = browser.probe("equations()")
    assert not faults, show(faults)


def test_every_figure_is_put_into_words(page, browser):
    faults = browser.probe("alternatives()")
    assert not faults, show(faults)


def test_every_slider_moves(page, browser):
    for slider in find(browser, ".lecture-slider"):
        handle = centre(browser, slider.find_element(By.CSS_SELECTOR, "input[type=range]"))
        assert handle.size["height"] >= 40, "too low to be hit by a finger"
        before, after = shown(slider), None
        start, last = int(handle.get_attribute("value")), int(handle.get_attribute("max"))
        handle.send_keys(Keys.ARROW_LEFT if start == last else Keys.ARROW_RIGHT)
        after = shown(slider)
        assert before[0] != after[0], "a key moves the handle and the frame stays"
        assert before[1] != after[1], "a key moves the handle and the caption stays"
        frames = set()
        for value in range(last + 1):
            browser.script("arguments[0].value = arguments[1];"
                           "arguments[0].dispatchEvent(new Event('input', {bubbles: true}))",
                           handle, value)
            frames.add(shown(slider))
        assert len(frames) == last + 1, "two positions of the handle look the same"


def shown(slider):
    """The one visible frame, which must hold a picture, and the one visible caption."""
    frames = [f for f in slider.find_elements(By.CSS_SELECTOR, "img") if f.is_displayed()]
    captions = [c for c in slider.find_elements(By.CSS_SELECTOR, "label [data-frames] > *")
                if c.is_displayed()]
    assert len(frames) == len(captions) == 1
    assert int(frames[0].get_property("naturalWidth")) > 100, "the frame holds no picture"
    return frames[0].get_attribute("src"), captions[0].text


def test_every_solution_unfolds(page, browser):
    for solution in find(browser, ".solution.dropdown"):
        body = solution.find_element(By.CSS_SELECTOR, ".admonition-title ~ *")
        button = centre(browser, solution.find_element(By.CSS_SELECTOR, "button.toggle-button"))
        assert not body.is_displayed() and body.size["height"] == 0, "not folded at first"
        button.click()
        WebDriverWait(browser.driver, 5, 0.05).until(
            lambda _: body.is_displayed() and body.size["height"] > 20,
            f"{solution.get_attribute('id')} does not unfold")
        button.click()
        WebDriverWait(browser.driver, 5, 0.05).until(lambda _: not body.is_displayed())


def test_it_fits_a_phone(page, browser):
    browser.probe("unfold()")
    browser.phone()
    faults = browser.probe(f"overflow({PHONE})")
    browser.desktop()
    assert not faults, show(faults)


def test_no_displayed_equation_scrolls_on_a_desktop(page, browser):
    browser.desktop()
    browser.probe("unfold()")
    wide = "return [...document.querySelectorAll('.bd-article div.math mjx-container')].filter(f => f.scrollWidth > f.clientWidth + 1).map(f => `${f.scrollWidth} px in ${f.clientWidth}`)"
    with contextlib.suppress(TimeoutException):            # they are made to fit once the mathematics is typeset
        WebDriverWait(browser.driver, 5, 0.1).until(lambda _: not browser.script(wide))
    assert not browser.script(wide)


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_every_text_is_legible(page, browser, scheme):
    browser.probe("unfold()")
    browser.theme(scheme)
    faults = browser.probe(f"legibility({CONTRAST})")
    browser.theme("light")
    assert not faults, show(faults)


def test_every_figure_is_legible_in_the_dark(page, browser):
    browser.theme("dark")
    images = [i for i in find(browser, ".bd-article .cell_output img") if i.is_displayed()]
    faults = [fault for image in images for fault in browser.figure_faults(image)]
    filters = {browser.script("return getComputedStyle(arguments[0]).filter", logo)
               for logo in find(browser, ".logo__image")}
    browser.theme("light")
    assert not faults, show(faults)
    assert not any("invert" in f for f in filters), "the logo is inverted"


# ----------------------------------------------------------------------------- what one does
def test_the_switch_turns_the_lights_off_and_keeps_them_off(browser):
    browser.desktop()
    browser.visit("book/intro.html")
    mode = "return document.documentElement.dataset.theme"
    presses = 0
    while browser.script(mode) != "dark" and presses < 3:
        find(browser, ".bd-header-article .theme-switch-button")[0].click()
        presses += 1
    page = browser.script("return getComputedStyle(document.body).backgroundColor")
    browser.visit("book/appendix/notation.html")
    kept = browser.script(mode)
    browser.script("localStorage.clear()")
    assert kept == "dark", f"after {presses} presses and on the next page the theme is {kept}"
    assert max(map(int, re.findall(r"\d+", page)[:3])) < 64, f"dark mode shows {page}"


@pytest.mark.parametrize("part", PARTS)
def test_the_search_finds_a_word(site, browser, part):
    page = sorted((site / part).glob("*.html"))[0]
    title = re.search(r"<h1>(?:<span[^>]*>[^<]*</span>)?([^<]+)", page.read_text("utf-8")).group(1)
    word = max(title.split(), key=len)
    browser.desktop()
    browser.visit("book/intro.html")
    find(browser, ".bd-sidebar-primary .search-button__button")[0].click()
    field = find(browser, ".search-button__search-container input[name=q]")[0]
    WebDriverWait(browser.driver, 5, 0.05).until(lambda _: field.is_displayed())
    field.send_keys(word, Keys.ENTER)
    found = browser.until(
        "return /finished/.test(document.querySelector('.search-summary')?.textContent)"
        " && [...document.querySelectorAll('#search-results li a')].map((a) => a.href)")
    pages = {Path(unquote(urlsplit(url).path)).resolve() for url in found}
    assert page.resolve() in pages, f"{word!r} finds {found}"


def test_the_search_says_when_there_is_nothing(browser):
    browser.desktop()
    browser.visit("search.html?q=qzxvkjw")
    text = browser.until("const p = document.querySelector('.search-summary');"
                         "return p && /did not match/.test(p.textContent) && p.textContent")
    assert "did not match" in text and not find(browser, "#search-results li")


@pytest.mark.parametrize("part", PARTS)
def test_a_downloaded_notebook_opens_and_runs(browser, notebooks, part, tmp_path):
    page = next(p for p in notebooks if p.startswith(part))
    browser.visit(page)
    button = find(browser, "a.btn-download-notebook-button")[0]
    source = Path(unquote(urlsplit(button.get_attribute("href")).path))
    assert source.suffix == ".ipynb" and source.is_file(), f"the button leads to {source}"
    notebook = nbformat.read(source, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=300, kernel_name="python3",
                   resources={"metadata": {"path": tmp_path}}).execute()
    assert any(r["type"] == "run" for r in ledger.records(notebook)), "its last cell did not run"
