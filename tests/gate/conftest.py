import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import seeds


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The unbroken small book, with recorded references and without anything built."""
    folder = tmp_path_factory.mktemp("gate")
    book = seeds.assemble(folder / "small", folder / "quick")
    done = book.test("book", "--record")
    assert done.code == 0, done.text
    return book


@pytest.fixture(scope="session")
def built(small, tmp_path_factory):
    """The unbroken small book after `make html`; `built.outcome` is what that said."""
    book = small.copy(tmp_path_factory.mktemp("built") / "small")
    book.outcome = book.html()
    assert book.outcome.code == 0, book.outcome.text
    return book


@pytest.fixture
def fresh(small, tmp_path):
    return small.copy(tmp_path / "small")


@pytest.fixture
def warm(built, tmp_path):
    """A copy with everything built, so that cells run only where they must."""
    return built.copy(tmp_path / "small")


@pytest.fixture(scope="session", autouse=True)
def outcomes(request, tmp_path_factory):
    """Runs the selected faults, two at a time, from the first test on, while the others have their
    turn; `outcomes(fault, how)` waits for one."""
    wanted = [(item.callspec.params["fault"], item.callspec.params["how"])
              for item in request.session.items if "how" in getattr(item, "fixturenames", ())]
    if not wanted:
        yield None
        return
    small, built = request.getfixturevalue("small"), request.getfixturevalue("built")
    folder = tmp_path_factory.mktemp("faults")

    def run(fault, how):
        origin = built if how == "html" else small
        book = origin.copy(folder / f"{fault.name.replace(' ', '-')}-{how}")
        for seed in fault.seeds:
            seed(book)
        return {"html": book.html, "pytest": book.test,
                "static": lambda: book.test("tests/book")}[how]()

    with ThreadPoolExecutor(max(2, (os.cpu_count() or 2) // 2)) as pool:
        started = {(fault.name, how): pool.submit(run, fault, how) for fault, how in wanted}
        yield lambda fault, how: started[fault.name, how].result()
        for future in started.values():
            future.cancel()
