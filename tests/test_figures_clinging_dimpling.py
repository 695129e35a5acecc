"""Figures of clinging and dimpling, drawn from made-up tables."""

import itertools
import json
import pathlib

import figures
from matplotlib import animation
import numpy as np
from PIL import Image
from plotly import graph_objects
import pytest

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments import clinging_dimpling as clinging
from experiments.figures import clinging_dimpling
from experiments.lib import runner
from experiments.lib import tables

ROOT = pathlib.Path(__file__).parent.parent
NAMES = [
  'width 9, scale 1',
  'width 9, scale 1, shuffled labels',
  'width 9, scale 3',
]
KINDS = [*clinging_dimpling.KINDS]
STEPS = [0, 1, 10, 100]
NETWORKS, IMAGES = 3, 4


def result_columns():
  rng = np.random.default_rng(0)
  rows = []
  for name, network, step in itertools.product(NAMES, range(NETWORKS), STEPS):
    right = rng.uniform(size=2)
    for kind, image in itertools.product(KINDS, range(IMAGES)):
      rows.append((name, network, step, kind, image, rng.exponential(), *right))
  rng.shuffle(rows)
  names = 'setting network step kind image distance train_accuracy '
  columns = map(np.array, zip(*rows, strict=True))
  return dict(zip((names + 'test_accuracy').split(), columns, strict=True))


def law_columns():
  rows = list(itertools.product(range(NETWORKS), KINDS))[::-1]
  network, kind = map(np.array, zip(*rows, strict=True))
  return {
    'network': network,
    'kind': kind,
    'law': 0.3 + np.arange(len(rows)) / 10,
  }


def gap_rows():
  value = itertools.count(1)
  rows = []
  for name, kind in itertools.product(NAMES, KINDS):
    of = [next(value) / 9 for _ in range(2)]
    of = [statistics.Estimate(v, 0.8 * v, 1.5 * v, 3, 'networks') for v in of]
    rows.append([name, kind, *of])
  return rows


def film(num=3, size=7, dim=2):
  """Margins x - 2 y + 0.3 + frame / 10, and with z; none of them is square."""
  rng = np.random.default_rng(0)
  axis = np.linspace(-1, 1.5, size)
  x, y, z = np.meshgrid(axis, axis, axis - 0.5, indexing='ij')
  margin = x - 2 * y + 0.3 + 3 * z
  if dim == 2:
    margin = (x - 2 * y + 0.3)[..., 0].T  # Rows of an image are y.
  frames = np.arange(num).reshape(-1, *[1] * dim) / 10
  # The same in every row, in truth: the first one counts.
  again = lambda v: np.stack([v, *(num - 1) * [v + 7]])
  return {
    'axis': again(axis),
    'margin': margin + frames,
    'step': 10 * np.arange(num) ** 2,
    'gap': np.linspace(0.5, 0.2, num),
    'points': again(rng.uniform(-1, 1, (5, dim))),
    'labels': again(np.array([0, 1, 1, 0, 1])),
  }


def report_of(names=NAMES):
  columns = 'setting at least/start last/start'.split()
  columns = [tables.Column(name, '', '') for name in columns]
  rows = [row for row in gap_rows() if row[0] in names]
  return runner.Report('So far.', [], [tables.Table('', columns, rows)])


def draw(names=NAMES, **films):
  made = {'results': result_columns(), 'law': law_columns(), **films}
  found = clinging_dimpling.draw(report_of(names), made)
  return made, *({k: v[i] for k, v in found.items()} for i in (0, 1))


@pytest.fixture(scope='module')
def drawn():
  return draw()


def per_network(made, column, **wanted):
  """A column of the rows that are wanted, `[networks, steps, images]`."""
  keep = np.all([made[k] == v for k, v in wanted.items()], axis=0)
  order = np.lexsort([made[k][keep] for k in ('image', 'step', 'network')])
  return made[column][keep][order].reshape(NETWORKS, len(STEPS), -1)


