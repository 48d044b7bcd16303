"""What a built site loads from elsewhere, found without a browser.

    python tests/site/offline.py _build/html

prints one line for each external address that a page, a style sheet or a script would load, and
exits with 1 if there is one.  Hyperlinks are not loads: a reader follows them or not.
"""
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

EXTERNAL = re.compile(r"\s*(?:(?:https?|ftp|wss?|file):|//)", re.IGNORECASE)
LOADED = {  # tag: attributes that make a browser fetch
    "audio": ("src",), "base": ("href",), "body": ("background",), "embed": ("src",),
    "frame": ("src",), "iframe": ("src",), "image": ("href", "xlink:href"), "img": ("src",),
    "input": ("src",), "link": ("href",), "object": ("data",), "script": ("src",),
    "source": ("src",), "track": ("src",), "use": ("href", "xlink:href"),
    "video": ("src", "poster"),
}
SETS = {"img": "srcset", "source": "srcset", "link": "imagesrcset"}
RELS = {"apple-touch-icon", "apple-touch-icon-precomposed", "dns-prefetch", "icon", "manifest",
        "mask-icon", "modulepreload", "preconnect", "prefetch", "preload", "prerender",
        "stylesheet"}
IN_CSS = re.compile(r"""(?:@import\s+(?:url\(\s*)?|url\(\s*)["']?([^"')\s;]+)""", re.IGNORECASE)
IN_SCRIPT = re.compile(
    r"""(?:\b(?:fetch|import|importScripts|sendBeacon|Worker|EventSource|WebSocket)\s*\(\s*
        |\bimport\s+(?:[\w*{}\s,$]+\s+from\s+)?
        |\.open\(\s*["'`][A-Z]+["'`]\s*,\s*
        |\bsrc\s*=\s*\\?)["'`]((?:(?:https?|wss?):)?//[^"'`\s\\]+)""", re.VERBOSE)
NOT_LOADED = re.compile(r"/\*.*?\*/|@namespace[^;]*;", re.DOTALL)


def in_css(text: str) -> list[str]:
    """External addresses that a style sheet loads.

    >>> in_css('@import "https://a.b/c.css"; p {background: url(d.png), url(//a.b/e.png)}')
    ['https://a.b/c.css', '//a.b/e.png']
    """
    found = IN_CSS.findall(NOT_LOADED.sub("", text))
    return [url for url in found if EXTERNAL.match(url)]


def in_script(text: str) -> list[str]:
    """External addresses that a script plainly loads; one put together from parts is not seen.

    >>> in_script('const help = "https://a.b/help"; fetch("https://a.b/data.json")')
    ['https://a.b/data.json']
    """
    return IN_SCRIPT.findall(text)


class Page(HTMLParser):
    """Collects (line, what, url) of external loads and the local scripts of one page."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self.raw = [], [], None

    def handle_starttag(self, tag, attrs):
        attrs = {name: value or "" for name, value in attrs}
        self.raw = tag if tag in ("script", "style") else None
        if tag == "link" and not RELS & set(attrs.get("rel", "").lower().split()):
            return
        for name in LOADED.get(tag, ()):
            url = attrs.get(name, "")
            self.add(f"<{tag} {name}>", url)
            if tag == "script" and url and not EXTERNAL.match(url):
                self.scripts.append(url)
        for candidate in attrs.get(SETS.get(tag, ""), "").split(","):
            self.add(f"<{tag} {SETS.get(tag)}>", candidate.strip().split(" ")[0])
        if tag == "meta" and attrs.get("http-equiv", "").lower() == "refresh":
            self.add("<meta refresh>", attrs.get("content", "").partition("=")[2].strip("'\" "))
        for url in in_css(attrs.get("style", "")):
            self.add(f"<{tag} style>", url)
        for name, value in attrs.items():
            if name.startswith("on"):
                self.extend(f"<{tag} {name}>", in_script(value))

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        if tag == self.raw:
            self.raw = None

    def handle_data(self, data):
        if self.raw == "style":
            self.extend("<style>", in_css(data))
        elif self.raw == "script":
            self.extend("<script>", in_script(data))

    def add(self, what, url):
        if EXTERNAL.match(url):
            self.found.append((self.getpos()[0], what, url.strip()))

    def extend(self, what, urls):
        for url in urls:
            self.add(what, url)


def external_loads(html_dir) -> list[str]:
    """One line for each external load of the site in `html_dir`; empty if it works offline.

    Raises FileNotFoundError if the folder holds no page.
    """
    root = Path(html_dir)
    pages = sorted(root.rglob("*.html"))
    if not pages:
        raise FileNotFoundError(f"{root}: holds no page; run `make html` first")
    faults, scripts = [], set()
    for path in pages:
        page = Page()
        page.feed(path.read_text("utf-8"))
        page.close()
        faults += [f"{path.relative_to(root)}:{line}: {what} loads {url}"
                   for line, what, url in page.found]
        scripts |= {(path.parent / unquote(urlsplit(url).path)).resolve() for url in page.scripts}
    for path in sorted(root.rglob("*.css")):
        faults += [f"{path.relative_to(root)}: loads {url}"
                   for url in in_css(path.read_text("utf-8"))]
    for path in sorted(p for p in scripts if p.is_file()):
        faults += [f"{path.relative_to(root.resolve())}: loads {url}"
                   for url in in_script(path.read_text("utf-8"))]
    return faults


def main(arguments) -> int:
    if len(arguments) != 1:
        print("usage: python tests/site/offline.py _build/html")
        return 2
    try:
        faults = external_loads(arguments[0])
    except FileNotFoundError as error:
        print(error)
        return 1
    print("\n".join(faults) or f"{arguments[0]}: loads nothing from elsewhere")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
