"""What every figure needs: styles in grey too, grids, legends, files."""

from collections.abc import Collection
from collections.abc import Sequence
import pathlib
from typing import Any

from matplotlib import axes
from matplotlib import colors
from matplotlib import figure as figure_lib
from matplotlib import ticker
import numpy as np

# Distinct in grey too: every series has its own marker, dash and shade.
STYLES: tuple[dict[str, Any], ...] = (
  dict(color='#0b3c5d', marker='o', linestyle='-'),
  dict(color='#d9822b', marker='s', linestyle='--'),
  dict(color='#328c4a', marker='^', linestyle='-.'),
  dict(color='#b4344f', marker='D', linestyle=':'),
  dict(color='#8a8a8a', marker='v', linestyle=(0, (5, 1, 1, 1))),
)

# Diverging, and of rising lightness, so that its sign survives in grey.
_CHANGE = colors.LinearSegmentedColormap.from_list(
  'change', ['#06264a', '#3f78b5', '#b9b9b9', '#f0a050', '#fff3d0']
)


def norm(p: float) -> str:
  """Returns the name of a norm, in mathematics of matplotlib."""
  if np.isinf(float(p)):
    return r'$\ell^\infty$'
  name = f'{float(p):g}'
  return rf'$\ell^{name}$' if len(name) == 1 else rf'$\ell^{{{name}}}$'


def save(figure: figure_lib.Figure, stem: pathlib.Path) -> pathlib.Path:
  """Writes a figure as .png and .pdf; returns the path of the first."""
  stem.parent.mkdir(parents=True, exist_ok=True)
  # Without dates the same numbers give the same files.
  figure.savefig(f'{stem}.pdf', metadata={'CreationDate': None})
  path = stem.with_name(f'{stem.name}.png')
  figure.savefig(path, dpi=150)
  return path


def grid(
  rows: int, columns: int, width: float = 3.6, height: float = 3.2
) -> tuple[figure_lib.Figure, np.ndarray]:
  """A figure and its axes `[rows, columns]`; inches, of each of them."""
  figure = figure_lib.Figure(
    figsize=(width * columns, height * rows), layout='constrained'
  )
  return figure, figure.subplots(rows, columns, squeeze=False)


def log_values(ax: axes.Axes, which: str = 'y') -> None:
  """A logarithmic axis with numbers on it even within one decade."""
  ax.set(**{f'{which}scale': 'log'})
  axis = getattr(ax, f'{which}axis')
  axis.set_major_locator(ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
  axis.set_major_formatter(ticker.StrMethodFormatter('{x:g}'))
  axis.set_minor_locator(ticker.NullLocator())


def legend(figure: figure_lib.Figure, ax: axes.Axes, **options: Any) -> None:
  """Puts the legend of `ax` below the figure; `options` as of matplotlib."""
  handles, labels = ax.get_legend_handles_labels()
  figure.legend(
    handles, labels, loc='outside lower center', fontsize=8, **options
  )


def channels_last(images: np.ndarray) -> np.ndarray:
  """Returns images `[..., h, w, c]`, of which PyTorch has channels first.

  They are taken to be first where 1 or 3 are there, and others at the end.
  """
  last, first = images.shape[-1], images.shape[-3]
  moved = last not in (1, 3) and first in (1, 3)
  return np.moveaxis(images, -3, -1) if moved else images


def image(ax: axes.Axes, pixels: np.ndarray) -> None:
  """Shows an image `[h, w, c]`, pixels in [0, 1]: coloured if 3, else grey."""
  if pixels.shape[-1] == 3:
    ax.imshow(np.clip(pixels, 0, 1))
  else:
    ax.imshow(pixels.mean(-1), cmap='gray', vmin=0, vmax=1)


def change(ax: axes.Axes, pixels: np.ndarray, size: float) -> None:
  """Shows a change of an image: dark takes away, bright adds, up to `size`."""
  # Colours by their mean: a change has no colour of its own.
  ax.imshow(pixels.mean(-1), cmap=_CHANGE, vmin=-size, vmax=size)


def estimates(
  ax: axes.Axes,
  places: Sequence[float] | np.ndarray,
  found: Sequence[tuple],
  look: dict,
  label: str,
  *,
  line: bool = False,
  across: bool = False,
) -> None:
  """Values with their intervals; what is infinite or NaN is left out.

  Args:
    ax: where.
    places: one of each value.
    found: `statistics.Estimate`s.
    look: one of `STYLES`.
    label: in the legend.
    line: whether a line joins the values.
    across: whether values lie along x, and places along y.
  """
  value, low, high = np.array([v[:3] for v in found], float).T
  shown = np.isfinite(value)
  ends = np.array([low, high])[:, shown]
  # An end at infinity, or none at all, is not drawn.
  gaps = np.where(np.isfinite(ends), np.abs(ends - value[shown]), 0.0)
  x, y = np.asarray(places, float)[shown], value[shown]
  ax.errorbar(
    *((y, x) if across else (x, y)),
    xerr=gaps if across else None,
    yerr=None if across else gaps,
    color=look['color'],
    marker=look['marker'],
    linestyle=look['linestyle'] if line else '',
    lw=1,
    ms=5,
    capsize=3,
    label=label,
  )


def band(
  ax: axes.Axes,
  places: Sequence[float] | np.ndarray,
  found: Sequence[tuple],
  look: dict,
  label: str,
) -> None:
  """A curve of values with a band of their intervals.

  Args:
    ax: where.
    places: one of each value.
    found: `statistics.Estimate`s, or tuples that begin as they do.
    look: one of `STYLES`.
    label: in the legend.
  """
  value, low, high = np.array([v[:3] for v in found], float).T
  ax.plot(places, value, markersize=4.5, linewidth=1.2, label=label, **look)
  ax.fill_between(places, low, high, color=look['color'], alpha=0.2, lw=0)


def log_n(ax: axes.Axes, n: Collection[int]) -> None:
  """A logarithmic axis of dimensions, with at most six of them on it."""
  ticks = sorted(n)
  ax.set(xscale='log', xlabel='input dimension n (pixels x channels)')
  shown = ticks[:: -(-len(ticks) // 6)]
  ax.set_xticks(shown, [str(v) for v in shown])
  ax.xaxis.set_minor_locator(ticker.NullLocator())
