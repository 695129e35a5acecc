"""Figures of the flagship, drawn from made-up tables."""

import figures
import numpy as np
import pytest

from dmm_jax import statistics
from dmm_jax.plots import canvas
from experiments import random_scaling
from experiments.figures import random_scaling as drawing
from experiments.lib import runner

N = (192, 768)
NAMES = ('fully_connected', 'resnet20')


def estimate(value):
  return statistics.Estimate(value, 0.8 * value, 1.3 * value, 50, 'networks')


def cases():
  rng = np.random.default_rng(0)
  for name in NAMES:
    for p in (1.0, 2.0):
      yield random_scaling.Case(
        name,
        p,
        np.array(N, float),
        [np.ones(50)] * 2,
        [rng.uniform(1, 3, size=50) / n**0.5 for n in N],
        [rng.uniform(1, 2, size=50) / n**0.5 for n in N],
        [np.ones(50)] * 2,
        None if name == 'resnet20' else 1.4 / np.array(N) ** 0.5,
      )


@pytest.fixture(scope='module')
def report():
  made = list(cases())
  rows = [
    [
      random_scaling.SHORT[c.name],
      c.norm,
      estimate(-0.4),
      estimate(-0.5),
      random_scaling.infinite_slope(c),
      '0.0%',
      'supported',
      '-',
    ]
    for c in made
  ]
  tables = [
    random_scaling.slope_table(rows, made),
    random_scaling.median_table(made),
    *random_scaling.released_table([made[-1]]),
  ]  # fmt: skip
  return runner.Report('Distances fall.', [], tables), made


@pytest.fixture(scope='module')
def found(report):
  return drawing.draw(report[0], {})


def test_medians_lie_on_the_axes_with_their_intervals(report, found):
  figure, caption = found['scaling']
  assert caption.startswith('Distances fall. ') and 'not fitted' in caption
  axes = figure.axes
  assert [ax.get_title() for ax in axes] == [r'$\ell^1$', r'$\ell^2$']
  for ax, p in zip(axes, (1.0, 2.0), strict=True):
    legend = ax.get_legend()
    entries = [t.get_text() for t in legend.get_texts()]
    assert entries[:2] == [
      'dense: slope -0.50 [-0.40, -0.65]; line: infinite width, -0.50',
      'resnet20: slope -0.50 [-0.40, -0.65]',
    ]
    other = r'$\sqrt{n/\ln n}$ in place of $\sqrt{n}$'
    assert (other in entries) == (p == 1) and len(entries) == (
      5 if p == 1 else 4
    )
    # Raw and controlled medians of each network.
    assert len(ax.containers) == 4
    made = [c for c in report[1] if c.norm == p]
    for number, case in enumerate(made):
      for bars, column in zip(
        ax.containers[2 * number :], ('relative', 'controlled'), strict=False
      ):
        for i, samples in enumerate(getattr(case, column)):
          wanted = statistics.median(samples, unit='networks')
          x, y = (v[i] for v in bars.lines[0].get_data())
          assert y == wanted.value and x == pytest.approx(N[i], rel=0.06)
          ends = bars.lines[2][0].get_segments()[i][:, 1]
          np.testing.assert_allclose(ends, wanted[1:3])
      hollow, filled = (
        c.lines[0].get_markerfacecolor()
        for c in ax.containers[2 * number : 2 * number + 2]
      )
      assert hollow == 'none' and filled != 'none'
    drawn = [v for v in ax.lines if len(v.get_xdata()) in (2, 50)]
    own = [v for v in drawn if v.get_linewidth() == 1.4]
    assert len(own) == 1
    np.testing.assert_allclose(own[0].get_ydata(), 1.4 / np.array(N) ** 0.5)
    (law,) = [v for v in drawn if v.get_linewidth() == 3]
    x, y = law.get_data()
    np.testing.assert_allclose(y * np.sqrt(x), 1.4)
    for line in drawn:
      if line.get_linewidth() == 2:
        x, y = line.get_data()
        ratio = y * np.sqrt(x * np.log(x))
        np.testing.assert_allclose(ratio, ratio[0])


def test_infinite_ends_and_values_are_left_out():
  ax = canvas.grid(1, 1)[1][0, 0]
  made = [
    statistics.Estimate(1.0, 0.5, np.inf, 9, ''),
    statistics.Estimate(np.inf, 1.0, np.inf, 9, ''),
  ]
  drawing.marks(ax, np.array([1.0, 2.0]), made, dict(color='k', marker='o'), '')
  (bars,) = ax.containers
  assert bars.lines[0].get_data()[0].tolist() == [1.0]
  np.testing.assert_allclose(bars.lines[2][0].get_segments()[0][:, 1], [0.5, 1])


def test_released_distances_stand_beside_ours(found):
  figure, caption = found['released']
  assert 'crosses' in caption
  (ax,) = figure.axes
  bars = {c.get_label(): c.lines[0].get_data() for c in ax.containers}
  x, y = bars['released']
  assert x.tolist() == [768] and y.tolist() == [0.5962]
  (line,) = [v for v in ax.lines if v.get_label() == 'law']
  np.testing.assert_allclose(line.get_ydata(), 0.5962)
  assert bars['ours, raw'][1][0] > bars['ours, controlled'][1][0]


def test_lines_of_released_distances_have_the_powers_of_the_law():
  rows = [
    {
      'p': p,
      'n': n,
      'raw': estimate(1.0),
      'controlled': estimate(1.0),
      'released': estimate(n**power),
    }
    for p, power in ((1.0, 0.5), (2.0, 0.0), (np.inf, -0.5))
    for n in (100, 400, 900)
  ]
  for ax, power in zip(
    drawing.released(rows).axes, (0.5, 0, -0.5), strict=True
  ):
    (line,) = [v for v in ax.lines if v.get_label() == 'law']
    np.testing.assert_allclose(line.get_ydata(), line.get_xdata() ** power)


def test_without_released_distances_there_is_one_figure(report):
  made = report[0]._replace(tables=report[0].tables[:2])
  assert list(drawing.draw(made, {})) == ['scaling']


def test_looks(found):
  figures.assert_looks('random_scaling', {k: v for k, (v, _) in found.items()})
