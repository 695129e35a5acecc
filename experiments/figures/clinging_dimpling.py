"""Figures of `experiments.clinging_dimpling`.

  python -m experiments.figures.clinging_dimpling

draws docs/images/retreat.png anew, from the committed results/*.json.
"""

import functools
import hashlib

from matplotlib import animation
from matplotlib import ticker
import numpy as np

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments.lib import results as results_lib
from experiments.lib import tables as tables_lib

# Committed results, panels of one figure.
PANELS = {
  'clinging_dimpling': 'digits',
  'clinging_dimpling_mnist': 'MNIST',
  'clinging_dimpling_cifar': 'CIFAR-10',
}
PICTURE = results_lib.ROOT / 'docs/images/retreat.png'
KINDS = {
  'train': 'training images',
  'test': 'test images',
  'permuted': 'permuted pixels',
  'noise': 'noise of equal length',
  'box': 'random points of the box',
}
LOOKS = dict(zip(KINDS, canvas.STYLES, strict=True))
NUM_FRAMES = 8
LOST = (
  ' Nothing is drawn where a network has no median: its searches found no '
  'boundary.'
)


def draw(report, tables):
  """Draws the gap along training, all settings, and films of toy problems."""
  found = {
    'retreat': retreat(report, tables),
    'settings': all_settings(report),
  }
  if 'line' in tables:
    film = tables['line']
    found['line'] = strip(film), film_caption(film)
    caption = 'The same network, step by step; it stops at the last one.'
    found['line_film'] = functools.partial(animate, film), caption
  if 'chessboard' in tables:
    caption = 'The boundary around the plane of a chessboard, one network.'
    page = functools.partial(surface, tables['chessboard'])
    found['chessboard'] = page, caption
  return found


# --- Curves ----------------------------------------------------------------


def gaps_over_law(tables, setting):
  """Returns steps and, by kind, the networks' log of gap over law `[m, T]`."""
  results, laws = tables['results'], tables['law']
  rows = {k: v[results['setting'] == setting] for k, v in results.items()}
  steps, networks = np.unique(rows['step']), np.unique(rows['network'])
  found = {}
  for kind in KINDS:
    at = rows['kind'] == kind
    order = np.lexsort((rows['step'][at], rows['network'][at]))
    far = rows['distance'][at][order].reshape(len(networks), len(steps), -1)
    of = laws['kind'] == kind
    law = laws['law'][of][np.argsort(laws['network'][of])]
    with np.errstate(divide='ignore'):
      found[kind] = np.log(np.median(far, axis=-1) / law[:, None])
  return steps, found


def accuracy(tables, setting, name):
  """Returns the accuracies `[m, T]` of a setting's networks."""
  results = tables['results']
  at = (results['setting'] == setting) & (results['kind'] == 'train')
  at &= results['image'] == 0
  order = np.lexsort((results['step'][at], results['network'][at]))
  num = len(np.unique(results['step'][at]))
  return results[name][at][order].reshape(-1, num)


def band(ax, steps, values, look, label, transform=np.asarray):
  """A mean over networks and its 95 % interval, step by step."""
  values = np.where(np.isfinite(values), values, np.nan)
  each = [statistics.t_mean(column, unit='networks') for column in values.T]
  mean, low, high = transform(np.array([v[:3] for v in each]).T)
  ax.fill_between(steps, low, high, color=look['color'], alpha=0.18, lw=0)
  ax.plot(steps, mean, **look, markersize=3.5, linewidth=1.2, label=label)


def retreat(report, tables):
  """Gap over the law along training, and accuracy below it."""
  gaps = tables_lib.to_dicts(report.tables[0])
  names = list(dict.fromkeys(row['setting'] for row in gaps))
  shown = names[:1] + [v for v in names[1:] if v.endswith('shuffled labels')]
  width = 4.6 if len(shown) > 1 else 6.2
  figure, axes = canvas.grid(2, len(shown), width=width, height=2.9)
  axes[0, 0].get_gridspec().set_height_ratios([5, 2])
  lost = False
  for name, (top, low) in zip(shown, axes.T, strict=True):
    top.sharey(axes[0, 0])
    steps, curves = gaps_over_law(tables, name)
    lost |= not np.isfinite([*curves.values()]).all()
    for kind, text in KINDS.items():
      band(top, steps, curves[kind], LOOKS[kind], text, np.exp)
    top.axhline(1, color='black', lw=1, label='random network (law)')
    canvas.log_values(top)
    for kind in ('train', 'test'):
      right = accuracy(tables, name, f'{kind}_accuracy')
      band(low, steps, right, LOOKS[kind], kind)
    low.set(xlabel='training step', ylim=(-0.02, 1.02))
    for ax in (top, low):
      ax.set_xscale('symlog', linthresh=1, linscale=0.5)
      ax.set_xlim(-0.1, steps[-1] * 1.1)
    labels = 'shuffled' if name.endswith('shuffled labels') else 'true'
    top.set_title(f'{labels} labels', fontsize=10)
  axes[0, 0].set_ylabel("median distance to the boundary\n/ random network's")
  axes[1, 0].set_ylabel('accuracy')
  canvas.legend(figure, axes[0, 0], ncols=3)
  caption = (
    f'{report.answer} Above: the median distance from the boundary over that '
    'of an infinitely wide random network at the same images, along training; '
    'below: accuracy on training images (dots) and test images (squares). '
    f'{names[0]}; means over networks with 95 % intervals.'
  )
  return figure, caption + LOST * bool(lost)


