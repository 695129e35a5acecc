"""What a figure shows, as plain values: its data, and how it looks."""

import collections as collections_lib
import itertools
import json
import os
import pathlib

from matplotlib import collections
from matplotlib import colors
from matplotlib import container
from matplotlib import image
from matplotlib import lines
from matplotlib import patches
from matplotlib import spines
from matplotlib import text
from matplotlib import ticker
import numpy as np

LOOKS = pathlib.Path(__file__).parent / 'figure_looks.json'


class Values:
  """Numbers that differ, and entries of them whose intervals are lopsided."""

  def __init__(self):
    self._numbers = (0.1 + 0.9 * (0.618 * k % 1) for k in itertools.count(1))

  def number(self):
    return round(next(self._numbers), 4)

  def entry(self, **more):
    value = self.number()
    interval = [round(0.8 * value, 4), round(1.5 * value, 4)]
    return {'value': value, 'interval': interval, **more}

  def entries(self, names):
    return {name: self.entry() for name in names.split()}


# --- Data ------------------------------------------------------------------


def curves(ax):
  """Lines by label: `[2, n]` each; lists where a label stands twice."""
  found = {}
  for line in ax.get_lines():
    if not line.get_label().startswith('_'):
      found.setdefault(line.get_label(), []).append(np.array(line.get_data()))
  return {k: v[0] if len(v) == 1 else v for k, v in found.items()}


def others(ax):
  """Lines without a label, `[2, n]` each, in order; error bars' left out."""
  inside = {id(v) for c in ax.containers for v in (c[0], *c[1])}
  return [
    np.array(line.get_data(), float)
    for line in ax.get_lines()
    if line.get_label().startswith('_') and id(line) not in inside
  ]


def bars(ax):
  """Error bars by label: x, y, and low and high ends."""
  found = {}
  for bar in ax.containers:
    if isinstance(bar, container.ErrorbarContainer):
      axis = 1 if bar.has_yerr else 0
      nothing = np.full((2, 2), np.nan)  # Of a value that is not drawn.
      ends = [v if len(v) else nothing for v in bar[2][0].get_segments()]
      ends = np.reshape(ends, (-1, 2, 2))[:, :, axis]
      found[bar.get_label()] = (*bar[0].get_data(), *ends.T)
  return found


def areas(ax):
  """What was filled between two curves: x, low, high; in order."""
  found = []
  for area in ax.collections:
    if isinstance(area, collections.PolyCollection):
      (path,) = area.get_paths()
      n = (len(path.vertices) - 3) // 2
      low = path.vertices[1 : n + 1]
      high = path.vertices[n + 2 : 2 * n + 2][::-1]
      found.append(np.array([low[:, 0], low[:, 1], high[:, 1]]))
  return found


def assert_curve(ax, label, x, y):
  np.testing.assert_allclose(curves(ax)[label], [x, y], rtol=1e-6)


# --- Looks -----------------------------------------------------------------


def assert_looks(name, figures):
  """Sizes, colours, texts and axes are those that were chosen.

  With `RENEW_FIGURES=1` in the environment they become those of today.
  """
  known = json.loads(LOOKS.read_text()) if LOOKS.exists() else {}
  found = {k: describe(v) for k, v in figures.items()}
  for figure in figures.values():
    figure.draw_without_rendering()  # Formulas in texts are read only then.
  if os.environ.get('RENEW_FIGURES'):
    known[name] = found
    LOOKS.write_text(json.dumps(known, indent=1, sort_keys=True) + '\n')
  assert found == known[name]


# What is not said where it is so.
USUAL = {
  'shown': True,
  'frame': True,
  'aspect': 'auto',
  'layout': 'ConstrainedLayoutEngine',
  'minor': 'NullLocator',
  'locator': 'AutoLocator',
  'scale': 'linear',
  'params': [None, None],
  'steps': 'default',
  'marker': 'None',
  'fill': True,
}


def describe(figure):
  """Returns the look of a figure: how often there is what, a text each."""
  said = [
    _said(
      'figure',
      size=figure.get_size_inches(),
      layout=type(figure.get_layout_engine()).__name__,
      title=_text(figure._suptitle) if figure._suptitle else None,
    )
  ]
  said += [_legend(v) for v in figure.legends]
  counts = collections_lib.Counter()
  for ax in figure.axes:
    counts.update(_axes(ax))
  return said + sorted(f'{n} x {v}' for v, n in counts.items())


