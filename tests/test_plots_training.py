"""Figures of what is seen along training, drawn from made-up runs."""

import figures
from matplotlib import animation
import numpy as np
from PIL import Image
from plotly import graph_objects
import pytest
from scipy import stats

from dmm_jax import plots
from dmm_jax import records
from dmm_jax.plots import canvas
from dmm_jax.plots import clinging

# --- Clinging and dimpling -------------------------------------------------


def clinging_rows():
  values = figures.Values()
  rows = []
  for name, labels, condition in (
    ('line', 'true', 'plain'),
    ('line', 'shuffled', 'null'),
    ('line', 'true', 'decay'),
    ('board', 'true', 'plain'),
  ):
    curve = lambda: {
      k: [values.number() for _ in range(4)] for k in ('low', 'median', 'high')
    }
    rows.append(
      {
        'dataset': name,
        'labels': labels,
        'condition': condition,
        'verdict': f'as {condition} goes',
        'steps': [0, 1, 5, 20],
        'clings': 3 + len(rows),
        'curves': {k: curve() for k in ('gap', 'right', 'fraction')},
        'random_fraction': values.number(),
        **values.entries('fall fraction'),
      }
    )
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
    'points': again(rng.uniform(-1, 1, (5, dim))),
    'labels': again(np.array([0, 1, 1, 0, 1])),
  }


@pytest.fixture(scope='module')
def of_clinging(tmp_path_factory):
  run_dir = tmp_path_factory.mktemp('clinging')
  shown = []
  with pytest.MonkeyPatch.context() as patch:
    keep = lambda figure, path, **options: shown.append((figure, path, options))
    patch.setattr(graph_objects.Figure, 'write_html', keep)
    found = figures.drawn(
      plots.clinging_dimpling,
      run_dir,
      {'rows': clinging_rows()},
      line=film(),
      chessboard=film(11, 4, 3),
    )
  assert set(found) == {'curves', 'conditions', 'line'}
  return run_dir, found, shown


def test_curves_along_training_stand_beside_shuffled_labels(of_clinging):
  figure, rows = of_clinging[1]['curves'], clinging_rows()
  keys = ['gap', 'right', 'fraction']
  panels = np.reshape(figure.axes, (2, 3))
  for line, of in zip(panels, (rows[:2], rows[3:]), strict=True):
    for ax, key in zip(line, keys, strict=True):
      curves, areas = figures.curves(ax), figures.areas(ax)
      names = 'true labels', 'shuffled labels (null)'
      for row, name, area in zip(of, names, areas, strict=False):
        curve = row['curves'][key]
        wanted = [row['steps'], curve['median']]
        np.testing.assert_allclose(curves[name], wanted)
        wanted = [row['steps'], curve['low'], curve['high']]
        np.testing.assert_allclose(area, wanted)
      assert len(areas) == len(of)
      lines = [v[0] for v in figures.others(ax)]
      np.testing.assert_allclose(lines, [2 * [row['clings']] for row in of])
      null = curves.get('random direction')
      if key == 'fraction':
        assert null[1].tolist() == 2 * [of[0]['random_fraction']]
      else:
        assert null is None
  figures.assert_looks('clinging', of_clinging[1])


def test_conditions_stand_below_each_other(of_clinging):
  rows = clinging_rows()
  for ax, of in zip(
    of_clinging[1]['conditions'].axes, (rows[:3], rows[3:]), strict=True
  ):
    fall, fraction = 'gap falls to this share', 'part of the normal in tangents'
    figures.assert_dots(ax, fall, [r['fall'] for r in of], -0.12)
    figures.assert_dots(ax, fraction, [r['fraction'] for r in of], 0.12)
    assert figures.curves(ax)['half: it clings'][0].tolist() == [0.5, 0.5]
    said = [v.get_text() for v in ax.get_yticklabels()]
    assert said == [f'{r["condition"]}\nas {r["condition"]} goes' for r in of]
    assert ax.yaxis_inverted()


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


def test_the_boundary_of_a_plane_is_where_the_margin_is_zero(of_clinging):
  made = records.load_columns(of_clinging[0] / 'line.npz')
  axes = of_clinging[1]['line'].axes
  assert len(axes) == 4 and not axes[3].axison
  for frame, ax in enumerate(axes[:3]):
    assert_plane(ax, made, frame)
    assert ax.get_title() == f'step {10 * frame**2}'
  _, ((ax,),) = canvas.grid(1, 1)
  clinging._plane(ax, made | {'margin': 1 + 0 * made['margin']}, 0)
  assert len(ax.collections) == 1  # No boundary.
  strip = clinging._strip(film(20))
  shown = [ax.get_title() for ax in strip.axes]
  frames = [0, 3, 5, 8, 11, 14, 16, 19]
  assert shown == [f'step {10 * v * v}' for v in frames]


