import os
import re
from pathlib import Path

import pytest
from browser import Browser, missing

ROOT = Path(__file__).parents[2]
SITE = Path(os.environ.get("SITE_DIR", ROOT / "_build" / "html")).resolve()


def pages() -> list[str]:
    """The pages of the built site; none if it is not built."""
    found = [p.relative_to(SITE).as_posix() for p in sorted(SITE.rglob("*.html"))]
    return [p for p in found if not p.startswith("_") and p != "index.html"]


def pytest_generate_tests(metafunc):
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", pages() or ["no page"], indirect=True, scope="module")


@pytest.fixture(scope="session")
def site() -> Path:
    if not pages():
        pytest.exit(f"{SITE} holds no page: run make html first", returncode=1)
    return SITE


@pytest.fixture(scope="session")
def browser(site, tmp_path_factory):
    if todo := missing():
        pytest.exit(todo, returncode=1)
    browser = Browser(site, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(request, browser):
    """Name of a page of the site that the browser has just opened."""
    browser.desktop()
    browser.visit(request.param)
    return request.param


@pytest.fixture(scope="session")
def notebooks(site) -> list[str]:
    """The pages that offer themselves as notebooks."""
    return [p for p in pages()
            if re.search("btn-download-notebook-button", (site / p).read_text("utf-8"))]
