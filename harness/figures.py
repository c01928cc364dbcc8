"""Pictures. Numbers come in, PNG bytes go out; the only file that knows matplotlib.

Pictures of a trial are drawn straight into an array, because a figure costs more than the trial's own measures; those
of a sweep are figures with axes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Array = npt.NDArray[Any]

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, which people with any colour vision can tell apart."""

MARKERS = "osD^vPX"
FLOOR_STYLES = ("--", ":", "-.")
TEXT_COLOR, GRID_COLOR, FLOOR_COLOR = "#333333", "#dddddd", "#666666"
"""Of figures with axes; a page may put its own in their place in an SVG, to follow the reader's choice of light or dark."""

INK, PAPER = 32, 255
FONT_SIZE = 13


@dataclass(frozen=True)
class Series:
    """One line of a figure.

    Attributes:
        label: Its name in the legend.
        x: (n,).
        y: (n,), the means.
        low: (n,), lower ends of the intervals; NaN where there is none.
        high: (n,), upper ends.
        color: Index of its colour, where it shares one with another line.
        dashed: Whether it is the lesser of two lines of one colour.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    color: int | None = None
    dashed: bool = False


@dataclass(frozen=True)
class LineFigure:
    """All that a line figure shows.

    Attributes:
        title: What it answers.
        x_label: With the unit.
        y_label: With the unit.
        series: The measured lines.
        floors: Lines of what a method with no learning reaches.
        log_x: Whether the x axis is logarithmic.
        log_y: Whether the y axis is.
        y_range: What values there can be at all; an interval's ends outside it are not drawn.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    floors: Sequence[Series] = field(default=())
    log_x: bool = False
    log_y: bool = False
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class HeatMap:
    """A square matrix of numbers in [-1, 1], such as correlations.

    Attributes:
        title: What it is of.
        label: Of both axes.
        matrix: (n, n).
    """

    title: str
    label: str
    matrix: Array


@dataclass(frozen=True)
class Chart:
    """Panels side by side under one title: all that a figure with axes shows.

    Attributes:
        name: Of its files.
        title: What it answers.
        panels: Of one kind.
        share_y: Whether the lines of all panels have one y axis.
    """

    name: str
    title: str
    panels: Sequence[LineFigure | HeatMap]
    share_y: bool = True


def warm_up() -> None:
    """Loads what drawing needs, fonts and all, half a second: for who will have a chart to draw soon."""
    draw(Chart("nothing", "nothing", [LineFigure("nothing", "x", "y", [Series("nothing", [0, 1], [0, 1])])]))


def draw(chart: Chart, kinds: Sequence[str] = ("png", "svg")) -> dict[str, bytes]:
    """Draws a chart.

    Args:
        chart: What it shows.
        kinds: Of files.

    Returns:
        The same picture of each kind, ``png`` or ``svg``, with text that can be selected in the latter.
    """
    import matplotlib as mpl

    colors: Any = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT_COLOR)
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": chart.name, "text.parse_math": False}  # a path may hold dollars
    with mpl.rc_context({**colors, **settings}):
        figure, axes = _new_figure(len(chart.panels), chart.share_y and not isinstance(chart.panels[0], HeatMap))
        for axis, panel in zip(axes, chart.panels, strict=True):
            if len(chart.panels) > 1 or isinstance(panel, HeatMap):
                axis.set_title(panel.title, fontsize=10)
            if isinstance(panel, HeatMap):
                image = _draw_heat(axis, panel)
                continue
            _draw_lines(axis, panel)
            if axis is axes[0]:
                axis.set_ylabel(panel.y_label)
        figure.suptitle(chart.title, fontsize=12)
        if isinstance(chart.panels[0], HeatMap):
            figure.colorbar(image, ax=axes, shrink=0.8)
        else:
            _add_legend(figure, axes)
        return {kind: _saved(figure, kind) for kind in kinds}