def assert_band(curve, area, values, transform=np.asarray):
  """A mean over networks and the area of its interval."""
  each = [statistics.t_mean(v, unit='networks') for v in values.T]
  mean, low, high = transform(np.array([v[:3] for v in each]).T)
  np.testing.assert_allclose(curve, [STEPS, mean])
  np.testing.assert_allclose(area, [STEPS, low, high])


def test_the_retreat_is_gap_over_law_along_training(drawn):
  made, found, captions = drawn
  figure = found['retreat']
  tops, lows = np.reshape(figure.axes, (2, 2))
  for name, top, low in zip(NAMES, tops, lows, strict=False):
    curves, areas = figures.curves(top), figures.areas(top)
    for (kind, text), area in zip(
      clinging_dimpling.KINDS.items(), areas, strict=True
    ):
      far = per_network(made['results'], 'distance', setting=name, kind=kind)
      law = [
        made['law']['law'][
          (made['law']['kind'] == kind) & (made['law']['network'] == i)
        ]
        for i in range(NETWORKS)
      ]
      logs = np.log(np.median(far, -1) / law)
      assert_band(curves.pop(text), area, logs, np.exp)
    assert curves.pop('random network (law)')[1].tolist() == [1, 1]
    assert not curves
    curves, areas = figures.curves(low), figures.areas(low)
    for kind, area in zip(('train', 'test'), areas, strict=True):
      right = per_network(
        made['results'], f'{kind}_accuracy', setting=name, kind='train'
      )
      assert_band(curves[kind], area, right[:, :, 0])
  titles = [ax.get_title() for ax in tops]
  assert titles == ['true labels', 'shuffled labels']
  assert tops[0].get_ylim() == tops[1].get_ylim()
  assert captions['retreat'].startswith('So far. Above: the median distance')
  figures.assert_looks('clinging_dimpling', found)


def test_settings_stand_below_each_other(drawn):
  _, found, captions = drawn
  rows = gap_rows()
  for ax, column in zip(found['settings'].axes, (2, 3), strict=True):
    bars = figures.bars(ax)
    for place, text in enumerate(clinging_dimpling.KINDS.values()):
      value, y, low, high = bars[text]
      entries = [row[column] for row in rows[place::5]]
      wanted = np.array([e[:3] for e in entries]).T
      np.testing.assert_allclose([value, low, high], wanted)
      np.testing.assert_allclose(y, np.arange(3) + 0.15 * (place - 2))
    assert ax.yaxis_inverted()
  said = [v.get_text() for v in found['settings'].axes[0].get_yticklabels()]
  assert said == [v.replace(', shuffled', ',\nshuffled') for v in NAMES]
  ends = [row[3] for row in rows[::5]]
  above, below = sum(e.low > 1 for e in ends), sum(e.high < 1 for e in ends)
  assert (above, below) == (2, 1)
  assert 'above its start in 2 and below it in 1 of 3' in captions['settings']


def test_one_setting_without_shuffled_labels_or_films():
  _, found, _ = draw(NAMES[:1])
  assert [*found] == ['retreat', 'settings']
  assert len(found['retreat'].axes) == 2
  figures.assert_looks('clinging_dimpling_alone', found)


@pytest.mark.filterwarnings('error')
def test_one_network_has_curves_without_bands():
  made = {'results': result_columns(), 'law': law_columns()}
  for name, columns in made.items():
    keep = columns['network'] == 0
    made[name] = {k: v[keep] for k, v in columns.items()}
  made['results']['distance'][:] = np.inf
  found = clinging_dimpling.draw(report_of(), made)
  for figure, _ in found.values():
    figure.draw_without_rendering()


# --- Films -----------------------------------------------------------------


