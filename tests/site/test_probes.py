"""The checks of the site can fail: each fault is put into a sound page and must be named."""
import matplotlib.pyplot as plt
import offline
import pdf
import pytest
from selenium.webdriver.common.by import By

PAGE = "book/appendix/bibliography.html"
PAINT = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='300' height='200'>" \
        "<path d='M0 0L300 200' stroke='{}' stroke-width='9'/></svg>"


@pytest.fixture
def sound(browser):
    browser.desktop()
    browser.visit(PAGE)
    return browser


def put(browser, markup: str) -> None:
    browser.script("document.querySelector('.bd-article').insertAdjacentHTML("
                   "'afterbegin', arguments[0])", markup)


def typeset(browser) -> None:
    browser.driver.execute_async_script("MathJax.typesetPromise().then(arguments[0])")


@pytest.mark.parametrize(("markup", "said"), [
    (r'<span class="math">\(x\)</span>', "not rendered: <span.math>"),
    (r"<p>Let $x$ be real.</p>", "raw TeX “$”"),
    (r"<p>Let \[x\] be real.</p>", r"raw TeX “\[”"),
    (r"<p>Let \alpha be real.</p>", r"raw TeX “\alpha”"),
])
def test_unrendered_equations_are_named(sound, markup, said):
    assert sound.probe("equations()") == []
    put(sound, markup)
    assert said in "\n".join(sound.probe("equations()"))


@pytest.mark.parametrize("tex", (r"\(\frac{1}\)", r"\(\nosuchmacro\)"))
def test_broken_equations_are_named(sound, tex):
    sound.visit("book/appendix/notation.html")
    put(sound, f'<div class="math tex2jax_process">{tex}</div>')
    typeset(sound)
    assert "error in a formula" in "\n".join(sound.probe("equations()"))


@pytest.mark.parametrize(("markup", "said"), [
    ('<div id="w" style="width:600px">x</div>', "to 616 px: <div#w> “x”"),
    ('<div style="width:40px; overflow:hidden; white-space:nowrap">too long for it</div>',
     "cut off at the right"),
    ('<div class="math" style="overflow:auto; height:9px"><p>x</p></div>', "vertical scrollbar"),
])
def test_content_too_wide_for_a_phone_is_named(sound, markup, said):
    sound.phone()
    assert sound.probe("overflow(390)") == []
    put(sound, markup)
    assert said in "\n".join(sound.probe("overflow(390)"))


@pytest.mark.parametrize("scheme", ("light", "dark"))
@pytest.mark.parametrize("markup", [
    '<p id="w" style="color:#7a7a7a">x</p>',
    '<p style="color:rgb(128 128 128 / 50%)"><b id="w">x</b></p>',
    '<p style="background:linear-gradient(red, red), gray; background-color:gray" id="w">x</p>',
    '<p style="opacity:0.4" id="w">x</p>',
    '<div class="admonition errata"><p id="w" style="color:#777">x</p></div>',
])
def test_illegible_text_is_named(sound, scheme, markup):
    sound.theme(scheme)
    assert sound.probe("legibility(4.5)") == []
    put(sound, markup)
    assert "#w" in "\n".join(sound.probe("legibility(4.5)"))


@pytest.mark.parametrize(("style", "color", "said"), [
    ("", "black", []),
    ("background:white; filter:none", "black", ["stands on"]),
    ("filter:none", "black", ["its best contrast is"]),
    ("", "dimgray", ["its best contrast is"]),
])
def test_illegible_figures_are_named(sound, style, color, said):
    put(sound, f'<div class="cell_output"><img style="{style}" alt="seeded" '
               f'src="{PAINT.format(color)}"></div>')
    sound.theme("dark")
    image = sound.driver.find_element(By.CSS_SELECTOR, "[alt=seeded]")
    sound.until("return arguments[0].complete", image)
    faults = sound.figure_faults(image)
    assert len(faults) == len(said)
    assert all(what in fault for what, fault in zip(said, faults))


@pytest.mark.parametrize("alt", ("", "../_images/0a1b.svg", "x"))
def test_figures_without_words_are_named(sound, alt):
    assert sound.probe("alternatives()") == []
    put(sound, f'<img alt="{alt}" src="{PAINT.format("red")}">')
    assert len(sound.probe("alternatives()")) == 1


