"""What every figure needs, drawn and looked at."""

import figures
from matplotlib import colors
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np
from PIL import Image
import pytest

from dmm_jax.plots import canvas


@pytest.fixture
def ax():
  return figure_lib.Figure().subplots()


def test_saved_figures_are_the_same_bytes_and_150_dots_an_inch(tmp_path):
  for folder in ('a', 'b'):
    figure, axes = canvas.grid(1, 1, width=1.5, height=1.2)
    axes[0, 0].plot([0, 1])
    path = canvas.save(figure, tmp_path / folder / 'deep' / 'one.two')
    assert path == tmp_path / folder / 'deep' / 'one.two.png'
  for name in ('one.two.png', 'one.two.pdf'):
    files = [tmp_path / v / 'deep' / name for v in 'ab']
    assert files[0].read_bytes() == files[1].read_bytes()
  assert b'CreationDate' not in files[0].read_bytes()
  assert Image.open(path).size == (225, 180)


def test_a_grid_has_inches_for_each_of_its_axes():
  figure, axes = canvas.grid(2, 3)
  assert axes.shape == (2, 3)
  np.testing.assert_allclose(figure.get_size_inches(), [3 * 3.6, 2 * 3.2])
  assert type(figure.get_layout_engine()).__name__ == 'ConstrainedLayoutEngine'
  figure, axes = canvas.grid(1, 1, 2.5, 4)
  assert axes.shape == (1, 1)
  np.testing.assert_allclose(figure.get_size_inches(), [2.5, 4])


@pytest.mark.parametrize('which', [None, 'x'])
def test_logarithmic_axes_have_plain_numbers_within_a_decade(ax, which):
  canvas.log_values(ax, *[which] * bool(which))
  one, other = (ax.xaxis, ax.yaxis) if which else (ax.yaxis, ax.xaxis)
  assert (one.get_scale(), other.get_scale()) == ('log', 'linear')
  locator = one.get_major_locator()
  shown = [v for v in locator.tick_values(1.2, 9) if 1 <= v < 10]
  np.testing.assert_allclose(shown, [1, 1.5, 2, 3, 5, 7])
  assert one.get_major_formatter()(0.0015, 0) == '0.0015'
  assert isinstance(one.get_minor_locator(), ticker.NullLocator)


def test_a_legend_stands_below_the_figure():
  figure, axes = canvas.grid(1, 2)
  for label in 'abcde':
    axes[0, 1].plot([1, 2], label=label)
  axes[0, 0].plot([1, 2], label='elsewhere')
  canvas.legend(figure, axes[0, 1], ncols=3)
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == [*'abcde']
  assert legend.get_texts()[0].get_fontsize() == 8
  assert legend._ncols == 3
  assert legend._outside_loc == 'lower'


def test_images_are_grey_or_coloured_and_within_their_range(ax):
  grey = np.linspace(-0.5, 0.8, 6).reshape(2, 3, 1)
  canvas.image(ax, grey)
  np.testing.assert_array_equal(ax.images[0].get_array(), grey[..., 0])
  assert ax.images[0].get_cmap().name == 'gray'
  assert ax.images[0].get_clim() == (0, 1)
  coloured = np.linspace(-0.5, 1.5, 18).reshape(2, 3, 3)
  canvas.image(ax, coloured)
  np.testing.assert_allclose(
    ax.images[1].get_array(), np.clip(coloured, 0, 1), atol=1 / 255
  )


def test_channels_go_last_and_other_numbers_of_them_are_grey(ax):
  for shape, want in (
    ((5, 3, 8, 9), (5, 8, 9, 3)),
    ((1, 8, 8), (8, 8, 1)),
    ((8, 9, 3), (8, 9, 3)),
    ((3, 8, 3), (3, 8, 3)),
    ((3, 4, 1), (3, 4, 1)),
    ((4, 8, 9), (4, 8, 9)),
  ):
    images = np.arange(float(np.prod(shape))).reshape(shape)
    found = canvas.channels_last(images)
    assert found.shape == want
    first = np.moveaxis(images, -3, -1) if shape != want else images
    np.testing.assert_array_equal(found, first)
  many = np.linspace(0, 1, 60).reshape(3, 4, 5)
  canvas.image(ax, many)
  np.testing.assert_allclose(ax.images[0].get_array(), many.mean(-1))


def test_a_change_is_the_mean_of_its_colours_between_dark_and_bright(ax):
  pixels = np.arange(12.0).reshape(2, 2, 3) - 4
  canvas.change(ax, pixels, 5.0)
  (shown,) = ax.images
  np.testing.assert_allclose(shown.get_array(), pixels.mean(-1))
  assert shown.get_clim() == (-5, 5)
  ends = [colors.to_hex(shown.get_cmap()(v)) for v in (0.0, 1.0)]
  assert ends == ['#06264a', '#fff3d0']


def test_estimates_stand_with_their_intervals(ax):
  found = [
    (2.0, 1.5, 4.0, 9, ''),
    (3.0, 2.0, 3.5, 9, ''),
    (1.0, 0.5, 1.5, 9, ''),
  ]
  value, low, high = np.array([v[:3] for v in found]).T
  canvas.estimates(ax, [1, 5, 6], found, canvas.STYLES[0], 'up', line=True)
  canvas.estimates(
    ax, [1, 5, 6], found, canvas.STYLES[1], 'across', across=True
  )
  bars = figures.bars(ax)
  np.testing.assert_allclose(bars['up'], [[1, 5, 6], value, low, high])
  np.testing.assert_allclose(bars['across'], [value, [1, 5, 6], low, high])
  lines = [bar[0].get_linestyle() for bar in ax.containers]
  assert lines == ['-', 'None']
  figures.assert_looks('estimates', {'estimates': ax.figure})


@pytest.mark.filterwarnings('error')
def test_infinite_values_are_left_out_and_infinite_ends_have_no_bar(ax):
  found = [
    (np.inf, 1.0, np.inf), (2.0, 1.5, np.inf), (np.nan, np.nan, np.nan)
  ]  # fmt: skip
  canvas.estimates(ax, [0, 1, 2], found, canvas.STYLES[0], 'a', across=True)
  x, y, low, high = figures.bars(ax)['a']
  assert (x.tolist(), y.tolist()) == ([2], [1])
  assert (low.tolist(), high.tolist()) == ([1.5], [2])


def test_bands_are_curves_with_their_intervals(ax):
  found = [(1.0, 0.5, 1.2), (2.0, 1.5, 4.0), (0.3, 0.2, 0.9)]
  canvas.band(ax, [1, 4, 9], found, canvas.STYLES[2], 'third')
  value, low, high = np.transpose(found)
  figures.assert_curve(ax, 'third', [1, 4, 9], value)
  (area,) = figures.areas(ax)
  np.testing.assert_allclose(area, [[1, 4, 9], low, high])
  (line,) = ax.get_lines()
  assert line.get_color() == canvas.STYLES[2]['color']
  figures.assert_looks('bands', {'bands': ax.figure})


def test_every_series_differs_in_colour_mark_and_dash():
  for part in ('color', 'marker', 'linestyle'):
    assert len({look[part] for look in canvas.STYLES}) == len(canvas.STYLES)