def assert_plane(ax, made, frame):
  """The boundary is where x - 2 y + 0.3 + frame / 10 is zero."""
  regions, boundary = ax.collections
  assert len(regions.get_paths()) == 2
  for path in boundary.get_paths():
    x, y = path.vertices.T
    np.testing.assert_allclose(x - 2 * y, -0.3 - frame / 10, atol=1e-6)
  zero, one = (line.get_data() for line in ax.get_lines())
  labels = made['labels'][0]
  np.testing.assert_allclose(zero, made['points'][0][labels == 0].T)
  np.testing.assert_allclose(one, made['points'][0][labels == 1].T)
  # On either side of it the margin is below zero, and above.
  (low, high), at = regions.get_paths(), -0.3 - frame / 10
  assert np.max(low.vertices @ [1, -2]) < at + 1e-6
  assert np.min(high.vertices @ [1, -2]) > at - 1e-6


def test_the_boundary_of_a_plane_is_where_the_margin_is_zero():
  made, found, captions = draw(line=film())
  axes = found['line'].axes
  assert len(axes) == 4 and not axes[3].axison
  for frame, ax in enumerate(axes[:3]):
    assert_plane(ax, made['line'], frame)
    assert ax.get_title() == f'step {10 * frame**2}'
  figures.assert_looks('clinging_dimpling_line', {'line': found['line']})
  assert 'is 0.5 at step 0, least at step 40 (0.2)' in captions['line']
  _, ((ax,),) = canvas.grid(1, 1)
  blank = film()
  clinging_dimpling.plane(ax, blank | {'margin': 1 + 0 * blank['margin']}, 0)
  assert len(ax.collections) == 1  # No boundary.
  strip = clinging_dimpling.strip(film(20))
  shown = [ax.get_title() for ax in strip.axes]
  frames = [0, 3, 5, 8, 11, 14, 16, 19]
  assert shown == [f'step {10 * v * v}' for v in frames]


def test_captions_say_what_is_not_drawn(drawn):
  _, _, captions = drawn
  assert not any(text.endswith('no boundary.') for text in captions.values())
  made = {'results': result_columns(), 'law': law_columns()}
  at = made['results']['kind'] == 'test'
  made['results']['distance'][at & (made['results']['step'] == 10)] = np.inf
  report = report_of()
  row = report.tables[0].rows[3]
  row[2] = row[2]._replace(value=np.nan)
  found = clinging_dimpling.draw(report, made)
  for name in ('retreat', 'settings'):
    assert found[name][1].endswith(clinging_dimpling.LOST)


def test_the_picture_of_committed_results_is_redrawn(tmp_path):
  """From results/*.json, which are read here without the project."""
  rows = clinging_dimpling.committed()
  figure = clinging_dimpling.across(rows)
  for (name, title), ax in zip(
    clinging_dimpling.PANELS.items(), figure.axes, strict=True
  ):
    saved = json.loads((ROOT / 'results' / f'{name}.json').read_text())
    table = saved['tables'][-1]
    places = {c['name']: i for i, c in enumerate(table['columns'])}
    steps = [row[0] for row in table['rows']]
    curves, areas = figures.curves(ax), figures.areas(ax)
    for (kind, text), area in zip(
      clinging_dimpling.KINDS.items(), areas, strict=True
    ):
      of = [row[places[kind]] for row in table['rows']]
      value, low, high = ([v[k] for v in of] for k in ('value', 'low', 'high'))
      np.testing.assert_allclose(curves[text], [steps, value])
      np.testing.assert_allclose(area, [steps, low, high])
      assert {v['n'] for v in of} == {of[0]['n']} and of[0]['n'] >= 8
    np.testing.assert_array_equal(curves['random network (law)'][1], 1)
    assert ax.get_title() == f'{title}, {of[0]["n"]} networks'
    assert table['title'].startswith(clinging.COURSE)
  path = clinging_dimpling.save_across(tmp_path / 'retreat.png')
  with Image.open(path) as new, Image.open(clinging_dimpling.PICTURE) as old:
    assert new.size == old.size
    assert new.text['Source'] == old.text['Source']


