"""Pictures: the numbers that went in can be found again in the pixels that come out."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib import colormaps
from PIL import Image, ImageColor

from harness import figures
from harness.executors import ProcessExecutor, spread_over
from harness.figures import Chart, LineFigure, Series

FLOOR_COLOR = "#666666"

Pixels = npt.NDArray[np.uint8]


def _pixels(png: bytes) -> Pixels:
    """The picture's pixels, (H, W, 3); raises if it is not a whole PNG."""
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def _count(pixels: Pixels, color: str) -> int:
    """How many pixels have exactly this colour."""
    return int((pixels == np.array(ImageColor.getrgb(color))).all(axis=2).sum())


def _contains(pixels: Pixels, part: Pixels) -> bool:
    """Whether a rectangle of pixels occurs in a picture, bit for bit."""
    height, width = part.shape[:2]
    rows, columns = np.nonzero((pixels[: pixels.shape[0] - height + 1, : pixels.shape[1] - width + 1] == part[0, 0]).all(axis=2))
    return any(np.array_equal(pixels[y : y + height, x : x + width], part) for y, x in zip(rows, columns, strict=True))


def _images(count: int, channels: int, height: int, width: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, channels, height, width)).astype(np.float32)


def _enlarged(image: npt.NDArray[np.float32], scale: int) -> Pixels:
    """One image as 8-bit colours, every pixel a square of so many."""
    levels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    colored = levels if len(levels) == 3 else np.concatenate([levels] * 3)
    return np.kron(colored.transpose(1, 2, 0), np.ones((scale, scale, 1), dtype=np.uint8))


def _figure(*series: Series, **changes: object) -> LineFigure:
    return replace(LineFigure("Question?", "latent size", "loss", series), **changes)


def _line(label: str = "base", **changes: object) -> Series:
    return replace(Series(label, [2, 5, 10], [0.3, 0.2, 0.1]), **changes)


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 64, 64), (1, 8, 16)])
def test_every_image_of_every_row_is_in_the_picture(channels: int, height: int, width: int) -> None:
    """Each is enlarged to about 48 pixels across, by whole squares, and none is cut off or drawn over."""
    rows = [("original", _images(3, channels, height, width)), ("decoded", _images(3, channels, height, width, seed=1))]
    pixels = _pixels(figures.image_rows(rows, heading=("1", "0.5", "0"), note="a line above everything"))
    for image in np.concatenate([images for _, images in rows]):
        assert _contains(pixels, _enlarged(image, max(1, round(48 / width))))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_a_picture_has_colours_where_its_images_have(channels: int, mode: str) -> None:
    """Grey ones are a third of the numbers to write."""
    picture = figures.image_rows([("a", _images(2, channels, 8, 8))], note="a line above everything")
    assert Image.open(io.BytesIO(picture)).mode == mode


def test_pixels_outside_the_range_are_clipped_and_nan_is_black() -> None:
    """A decoder without a sigmoid may leave [0, 1]: below is black, above is white."""
    image = np.array([[[-0.5, 1.5], [np.nan, 0.5]]], dtype=np.float32)
    pixels = _pixels(figures.image_rows([("row", image[None])]))
    expected = np.array([[[0.0, 1.0], [0.0, 0.5]]], dtype=np.float32)
    assert _contains(pixels, _enlarged(expected, 24))


def test_rows_may_differ_in_length() -> None:
    """The picture is as wide as the longest row."""
    short, long = _images(1, 1, 8, 8), _images(5, 1, 8, 8, seed=1)
    pixels = _pixels(figures.image_rows([("a", short), ("b", long)]))
    assert pixels.shape[1] >= 5 * 48
    assert all(_contains(pixels, _enlarged(image, 6)) for image in (*short, *long))


def test_the_note_is_never_cut_off() -> None:
    """A note that is longer than the images widens the picture, and its end is written and not white."""
    row = [("a", _images(1, 1, 8, 8))]
    plain, noted = _pixels(figures.image_rows(row)), _pixels(figures.image_rows(row, note="W" * 80))
    assert noted.shape[1] > plain.shape[1]
    assert noted.shape[0] > plain.shape[0]
    assert (noted[:22, -30:] < 128).any()
    assert (noted[:, -4:] == 255).all()


def test_a_heading_stands_above_its_column() -> None:
    """Ink in the top band lies within the second of three columns, where the only text is."""
    pixels = _pixels(figures.image_rows([("a", np.ones((3, 1, 48, 48)))], heading=("", "X", "")))
    columns = np.nonzero((pixels[:20] < 128).any(axis=(0, 2)))[0]
    left = pixels.shape[1] - 8 - 3 * 50
    assert left + 50 <= columns.min() <= columns.max() < left + 100