def test_films_hold_their_last_frame(of_clinging, tmp_path, monkeypatch):
  with Image.open(of_clinging[0] / 'figures/line.gif') as shown:
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
  monkeypatch.setattr(clinging, '_plane', clear)
  clinging._animate(film(4), tmp_path / 'a.gif')
  assert frames == [(v, 0) for v in (0, 1, 2, 3, 3, 3, 3, 3)]


def test_the_boundary_in_space_can_be_turned_and_chosen(of_clinging):
  run_dir, _, ((figure, path, options),) = of_clinging
  assert path == run_dir / 'figures/chessboard.html'
  assert options == dict(include_plotlyjs=True, div_id='boundary')
  made = records.load_columns(run_dir / 'chessboard.npz')
  *surfaces, zero, one = figure.data
  shown = [0, 1, 3, 4, 6, 7, 9, 10]
  for surface, frame in zip(surfaces, shown, strict=True):
    x, y, z = surface.x, surface.y, surface.z
    wanted = x - 2 * y + 3 * z + 0.3 + frame / 10
    np.testing.assert_allclose(surface.value, wanted, atol=1e-12)
    assert surface.name == f'step {10 * frame**2}'
    assert surface.visible == (frame == 10)
  look = surfaces[0].to_plotly_json()
  for name in 'xyz value name visible'.split():
    look.pop(name, None)
  for name in 'xyz':
    look.pop(name)
  caps = {v: {'show': False} for v in 'xyz'}
  assert look == dict(
    type='isosurface',
    isomin=0,
    isomax=0,
    surface={'count': 1},
    opacity=0.6,
    colorscale=look['colorscale'],
    showscale=False,
    caps=caps,
  )
  assert look['colorscale'][0][1] != look['colorscale'][-1][1]
  labels = made['labels'][0]
  for label, trace in enumerate((zero, one)):
    at = made['points'][0][labels == label]
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


def test_without_grids_there_are_no_films(tmp_path):
  found = figures.drawn(
    plots.clinging_dimpling, tmp_path, {'rows': clinging_rows()}
  )
  assert set(found) == {'curves', 'conditions'}


# --- Training --------------------------------------------------------------


def test_learning_curves(tmp_path):
  records.log(tmp_path, step=0, loss=9.0)
  for step, loss in ((1, 2.5), (3, 0.5), (9, 0.25)):
    records.log(tmp_path, step=step, loss=loss)
  epochs = np.arange(1, 46)
  test, train = np.linspace(0.2, 0.9, 45), np.linspace(0.3, 1, 45)
  found = figures.drawn(
    plots.learning_curves,
    tmp_path,
    {'test_accuracy': {'n': 50}},
    results=dict(epoch=epochs, train_accuracy=train, test_accuracy=test),
  )
  left, right = found['learning_curves'].axes
  (line,) = figures.others(left)
  np.testing.assert_allclose(line, [[1, 3, 9], [2.5, 0.5, 0.25]])
  figures.assert_curve(right, 'training set', epochs, 100 * train)
  figures.assert_curve(right, 'test set, 95 %', epochs, 100 * test)
  (area,) = figures.areas(right)
  for number in (0, 20, 44):
    k = round(test[number] * 50)
    if abs(k - test[number] * 50) < 1e-9:
      wanted = stats.binomtest(k, 50).proportion_ci(method='wilson')
      np.testing.assert_allclose(area[1:, number], 100 * np.array(wanted))
  figures.assert_looks('learning_curves', found)
  few = dict(epoch=[1, 2], train_accuracy=[0.1, 0.2], test_accuracy=[0.3, 0.4])
  found = figures.drawn(
    plots.learning_curves, tmp_path, {'test_accuracy': {'n': 5}}, results=few
  )
  every = [v.get_markevery() for v in found['learning_curves'].axes[1].lines]
  assert every == [1, 1]