def test_films_hold_their_last_frame(tmp_path, monkeypatch):
  _, found, _ = draw(line=film())
  path = found['line_film'](tmp_path / 'line_film')
  assert path == tmp_path / 'line_film.gif'
  with Image.open(path) as shown:
    assert shown.size == (320, 336)
    times = []
    for frame in range(shown.n_frames):
      shown.seek(frame)
      times.append(shown.info['duration'])
  # A third of a second each; Pillow joins frames that are the same.
  np.testing.assert_allclose(times, [333, 333, 333 * 5], rtol=0.02)
  monkeypatch.setattr(animation.PillowWriter, 'grab_frame', lambda v: None)
  monkeypatch.setattr(animation.PillowWriter, 'finish', lambda v: None)
  frames = []
  clear = lambda ax, film, frame: frames.append((frame, len(ax.lines)))
  monkeypatch.setattr(clinging_dimpling, 'plane', clear)
  clinging_dimpling.animate(film(4), tmp_path / 'a')
  assert frames == [(v, 0) for v in (0, 1, 2, 3, 3, 3, 3, 3)]


def test_the_boundary_in_space_can_be_turned_and_chosen(tmp_path, monkeypatch):
  shown = []
  keep = lambda figure, path, **options: shown.append((figure, path, options))
  monkeypatch.setattr(graph_objects.Figure, 'write_html', keep)
  made, found, _ = draw(chessboard=film(11, 4, 3))
  path = found['chessboard'](tmp_path / 'chessboard')
  ((figure, written, options),) = shown
  assert written == path == tmp_path / 'chessboard.html'
  assert options == dict(include_plotlyjs=True, div_id='boundary')
  *surfaces, zero, one = figure.data
  for surface, frame in zip(surfaces, [0, 1, 3, 4, 6, 7, 9, 10], strict=True):
    x, y, z = surface.x, surface.y, surface.z
    wanted = x - 2 * y + 3 * z + 0.3 + frame / 10
    np.testing.assert_allclose(surface.value, wanted, atol=1e-12)
    assert surface.name == f'step {10 * frame**2}'
    assert surface.visible == (frame == 10)
  assert_surface_looks(surfaces[0].to_plotly_json())
  labels = made['chessboard']['labels'][0]
  for label, trace in enumerate((zero, one)):
    at = made['chessboard']['points'][0][labels == label]
    np.testing.assert_allclose((trace.x, trace.y), at[:, :2].T)
    assert not np.any(trace.z) and len(trace.z) == len(at)
    assert (trace.mode, trace.name) == ('markers', f'class {label}')
    assert trace.marker.size == 5
    assert trace.marker.symbol == ('square', 'circle')[label]
    assert trace.marker.color == ('#d9822b', '#0b3c5d')[label]
  (menu,) = figure.layout.updatemenus
  assert menu.active == 7 and len(menu.buttons) == 8
  for number, button in enumerate(menu.buttons):
    assert button.label == surfaces[number].name
    assert button.method == 'update'
    visible = [v == number for v in range(8)] + [True, True]
    assert button.args == ({'visible': visible},)
  assert 'one network' in figure.layout.title.text
  titles = [figure.layout.scene[f'{v}axis'].title.text for v in 'xyz']
  assert titles == ['first tangent', 'second tangent', 'off the plane']


def assert_surface_looks(look):
  for name in 'xyz':
    look.pop(name)
  for name in ('value', 'name', 'visible'):
    look.pop(name, None)
  assert look == dict(
    type='isosurface',
    isomin=0,
    isomax=0,
    surface={'count': 1},
    opacity=0.6,
    colorscale=look['colorscale'],
    showscale=False,
    caps={v: {'show': False} for v in 'xyz'},
  )
  assert look['colorscale'][0][1] != look['colorscale'][-1][1]