def line_figure(content: LineFigure) -> bytes:
    """Draws lines with intervals, floors dashed in grey, the legend beside the data; PNG bytes."""
    return line_panels(content.title, [content])


def line_panels(title: str, panels: Sequence[LineFigure], share_y: bool = True) -> bytes:
    """Draws several line figures side by side under one title, with one legend at the right; PNG bytes."""
    return draw(Chart("lines", title, panels, share_y), ["png"])["png"]


def _new_figure(panels: int, share_y: bool) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 + 4.0 * panels, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, panels, sharey=share_y, squeeze=False)
    return figure, list(axes[0])


def _add_legend(figure: Figure, axes: Sequence[Axes]) -> None:
    labelled = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(labelled.values()), list(labelled), loc="outside right center", frameon=False, fontsize=9)


def _draw_heat(axis: Axes, content: HeatMap) -> AxesImage:
    image = axis.imshow(content.matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_xlabel(content.label)
    axis.set_ylabel(content.label)
    _whole_numbers(axis.xaxis)
    _whole_numbers(axis.yaxis)
    return image


def _whole_numbers(side: Axis) -> None:
    """Ticks where epochs, latent sizes and units can be."""
    from matplotlib.ticker import MaxNLocator

    side.set_major_locator(MaxNLocator(nbins="auto", steps=[1, 2, 2.5, 5, 10], integer=True))


def _draw_lines(axis: Axes, content: LineFigure) -> None:
    for index, line in enumerate(content.series):
        place = index if line.color is None else line.color
        color = COLORS[place % len(COLORS)]
        marker = MARKERS[place % len(MARKERS)] if len(line.x) <= 20 else None
        style = (0, (4, 2)) if line.dashed else "-"
        axis.plot(line.x, line.y, color=color, marker=marker, markersize=5, linewidth=1.6, linestyle=style, label=line.label)
        if len(line.low):
            low, high = (np.clip(ends, *(content.y_range or (-np.inf, np.inf))) for ends in (line.low, line.high))
            axis.fill_between(line.x, low, high, color=color, alpha=0.18, linewidth=0)
    for index, line in enumerate(content.floors):
        axis.plot(
            line.x, line.y, color=FLOOR_COLOR, linestyle=FLOOR_STYLES[index % len(FLOOR_STYLES)], linewidth=1.3, label=line.label
        )
    axis.set_xlabel(content.x_label)
    _whole_numbers(axis.xaxis)
    if content.log_x:
        axis.set_xscale("log")
        _mark_logarithmic(axis.xaxis)
    if content.log_y:
        axis.set_yscale("log")
        _mark_logarithmic(axis.yaxis)
    axis.grid(color=GRID_COLOR, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _mark_logarithmic(axis: Axis) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _saved(figure: Figure, kind: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    canvas: Any = FigureCanvasAgg(figure) if kind == "png" else FigureCanvasSVG(figure)
    if kind == "png":  # by the canvas itself: ``savefig`` draws all of it once before, and then the same
        canvas.print_png(buffer, metadata={"Software": None})
    else:
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # the next kind takes it over: to find it takes as long as to draw
    return buffer.getvalue()


def image_rows(rows: Sequence[tuple[str, Array]], heading: Sequence[str] = (), note: str = "") -> bytes:
    """Draws labelled rows of images.

    Args:
        rows: The text at the row's left and its images, (n, C, H, W) in [0, 1].
        heading: A text above each column; may be empty.
        note: A line above everything; may be empty.

    Returns:
        PNG bytes.
    """
    labels, arrays = [label for label, _ in rows], [images for _, images in rows]
    scale = max(1, round(48 / arrays[0].shape[-1]))
    strips = [_strip(row, scale) for row in arrays]
    left = max(_text_width(label) for label in labels) + 12
    top = 8 + (FONT_SIZE + 8) * (bool(note) + bool(heading))
    height = top + sum(strip.shape[0] + 6 for strip in strips) + 4
    width = max(left + max(strip.shape[1] for strip in strips) + 8, _text_width(note) + 16)
    canvas = Image.new("RGB", (width, height), (PAPER, PAPER, PAPER))
    pen = ImageDraw.Draw(canvas)
    if note:
        _write(pen, 8, 6, note)
    cell = arrays[0].shape[-1] * scale + 2
    for index, text in enumerate(heading):
        _write(pen, left + index * cell + (cell - _text_width(text)) // 2, top - FONT_SIZE - 6, text)
    for label, strip in zip(labels, strips, strict=True):
        canvas.paste(Image.fromarray(strip), (left, top))
        _write(pen, 8, top + (strip.shape[0] - FONT_SIZE) // 2 - 2, label)
        top += strip.shape[0] + 6
    return _image_png(canvas.convert("L") if arrays[0].shape[1] == 1 else canvas)


def _strip(images: Array, scale: int) -> npt.NDArray[np.uint8]:
    """(n, C, H, W) in [0, 1] side by side, enlarged, with a line between; (H, W, 3)."""
    levels = (np.clip(np.nan_to_num(images), 0, 1) * 255).round().astype(np.uint8)
    colored = np.broadcast_to(levels, (len(levels), 3, *levels.shape[2:])) if levels.shape[1] == 1 else levels
    large = colored.repeat(scale, axis=2).repeat(scale, axis=3)
    framed = np.pad(large, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=160)
    return np.ascontiguousarray(framed.transpose(2, 0, 3, 1).reshape(framed.shape[2], -1, 3))


def correlation_picture(matrix: Array, note: str) -> bytes:
    """Draws a correlation matrix, (d, d), with unit numbers and a colour bar from -1 (blue) to 1 (red)."""
    from matplotlib import colormaps

    size = len(matrix)
    cell = max(1, 360 // size)
    side, left, top = cell * size, 34, 36 + FONT_SIZE
    color = colormaps["RdBu_r"]
    squares = Image.fromarray((color((matrix + 1) / 2)[..., :3] * 255).round().astype(np.uint8))
    bar = Image.fromarray((color(np.linspace(1, 0, side))[:, None, :3] * 255).round().astype(np.uint8))
    canvas = Image.new("RGB", (max(left + side + 90, _text_width(note) + 16), top + side + 30), (PAPER, PAPER, PAPER))
    canvas.paste(squares.resize((side, side), Image.Resampling.NEAREST), (left, top))
    canvas.paste(bar.resize((16, side)), (left + side + 20, top))
    pen = ImageDraw.Draw(canvas)
    _write(pen, 8, 6, note)
    step = max(1, -(-_text_width("00") * 2 // cell))
    for unit in range(0, size, step):
        centre = unit * cell + cell // 2
        _write(pen, left - 6 - _text_width(str(unit)), top + centre - FONT_SIZE // 2 - 1, str(unit))
        _write(pen, left + centre - _text_width(str(unit)) // 2, top - FONT_SIZE - 6, str(unit))
    _write(pen, left, top + side + 8, "latent unit")
    for value in (-1.0, -0.5, 0.0, 0.5, 1.0):
        _write(
            pen, left + side + 42, top + round((1 - value) / 2 * side) - FONT_SIZE // 2 - 1, f"{value:+.1f}" if value else "0.0"
        )
    return _image_png(canvas)


def _image_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="png")
    return buffer.getvalue()


@lru_cache(maxsize=1)  # a font is read anew each time, which took as long as to draw all else
def _font() -> Any:
    return ImageFont.load_default(FONT_SIZE)


def _text_width(text: str) -> int:
    return int(_font().getlength(text))


def _write(pen: ImageDraw.ImageDraw, x: int, y: int, text: str) -> None:
    pen.text((x, y), text, fill=(INK, INK, INK), font=_font())