@pytest.mark.parametrize("size", [1, 2, 30, 100, 400])
def test_every_correlation_has_its_colour(size: int) -> None:
    """The colours of the cells are those of the map from -1 to 1, each as often as its cell is large."""
    raw = np.random.default_rng(size).uniform(-1, 1, (size, size))
    matrix = (raw + raw.T) / 2
    np.fill_diagonal(matrix, 1)
    pixels, cell = _pixels(figures.correlation_picture(matrix, "a note")), max(1, 360 // size)
    colors = (colormaps["RdBu_r"]((matrix + 1) / 2)[..., :3] * 255).round().astype(np.uint8)
    assert _contains(pixels, np.kron(colors, np.ones((cell, cell, 1), dtype=np.uint8)))


def test_red_is_positive_and_blue_is_negative() -> None:
    """Of two opposite units the diagonal cells are red and the others blue; where nothing correlates they are pale."""
    pixels = _pixels(figures.correlation_picture(np.array([[1.0, -1.0], [-1.0, 1.0]]), "")).astype(int)
    warm, cold = pixels[..., 0] - pixels[..., 2] > 60, pixels[..., 2] - pixels[..., 0] > 60
    assert min(warm.sum(), cold.sum()) > 2 * 150**2
    pale = _pixels(figures.correlation_picture(np.array([[1.0, 0.0], [0.0, 1.0]]), "")).astype(int)
    assert (pale[..., 2] - pale[..., 0] > 60).sum() < 16 * 360  # the colour bar at most


def test_every_line_has_a_colour_of_its_own() -> None:
    """Each colour of the palette is in a figure with that many lines, and the last one is not in a figure with fewer."""
    lines = [_line(str(index), y=[index, index + 1, index + 0.5]) for index in range(len(figures.COLORS))]
    pixels = _pixels(figures.line_figure(_figure(*lines)))
    assert all(_count(pixels, color) > 50 for color in figures.COLORS)
    fewer = _pixels(figures.line_figure(_figure(*lines[:2])))
    assert [_count(fewer, color) > 50 for color in figures.COLORS[:4]] == [True, True, False, False]


def test_a_line_can_share_the_colour_of_another() -> None:
    """The index of the colour wins over the place; the dashed one of the two has fewer pixels."""
    x = list(range(30))
    solid = figures.line_figure(_figure(Series("a", x, [0.5] * 30, color=2)))
    dashed = figures.line_figure(_figure(Series("a", x, [0.5] * 30, color=2, dashed=True)))
    counts = [_count(_pixels(png), figures.COLORS[2]) for png in (solid, dashed)]
    assert counts[0] > counts[1] > 0
    assert _count(_pixels(solid), figures.COLORS[0]) == 0


def test_floors_are_grey() -> None:
    """The lines of what needs no learning have the same grey, which is in no figure without them."""
    floor = _line("PCA", y=[0.25, 0.15, 0.05])
    plain, floored = (_pixels(figures.line_figure(_figure(_line(), floors=floors))) for floors in ((), (floor,)))
    assert _count(floored, FLOOR_COLOR) > 50 > _count(plain, FLOOR_COLOR)


def test_intervals_are_a_band_around_the_line() -> None:
    """The band tints pixels that are white without it."""
    plain = _pixels(figures.line_figure(_figure(_line(), log_y=False)))
    band = _pixels(figures.line_figure(_figure(_line(low=[0.2, 0.1, 0.0], high=[0.4, 0.3, 0.2]))))
    assert _count(band, "#FFFFFF") < _count(plain, "#FFFFFF") - 5000


@pytest.mark.parametrize("log_y", [False, True])
def test_points_without_an_interval_are_drawn_all_the_same(log_y: bool) -> None:
    """NaN ends, as single replicates have them, leave the line and take away the band only."""
    unknown = [math.nan] * 3
    pixels = _pixels(figures.line_figure(_figure(_line(low=unknown, high=unknown), log_y=log_y)))
    assert _count(pixels, figures.COLORS[0]) > 50


def test_a_single_point_is_drawn() -> None:
    """A study of one latent size shows a marker."""
    assert _count(_pixels(figures.line_figure(_figure(Series("a", [10], [0.1])))), figures.COLORS[0]) > 10


def test_a_logarithmic_axis_draws_another_picture() -> None:
    """The same numbers over four decades, once evenly and once by ratio: the straight line bends."""
    line = _line(x=[1, 2, 3], y=[1e-4, 1e-2, 1.0])
    heights = []
    for log_y in (False, True):
        pixels = _pixels(figures.line_figure(_figure(line, log_y=log_y)))
        rows = np.nonzero((pixels == np.array(ImageColor.getrgb(figures.COLORS[0]))).all(axis=2))[0]
        heights.append((np.mean(rows) - rows.min()) / (rows.max() - rows.min()))
    assert heights[0] > 0.6
    assert heights[1] == pytest.approx(0.5, abs=0.1)


def test_panels_stand_side_by_side() -> None:
    """Two panels are wider than one, of the same height, and each has its own lines."""
    one = _figure(_line(color=0))
    two = _figure(_line(color=1))
    single, double = _pixels(figures.line_figure(one)), _pixels(figures.line_panels("Both", [one, two]))
    assert double.shape[0] == single.shape[0]
    assert double.shape[1] > 1.4 * single.shape[1]
    columns = [np.nonzero((double == np.array(ImageColor.getrgb(color))).all(axis=2))[1] for color in figures.COLORS[:2]]
    assert np.median(columns[0]) < double.shape[1] / 2
    assert np.median(columns[0]) < np.median(columns[1])


def test_a_chart_is_the_same_whoever_draws_it() -> None:
    """In this process or in a worker, as a sweep has it."""
    charts = [Chart(name, "title", [_figure(_line())]) for name in ("one", "two", "three")]
    with ProcessExecutor(2) as executor:
        assert list(spread_over(executor)(figures.draw, charts)) == [figures.draw(chart) for chart in charts]


def test_equal_contents_are_equal_bytes() -> None:
    """No date and no version is written into a file, so that a picture changes only with its numbers."""
    for draw in (
        lambda: figures.line_figure(_figure(_line())),
        lambda: figures.correlation_picture(np.eye(4), "note"),
        lambda: figures.image_rows([("a", _images(2, 1, 8, 8))]),
    ):
        assert draw() == draw()