@pytest.mark.parametrize("code", [
    "fetch('https://example.org/data.json').catch(() => 0).then(arguments[0])",
    "const i = new Image(); i.onerror = () => arguments[0](); i.src = 'http://example.org/i.png'",
    "const i = new Image(); i.onerror = () => arguments[0](); i.src = 'file:///nowhere/i.png'",
    "const s = new WebSocket('wss://example.org'); s.onerror = () => arguments[0]()",
])
def test_requests_that_leave_are_named(sound, code):
    assert sound.foreign() == sound.errors == []
    sound.driver.execute_async_script(code)
    sound.read_logs()
    assert len(sound.foreign()) == 1 and sound.errors


@pytest.mark.parametrize("markup", [
    '<script src="https://a.b/c.js"></script>', '<img src="//a.b/c.png">',
    '<img srcset="c.png 1x, https://a.b/c.png 2x">', '<iframe src="https://a.b"></iframe>',
    '<video poster="https://a.b/c.png"></video>', '<link rel="icon" href="https://a.b/c.ico">',
    '<link rel="stylesheet" href="https://a.b/c.css">', '<base href="https://a.b/">',
    '<link rel="preload" as="font" href="https://a.b/c.woff2">',
    '<meta http-equiv="refresh" content="0; url=https://a.b/">',
    '<p style="background: url(https://a.b/c.png)"></p>',
    '<style>@import "https://a.b/c.css";</style>', '<p onclick="fetch(`https://a.b`)"></p>',
    '<script>import("https://a.b/c.js")</script>',
    '<script>document.write(`<img src="https://a.b/c.png">`)</script>',
    '<svg><image xlink:href="https://a.b/c.png"/></svg>',
    '<link rel="stylesheet" href="local.css">', '<script src="local.js"></script>',
])
def test_external_loads_are_named(tmp_path, markup):
    (tmp_path / "page.html").write_text(f"<p>one</p>\n{markup}\n")
    (tmp_path / "local.js").write_text("fetch('https://a.b/c.json')")
    if "local.css" in markup:
        (tmp_path / "local.css").write_text("@import url('https://a.b/c.css');")
    faults = offline.external_loads(tmp_path)
    assert len(faults) == 1 and "a.b" in faults[0]
    assert faults[0].startswith(("page.html:2", "local"))
    assert offline.main([str(tmp_path)]) == 1


def test_links_are_not_loads(tmp_path):
    (tmp_path / "page.html").write_text(
        '<a href="https://a.b">out</a> <link rel="canonical" href="https://a.b/page.html">'
        '<p style="background: url(data:image/png;base64,AA)">https://a.b</p>'
        '<script>const home = "https://a.b";</script><!-- <img src="https://a.b/c.png"> -->')
    assert offline.external_loads(tmp_path) == []
    assert offline.main([str(tmp_path / "nowhere")]) == 1


def write_pdf(path, *lines):
    with plt.rc_context({"pdf.fonttype": 42, "figure.constrained_layout.use": False}):
        fig = plt.figure()
        for k, line in enumerate(lines):
            fig.text(0.05, 0.9 - 0.1 * k, line)
        fig.savefig(path)
        plt.close(fig)


@pytest.mark.parametrize(("line", "said"), [
    ("", []),
    ("by Theorem ??.", ["page 1: unresolved reference in “by Theorem ??.”"]),
    ("as in [?].", ["page 1: unresolved citation in “as in [?].”"]),
    ("see {eq}`eq-x`", ["page 1: unread markup in “see {eq}`eq-x`”"]),
])
def test_faults_of_a_pdf_are_named(tmp_path, line, said):
    path = tmp_path / "book.pdf"
    write_pdf(path, "Weak Forms, Few Bits", "Contents", "Theorem 1", "Proof", "Works cited", line)
    assert pdf.faults(path) == [f"{path}, {what}" for what in said]


def test_a_pdf_that_lacks_something_is_named(tmp_path):
    path = tmp_path / "book.pdf"
    assert "run `make pdf`" in pdf.faults(path)[0]
    write_pdf(path, "Weak Forms, Few Bits", "Contents", "Proof", "References")
    assert pdf.faults(path) == [f"{path}: “Theorem” is nowhere in the text"]
    path.with_suffix(".log").write_text("Missing character: There is no ⋯ in font")
    assert "no font has the character ⋯ (1 times)" in pdf.faults(path)[1]
    path.write_bytes(path.read_bytes()[:900])
    assert "not a whole PDF" in pdf.faults(path)[0] and pdf.main([str(path)]) == 1