def test_reconstructions_stand_below_their_images(tmp_path):
  rng = np.random.default_rng(0)
  pictures = {
    name: rng.uniform(-0.2, 1.2, (2, 3, 4, 1)).astype(np.float32)
    for name in ('image', 'auto_encoder', 'pca')
  }
  found = figures.drawn(
    plots.reconstructions,
    tmp_path,
    {'pca_error': {'value': 0.07}},
    results=dict(epoch=[1, 2, 3], test_error=[0.5, 0.1, 0.05]),
    images=pictures,
  )
  (ax,) = found['error'].axes
  figures.assert_curve(
    ax, 'auto-encoder, test set', [1, 2, 3], [0.5, 0.1, 0.05]
  )
  assert figures.curves(ax)['PCA'][1].tolist() == [0.07, 0.07]
  panels = np.reshape(found['reconstructions'].axes, (3, 2))
  for line, images in zip(panels, pictures.values(), strict=True):
    for panel, pixels in zip(line, images, strict=True):
      shown = panel.images[0].get_array()
      np.testing.assert_array_equal(shown, np.clip(pixels[..., 0], 0, 1))
  figures.assert_looks('reconstructions', found)


# --- Scale of the start, wrong labels, depth -------------------------------


def test_distances_against_the_scale_of_the_start(tmp_path):
  values = figures.Values()
  rows = [
    {'factor': factor, **values.entries('free on off')}
    for factor in (4.0, 1.0, 2.0, 0.5)
  ]
  found = figures.drawn(
    plots.initial_scale, tmp_path, {'dataset': 'sphere', 'rows': rows}
  )
  (ax,) = found['initial_scale'].axes
  rows = [rows[i] for i in (3, 1, 2, 0)]
  factors = np.array([0.5, 1, 2, 4])
  for side, label in (
    ('free', 'unrestricted'),
    ('on', 'within the span of the data'),
    ('off', 'orthogonal to it'),
  ):
    entries = [row[side] for row in rows]
    figures.assert_points(ax, f'{label}, mean and 95 %', factors, entries)
  through = rows[2]['off']['value']
  line = factors * through / 2
  figures.assert_curve(ax, 'proportional to the factor', factors, line)
  figures.assert_looks('initial_scale', found)


@pytest.mark.parametrize('radii', [(2.0, 0.5), (1.0,)])
def test_accuracy_of_every_arm(tmp_path, radii):
  values = figures.Values()
  rows = [{'arm': 'clean', 'radius': 0, 'accuracy': values.entry()}]
  for radius in radii:
    for arm in ('random', 'noise'):
      rows.append({'arm': arm, 'radius': radius, 'accuracy': values.entry()})
  summary = {'dataset': 'digits', 'guess': 0.1, 'rows': rows}
  found = figures.drawn(plots.mislabelled_training, tmp_path, summary)
  axes = found['accuracy'].axes
  for ax, radius in zip(axes, sorted(radii), strict=True):
    shown = [row for row in rows if row['radius'] in (0, radius)]
    entries = [row['accuracy'] for row in shown]
    figures.assert_dots(ax, 'new networks, mean and 95 %', entries)
    assert figures.curves(ax)['random guess'][0].tolist() == [0.1, 0.1]
    said = [v.get_text() for v in ax.get_yticklabels()]
    assert said == ['clean', 'random', 'noise']
    assert ax.get_title() == f'l2 steps up to {radius:g}'
  figures.assert_looks(f'mislabelled_{len(radii)}', found)


def test_depth_of_dimples(tmp_path):
  values = figures.Values()
  names = 'free on off fraction'
  rows = [
    {'network': name, **values.entries(names)}
    for name in ('plain', 'PGD 0.5', 'runs/net')
  ]
  summary = {'dataset': 'digits', 'random_fraction': 0.3, 'rows': rows}
  found = figures.drawn(plots.dimple_depth, tmp_path, summary)
  left, right = found['depth'].axes
  labels = 'unrestricted', 'on the manifold', 'off the manifold'
  for side, label, shift in zip(
    names.split(), labels, (-0.15, 0, 0.15), strict=False
  ):
    figures.assert_dots(left, label, [row[side] for row in rows], shift)
  part = 'part of the normal in tangents'
  figures.assert_dots(right, part, [row['fraction'] for row in rows])
  assert figures.curves(right)['random direction'][0].tolist() == [0.3, 0.3]
  for ax in (left, right):
    said = [v.get_text() for v in ax.get_yticklabels()]
    assert said == ['plain', 'PGD 0.5', 'net']
  figures.assert_looks('dimple_depth', found)