def _axes(ax):
  said = [
    _said(
      'axes',
      title=_text(ax.title),
      shown=ax.get_visible() and ax.axison,
      frame=ax.get_frame_on(),
      aspect=ax.get_aspect(),
    )
  ]
  for name, axis, auto, limits in (
    ('x', ax.xaxis, ax.get_autoscalex_on() or ax.images, ax.get_xlim()),
    ('y', ax.yaxis, ax.get_autoscaley_on() or ax.images, ax.get_ylim()),
  ):
    said.append(
      _said(
        name,
        scale=axis.get_scale(),
        # Those that follow the data are not chosen.
        limits=None if auto else limits,
        label=_text(axis.label),
        **_ticks(axis),
      )
    )
  artists = [v for v in ax.get_children() if v is not ax.patch]
  said += filter(None, map(_artist, artists))
  if ax.get_legend():
    said.append(_legend(ax.get_legend()))
  return said


def _ticks(axis):
  found = {
    'grid': axis.get_gridlines()[0].get_color()
    if any(v.get_visible() for v in axis.get_gridlines()[:1])
    else None,
    'minor': type(axis.get_minor_locator()).__name__,
    'params': _few(axis.get_tick_params(), 'labelsize labelrotation'),
  }
  if isinstance(axis.get_major_locator(), ticker.FixedLocator):
    labels = axis.get_ticklabels()
    found['at'] = axis.get_majorticklocs()
    found['said'] = [v.get_text() for v in labels]
    found['text'] = sorted({_font(v) for v in labels})
  else:
    found['locator'] = type(axis.get_major_locator()).__name__
  return found


def _few(given, names):
  return [given.get(name) for name in names.split()]


def _legend(legend):
  size = {t.get_fontsize() for t in legend.get_texts()}
  box = legend._bbox_to_anchor
  return _said(
    'legend',
    texts=[t.get_text() for t in legend.get_texts()],
    size=sorted(size),
    columns=legend._ncols,
    title=legend.get_title().get_text() or None,
    loc=legend._loc,
    box=box and np.round(box._bbox.bounds, 3),
  )


def _font(v):
  found = (
    f'{v.get_fontsize():g}',
    f'{v.get_rotation():g} degrees',
    v.get_ha(),
    v.get_va(),
    v.get_weight(),
    _colour(v.get_color()),
  )
  usual = '10', '0 degrees', 'center', 'top', 'normal', '#000000'
  return ', '.join(v for v in found if v not in usual)


def _text(v):
  return f'{v.get_text()!r} {_font(v)}'.strip() if v.get_text() else None


def _colour(value):
  if isinstance(value, str) and value == 'none':
    return value
  found = colors.to_rgba_array(value)
  said = (colors.to_hex(c, keep_alpha=True) for c in found)
  return ' '.join(v.removesuffix('ff') if len(v) == 9 else v for v in said)


def _artist(v):
  alpha = dict(alpha=v.get_alpha(), raster=v.get_rasterized() or None)
  name = v.get_label() if isinstance(v.get_label(), str) else None
  if name and not name.startswith('_'):
    alpha['label'] = name
  if isinstance(v, lines.Line2D):
    return _said(
      'line',
      colour=_colour(v.get_color()),
      style=v.get_linestyle(),
      # What was asked for, as a dash is told by no public name.
      dashes=v._unscaled_dash_pattern if v.is_dashed() else None,
      width=v.get_linewidth(),
      marker=v.get_marker(),
      size=v.get_markersize(),
      face=_colour(v.get_markerfacecolor()),
      every=v.get_markevery(),
      steps=v.get_drawstyle(),
      **alpha,
    )
  if isinstance(v, collections.Collection):
    return _said(
      type(v).__name__,
      face=_colour(v.get_facecolor()),
      edge=_colour(v.get_edgecolor()),
      width=v.get_linewidth(),
      **alpha,
    )
  if isinstance(v, image.AxesImage):
    return _said('image', map=v.get_cmap().name, limits=v.get_clim(), **alpha)
  if isinstance(v, text.Annotation):
    arrow = v.arrow_patch
    return _said(
      'arrow',
      style=v.arrowprops['arrowstyle'],
      colour=_colour(arrow.get_edgecolor()),
      width=arrow.get_linewidth(),
    )
  if isinstance(v, text.Text):
    own = v not in (v.axes.title, v.axes._left_title, v.axes._right_title)
    return _said('text', font=_font(v), **alpha) if own else None
  if isinstance(v, patches.Patch) and not isinstance(v, spines.Spine):
    return _said(
      'patch',
      face=_colour(v.get_facecolor()),
      edge=_colour(v.get_edgecolor()),
      style=v.get_linestyle(),
      width=v.get_linewidth(),
      fill=v.get_fill(),
      **alpha,
    )
  return None


def _said(kind, **values):
  parts = [
    f'{k} {_plain(v)}'
    for k, v in values.items()
    if v is not None and (k not in USUAL or v != USUAL[k])
  ]
  return f'{kind}: {"; ".join(parts)}'


def _plain(value):
  if isinstance(value, float | np.floating):
    return f'{value:.4g}'
  if isinstance(value, np.ndarray | list | tuple):
    return '[' + ' '.join(map(_plain, value)) + ']'
  return str(value)
