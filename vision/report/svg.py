"""matplotlib figures as SVG that lies in a page: its colours, its sizes, no foreign request."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as MatplotlibFigure

# Colours that are told apart on white and on black, also with the common colour blindnesses
# (Okabe and Ito 2008, the yellow left out, darkened for white paper).
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = (
    "#1f77b4", "#d9730d", "#129a74", "#b7679b", "#4aa3d8", "#cf3f3f",
)  # fmt: skip
COLORS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
_INK = "#010203"  # stands for the colour of the page's text, which CSS knows and matplotlib not
WIDTH, HEIGHT = 4.4, 2.7  # inches; 440 and 270 px on the page
LEGEND_COLUMNS = 3
_PIXELS = 100  # of the page, for an inch
EDGE, LINE, LETTER = 0.12, 0.16, 0.062  # inches around all, of a line of text, of a letter


@dataclass(frozen=True)
class Figure:
    """A drawing for the page.

    Attributes:
        title: what it is.
        caption: what it shows for this run.
        svg: markup; safe to put in a page as it is.
    """

    title: str
    caption: str
    svg: str


class Canvas:
    """Makes figures of one page; numbers them, so that no two elements have one id.

    Args:
        name: begins the ids of its elements; no other canvas of the page has it.
    """

    def __init__(self, name: str = "f"):
        self._name, self._count = name, 0

    @contextmanager
    def figure(self, *, height: float = HEIGHT) -> Iterator[tuple]:
        """Give a matplotlib figure and its axes to draw on, in the page's style."""
        import matplotlib
        from matplotlib.figure import Figure as MatplotlibFigure

        style = {
            "svg.fonttype": "none",
            "svg.hashsalt": "report",
            "font.family": "sans-serif",
            "font.size": 8,
            "axes.edgecolor": _INK,
            "axes.labelcolor": _INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "axes.prop_cycle": matplotlib.cycler(color=COLORS),
            "text.color": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "grid.color": _INK,
            "grid.alpha": 0.12,
            "axes.grid": True,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "legend.fontsize": 7.5,
            "lines.linewidth": 1.5,
        }
        with matplotlib.rc_context(style), warnings.catch_warnings():
            # Letters that matplotlib's font lacks are drawn by the browser's.
            warnings.simplefilter("ignore", UserWarning)
            drawing = MatplotlibFigure(figsize=(WIDTH, height))
            drawing.subplots_adjust(top=1 - EDGE / height)
            yield drawing, drawing.add_subplot()

    def finish(self, drawing: "MatplotlibFigure", title: str, caption: str) -> Figure:
        """Turn a drawing into markup; call it inside `figure`."""
        self._count += 1
        stream = io.StringIO()
        _make_room(drawing)
        drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
        return Figure(
            title, caption, _inline(stream.getvalue(), title, f"{self._name}{self._count}-")
        )


def epoch_axis(axes: "Axes") -> None:
    """Number the epochs by whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def from_zero(axes: "Axes") -> None:
    """Begin at 0 and leave room above the highest point."""
    axes.set_ylim(0, 1.06 * max(axes.dataLim.y1, 1e-9))


def legend(drawing: "MatplotlibFigure", *, title: str | None = None) -> None:
    """Name the lines above the axes, where they hide nothing."""
    box = drawing.legend(
        loc="upper left", borderaxespad=0.3, ncols=LEGEND_COLUMNS, title=title, alignment="left"
    )
    rows = -(-len(box.texts) // LEGEND_COLUMNS) + (title is not None)
    drawing.subplots_adjust(top=1 - (EDGE + LINE * rows) / drawing.get_figheight())


def _make_room(drawing: "MatplotlibFigure") -> None:
    """Leave room for what stands beside and below the axes, by its lines and letters.

    matplotlib's constrained layout measures every text, in another font than the browser's, which
    takes as long as the drawing itself.
    """
    width, height = drawing.get_size_inches()
    axes, *color_bars = drawing.axes
    letters = max(len(text.get_text()) for text in axes.get_yticklabels())
    left = EDGE + LETTER * letters + LINE * bool(axes.get_ylabel())
    right = EDGE + 2 * LINE * len(color_bars)
    drawing.subplots_adjust(
        left=left / width, right=1 - right / width, bottom=(EDGE + 2 * LINE) / height
    )


def label(name: str, limit: int = 22) -> str:
    """Make a class name fit for a drawing: short, of one line, without matplotlib's formulas."""
    text = "".join(c if c.isprintable() else " " for c in name)
    text = text if len(text) <= limit else text[: limit - 3] + "..."
    return text.replace("\\", "\\\\").replace("$", r"\$")


def _inline(svg: str, title: str, prefix: str) -> str:
    """Cut a file down to the element, named for screen readers, with ids of its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = svg.replace(_INK, "currentColor")
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: _keep_id(m.group(1), used, prefix), svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{prefix}", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    head, rest = svg.split(">", 1)
    view_box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', head)
    width, height = (round(float(side) / 72 * _PIXELS) for side in view_box.groups())
    escaped = title.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {view_box.group(0)} width="{width}" '
        f'height="{height}" role="img" aria-label="{escaped}">{rest}'
    )


def _keep_id(name: str, used: set[str], prefix: str) -> str:
    return f' id="{prefix}{name}"' if name in used else ""
