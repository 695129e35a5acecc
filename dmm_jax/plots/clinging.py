"""Figures of `experiments.clinging_dimpling`."""

import pathlib

from matplotlib import animation
import numpy as np

from dmm_jax import records
from dmm_jax.plots import canvas

_LINES = {
  'gap': 'distance to the boundary',
  'right': 'share on its own side',
  'fraction': 'part of normal in tangents',
}
_FRAMES = 8


def clinging_dimpling(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws curves along training; films of the boundary where there are grids.

  Returns:
    The paths: .png, a .gif for the line, a self-contained .html for the
    chessboard.
  """
  run_dir = pathlib.Path(run_dir)
  summary = records.read_json(run_dir / 'summary.json')
  folder = run_dir / 'figures'
  paths = [canvas.save(_curves(summary['rows']), folder / 'curves')]
  paths.append(canvas.save(_sweep(summary['rows']), folder / 'conditions'))
  if (run_dir / 'line.npz').exists():
    film = records.load_columns(run_dir / 'line.npz')
    paths.append(canvas.save(_strip(film), folder / 'line'))
    paths.append(_animate(film, folder / 'line.gif'))
  if (run_dir / 'chessboard.npz').exists():
    film = records.load_columns(run_dir / 'chessboard.npz')
    paths.append(_surface(film, folder / 'chessboard.html'))
  return paths


def _curves(rows):
  """One line of panels a set: as it is, beside shuffled labels."""
  sets = list(dict.fromkeys(row['dataset'] for row in rows))
  figure, axes = canvas.grid(len(sets), len(_LINES), height=2.6)
  for name, line in zip(sets, axes, strict=True):
    chosen = [row for row in rows if row['dataset'] == name][:2]
    for (key, label), ax in zip(_LINES.items(), line, strict=True):
      for row, look in zip(chosen, canvas.STYLES, strict=False):
        _band(ax, row, key, look)
        style = dict(color=look['color'], linestyle=':', linewidth=1.2)
        ax.axvline(row['clings'], **style)
      ax.set_xscale('symlog', linthresh=1, linscale=0.5)
      ax.set(xlabel='training step', ylabel=label, xlim=(0, None))
      if key == 'gap':
        canvas.log_values(ax)
      if key == 'fraction':
        null = chosen[0]['random_fraction']
        style = dict(color='0.4', linestyle='--')
        ax.axhline(null, **style, label='random direction')
    line[0].set_title(name, fontsize=10)
  canvas.legend(figure, axes[0, -1], ncols=3)
  figure.suptitle(
    'Median over networks, with their range; dotted: when half of the fall of '
    'the gap is over (clinging)',
    fontsize=10,
  )
  return figure


def _band(ax, row, key, look):
  curve = {k: np.array(v, float) for k, v in row['curves'][key].items()}
  label = {'true': 'true labels', 'shuffled': 'shuffled labels (null)'}
  ax.fill_between(
    row['steps'], curve['low'], curve['high'], color=look['color'], alpha=0.15
  )
  ax.plot(
    row['steps'],
    curve['median'],
    **look,
    markersize=3,
    label=label[row['labels']],
  )


def _sweep(rows):
  """What the gap falls to and where normals end, condition by condition."""
  sets = list(dict.fromkeys(row['dataset'] for row in rows))
  figure, axes = canvas.grid(1, len(sets), width=3.4, height=3.0)
  for name, ax in zip(sets, axes[0], strict=True):
    of = [row for row in rows if row['dataset'] == name]
    for key, look, shift, text in (
      ('fall', canvas.STYLES[0], -0.12, 'gap falls to this share'),
      ('fraction', canvas.STYLES[1], 0.12, 'part of the normal in tangents'),
    ):
      canvas.dots(ax, [row[key] for row in of], look, text, shift)
    ax.axvline(0.5, color='0.4', linestyle='--', label='half: it clings')
    ax.set(title=name, xlim=(0, None), yticks=range(len(of)))
    ax.set_yticklabels(
      [f'{row["condition"]}\n{row["verdict"]}' for row in of], fontsize=7
    )
    ax.invert_yaxis()
  canvas.legend(figure, axes[0, 0], ncols=3)
  return figure


def _plane(ax, film, frame):
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


def _strip(film):
  last = len(film['step']) - 1
  frames = np.unique(np.linspace(0, last, min(_FRAMES, last + 1)).round())
  figure, axes = canvas.grid(2, -(-len(frames) // 2), width=2.2, height=2.3)
  for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.set_axis_off()
  for frame, ax in zip(frames.astype(int), axes.flat, strict=False):
    ax.set_axis_on()
    _plane(ax, film, frame)
  figure.suptitle('The decision boundary along training, one network')
  return figure


def _animate(film, path):
  figure, ((ax,),) = canvas.grid(1, 1, width=4, height=4.2)

  def draw(frame):
    ax.clear()
    _plane(ax, film, frame)

  frames = [*range(len(film['step'])), *4 * [len(film['step']) - 1]]
  writer = animation.PillowWriter(fps=3)
  with writer.saving(figure, str(path), dpi=80):
    for frame in frames:
      draw(frame)
      writer.grab_frame()
  return path


def _surface(film, path):
  """The boundary around the chessboard's plane at each step, to be turned."""
  from plotly import graph_objects  # Slow to import, and seldom needed.

  axis = film['axis'][0]
  x, y, z = np.meshgrid(axis, axis, axis - 0.5, indexing='ij')
  grid = dict(zip('xyz', (v.ravel() for v in (x, y, z)), strict=True))
  shown = np.unique(np.linspace(0, len(film['step']) - 1, _FRAMES).round())
  traces, buttons = [], []
  for frame in shown.astype(int):
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
  points = film['points'][0]
  for label, colour in ((0, '#d9822b'), (1, '#0b3c5d')):
    at = points[film['labels'][0] == label]
    traces.append(
      graph_objects.Scatter3d(
        x=at[:, 0],
        y=at[:, 1],
        z=0 * at[:, 0],
        mode='markers',
        marker=dict(size=5, color=colour, symbol=('square', 'circle')[label]),
        name=f'class {label}',
      )
    )
  for i, frame in enumerate(shown.astype(int)):
    visible = [j == i for j in range(len(shown))] + [True, True]
    buttons.append(
      dict(
        label=f'step {film["step"][frame]}',
        method='update',
        args=[{'visible': visible}],
      )
    )
  figure = graph_objects.Figure(traces)
  figure.update_layout(
    title='Decision boundary around the plane of the chessboard, one network',
    scene=dict(
      xaxis_title='first tangent',
      yaxis_title='second tangent',
      zaxis_title='off the plane',
    ),
    updatemenus=[dict(buttons=buttons, active=len(shown) - 1)],
  )
  figure.write_html(path, include_plotlyjs=True, div_id='boundary')
  return path
