"""Figures of the pages: one style, vectors in both outputs, and sliders that work offline.

Importing the module sets the style and, inside a notebook, the formats: SVG for the site and
PDF for print.  Backgrounds are transparent; the site's stylesheet inverts lightness in dark mode,
so draw in black and in `COLOURS`, which keep their hue there.
"""
import base64
import html
import io

import matplotlib
import matplotlib.pyplot as plt
from cycler import cycler

COLOURS = ("#0b6e99", "#c2410c", "#3f7d20", "#7c3aed", "#a16207", "#be185d")
LIMIT = {"color": "black", "linestyle": (0, (4, 2)), "linewidth": 1.2, "zorder": 1}

STYLE = {
    "figure.figsize": (6.4, 3.6), "figure.constrained_layout.use": True,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
    "axes.prop_cycle": cycler(color=COLOURS), "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3, "grid.linewidth": 0.6,
    "font.size": 11, "legend.fontsize": 10, "legend.frameon": False, "lines.linewidth": 1.8,
    "lines.markersize": 5, "svg.fonttype": "path", "svg.hashsalt": "lecturelib",
    "mathtext.fontset": "cm",
}


def setup() -> None:
    """Set the house style; inside IPython also choose SVG and PDF as figure formats."""
    matplotlib.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        # the backend would otherwise reset rcParams at the first cell's end
        get_ipython().run_line_magic("matplotlib", "inline")
        set_matplotlib_formats("svg", "pdf", facecolor="none")
        matplotlib.rcParams.update(STYLE)


def limit(ax, x, y, label: str):
    """Draw a theoretical limit or rate: the dashed black line of every figure."""
    return ax.plot(x, y, label=label, **LIMIT)[0]


def slider(draw, values, label: str, alt: str, start: int = 0, figsize=(6.4, 3.6)) -> None:
    """Display pre-drawn frames behind a range slider; the PDF gets the frame `start`.

    Parameters
    ----------
    draw : callable `draw(fig, value)` that fills an empty figure.
    values : sequence, one frame each; at most 40.
    label : text beside the slider, with `{}` where the value goes.
    alt : what the frames show, for screen readers.
    start : index of the frame shown first.

    Raises ValueError if `values` is empty or longer than 40, or `start` is out of range.
    """
    values = list(values)
    if not 0 < len(values) <= 40:
        raise ValueError(f"values must hold 1 to 40 frames; got {len(values)}")
    if not 0 <= start < len(values):
        raise ValueError(f"start must be an index into values; got {start} of {len(values)}")
    from IPython.display import display
    frames, still = [], b""
    for k, value in enumerate(values):
        fig = plt.figure(figsize=figsize)
        draw(fig, value)
        buffer = io.BytesIO()
        fig.savefig(buffer, format="svg", metadata={"Date": None})
        frames.append(base64.b64encode(buffer.getvalue()).decode())
        if k == start:
            buffer = io.BytesIO()
            fig.savefig(buffer, format="pdf", metadata={"CreationDate": None})
            still = buffer.getvalue()
        plt.close(fig)
    texts = [html.escape(label.format(v)) for v in values]
    images = "".join(
        f'<img {"" if k == start else "hidden "}alt="{html.escape(alt)} ({t})" '
        f'src="data:image/svg+xml;base64,{f}">' for k, (f, t) in enumerate(zip(frames, texts)))
    captions = "".join(f'<span {"" if k == start else "hidden"}>{t}</span>'
                       for k, t in enumerate(texts))
    move = ("for(const box of this.closest('.lecture-slider').querySelectorAll('[data-frames]'))"
            "[...box.children].forEach((c,k)=>{c.hidden=k!=this.value})")
    markup = (f'<div class="lecture-slider"><div data-frames>{images}</div><label>'
              f'<span data-frames>{captions}</span><input type="range" min="0" '
              f'max="{len(values) - 1}" value="{start}" step="1" oninput="{move}"></label></div>')
    display({"text/html": markup, "application/pdf": base64.b64encode(still).decode(),
             "text/plain": f"<slider: {label.format(values[start])}>"}, raw=True)


setup()