def all_settings(report):
  """Least and last gap over the start, setting by setting, kind by kind."""
  rows = tables_lib.to_dicts(report.tables[0])
  names = list(dict.fromkeys(row['setting'] for row in rows))
  figure, axes = canvas.grid(1, 2, width=4.2, height=1.3 + 0.75 * len(names))
  for ax, what in zip(axes[0], ('least', 'last'), strict=True):
    for place, (kind, text) in enumerate(KINDS.items()):
      found = [row[f'{what}/start'] for row in rows[place :: len(KINDS)]]
      at = np.arange(len(names)) + 0.15 * (place - 2)
      canvas.estimates(ax, at, found, LOOKS[kind], text, across=True)
    ax.axvline(1, color='black', lw=1)
    canvas.log_values(ax, 'x')
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.set_xlabel(f'{what} gap / gap at step 0')
    ax.set_yticks(range(len(names)), [])
    ax.invert_yaxis()
  shown = [name.replace(', shuffled', ',\nshuffled') for name in names]
  axes[0, 0].set_yticks(range(len(names)), shown, fontsize=8)
  canvas.legend(figure, axes[0, 0], ncols=3)
  every = [row[f'{what}/start'] for row in rows for what in ('least', 'last')]
  lost = not np.isfinite([v.value for v in every]).all()
  train = [row['last/start'] for row in rows[:: len(KINDS)]]
  count = sum(v.low > 1 for v in train), sum(v.high < 1 for v in train)
  caption = (
    'Left: the gap (median distance from the boundary) where it is least, '
    'right: at the end of training, both over the gap at step 0; geometric '
    'means over networks with 95 % intervals. At training images the gap ends '
    f'above its start in {count[0]} and below it in {count[1]} of {len(names)} '
    'settings.'
  )
  return figure, caption + LOST * lost


# --- Several data sets -----------------------------------------------------


def course(found):
  """Returns the rows of a committed result's last table, one a step."""
  return tables_lib.to_dicts(found.report.tables[-1])


def across(rows):
  """Draws the gap over the law along training, a panel each.

  Args:
    rows: of `course`, by the title of the panel.
  """
  figure, axes = canvas.grid(1, len(rows), width=3.1, height=3.3)
  for ax, (title, steps) in zip(axes[0], rows.items(), strict=True):
    ax.sharey(axes[0, 0])
    at = [row['step'] for row in steps]
    for kind, text in KINDS.items():
      look = LOOKS[kind]
      value, low, high = np.array([row[kind][:3] for row in steps]).T
      ax.fill_between(at, low, high, color=look['color'], alpha=0.18, lw=0)
      ax.plot(at, value, **look, markersize=3.5, linewidth=1.2, label=text)
    ax.axhline(1, color='black', lw=1, label='random network (law)')
    ax.set_xscale('symlog', linthresh=1, linscale=0.5)
    ax.set_xlim(-0.1, at[-1] * 1.1)
    ax.set_xticks([0, 1, 10, 100, 1000], ['0', '1', '10', '100', '1000'])
    ax.set_xlabel('training step')
    canvas.log_values(ax)
    ax.set_title(f'{title}, {steps[0]["train"].n} networks', fontsize=10)
    if ax is not axes[0, 0]:
      ax.tick_params(labelleft=False)
  axes[0, 0].set_ylabel("median distance to the boundary\n/ random network's")
  canvas.legend(figure, axes[0, 0], ncols=3)
  return figure


def committed(root=results_lib.ROOT):
  """Returns the rows of `across`, of the results that are there."""
  found = {run.name: run for run in results_lib.committed(root)}
  return {
    title: course(found[name])
    for name, title in PANELS.items()
    if name in found
  }


# --- Films -----------------------------------------------------------------


def plane(ax, film, frame):
  """The two regions, their boundary and the points at one step."""
  axis, margin = film['axis'][0], film['margin'][frame]
  ax.contourf(
    axis,
    axis,
    margin,
    levels=[-np.inf, 0, np.inf],
    colors=['#f3e3d0', '#d7e4ee'],
  )
  if margin.min() < 0 < margin.max():
    ax.contour(axis, axis, margin, levels=[0], colors='k', linewidths=1.2)
  for label, look in ((0, canvas.STYLES[1]), (1, canvas.STYLES[0])):
    at = film['points'][0][film['labels'][0] == label].T
    ax.plot(*at, color=look['color'], marker=look['marker'], linestyle='')
  ax.set(xlim=axis[[0, -1]], ylim=axis[[0, -1]], aspect='equal')
  ax.set_title(f'step {film["step"][frame]}', fontsize=9)


def frames_of(film, num=NUM_FRAMES):
  """Returns some frames, evenly spaced, the first and the last among them."""
  last = len(film['step']) - 1
  found = np.linspace(0, last, min(num, last + 1)).round()
  return np.unique(found).astype(int)


def strip(film):
  """Returns a figure of a few frames of the plane."""
  frames = frames_of(film)
  figure, axes = canvas.grid(2, -(-len(frames) // 2), width=2.2, height=2.3)
  for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.set_axis_off()
  for frame, ax in zip(frames, axes.flat, strict=False):
    ax.set_axis_on()
    plane(ax, film, frame)
  return figure


def film_caption(film):
  """Returns what the strip shows, with the gap of the points."""
  gap, step = film['gap'], film['step']
  least = int(np.argmin(gap))
  return (
    'The decision boundary (black) of one network along training, between the '
    f'regions of two classes, and the {len(film["points"][0])} points that it '
    'is trained on (circles, squares), in the plane. The median distance of '
    f'the points to the boundary is {gap[0]:.2g} at step 0, least at step '
    f'{step[least]} ({gap[least]:.2g}), and {gap[-1]:.2g} at step {step[-1]}.'
  )


def animate(film, stem):
  """Writes a film of the plane as .gif; returns the path."""
  path = stem.with_name(f'{stem.name}.gif')
  figure, ((ax,),) = canvas.grid(1, 1, width=4, height=4.2)
  frames = [*range(len(film['step'])), *4 * [len(film['step']) - 1]]
  writer = animation.PillowWriter(fps=3)
  path.parent.mkdir(parents=True, exist_ok=True)
  with writer.saving(figure, str(path), dpi=80):
    for frame in frames:
      ax.clear()
      plane(ax, film, frame)
      writer.grab_frame()
  return path


def surface(film, stem):
  """Writes the boundary in space, to be turned, as .html; returns the path."""
  from plotly import graph_objects  # Slow to import, and seldom needed.

  axis = film['axis'][0]
  x, y, z = np.meshgrid(axis, axis, axis - 0.5, indexing='ij')
  grid = dict(zip('xyz', (v.ravel() for v in (x, y, z)), strict=True))
  shown, traces = frames_of(film), []
  for frame in shown:
    traces.append(
      graph_objects.Isosurface(
        **grid,
        value=film['margin'][frame].ravel(),
        isomin=0,
        isomax=0,
        surface_count=1,
        opacity=0.6,
        colorscale='Greys',
        showscale=False,
        caps=dict(x_show=False, y_show=False, z_show=False),
        visible=bool(frame == shown[-1]),
        name=f'step {film["step"][frame]}',
      )
    )
  traces += [points_in_space(film, label) for label in (0, 1)]
  figure = graph_objects.Figure(traces)
  figure.update_layout(
    title='Decision boundary around the plane of the chessboard, one network',
    scene=dict(
      xaxis_title='first tangent',
      yaxis_title='second tangent',
      zaxis_title='off the plane',
    ),
    updatemenus=[dict(buttons=buttons(traces), active=len(shown) - 1)],
  )
  path = stem.with_name(f'{stem.name}.html')
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.write_html(path, include_plotlyjs=True, div_id='boundary')
  return path


def points_in_space(film, label):
  """Returns a trace of the training points of one class, in the plane."""
  from plotly import graph_objects

  at = film['points'][0][film['labels'][0] == label]
  return graph_objects.Scatter3d(
    x=at[:, 0],
    y=at[:, 1],
    z=0 * at[:, 0],
    mode='markers',
    marker=dict(
      size=5,
      color=('#d9822b', '#0b3c5d')[label],
      symbol=('square', 'circle')[label],
    ),
    name=f'class {label}',
  )


def buttons(traces):
  """Returns a button a step: its surface alone, with both kinds of points."""
  *surfaces, _, _ = traces
  return [
    dict(
      label=one.name,
      method='update',
      args=[{'visible': [v is one for v in surfaces] + [True, True]}],
    )
    for one in surfaces
  ]


def digest(rows):
  """Returns a checksum of what `across` draws, which the picture carries."""
  return hashlib.sha256(repr(rows).encode()).hexdigest()


def save_across(path=PICTURE):
  """Draws the committed results; returns the path of the picture."""
  rows = committed()
  metadata = {'Software': None, 'Source': digest(rows)}
  across(rows).savefig(path, dpi=130, metadata=metadata)
  return path


if __name__ == '__main__':
  print(save_across())
