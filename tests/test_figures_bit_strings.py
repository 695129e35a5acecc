"""Figures of strings of bits, drawn from made-up tables."""

import figures
import numpy as np

from dmm_jax import statistics
from experiments.figures import bit_images
from experiments.figures import bit_strings
from experiments.lib import runner
from experiments.lib import tables


def estimates(num, seed=0):
  values = np.random.default_rng(seed).uniform(1, 9, num).round(3)
  return [
    statistics.Estimate(v, 0.8 * v, 1.5 * v, 9, 'networks')
    for v in values.tolist()
  ]


def table(names, *columns):
  made = [tables.Column(name, '', '') for name in names]
  return tables.Table(
    '', made, [list(row) for row in zip(*columns, strict=True)]
  )


def columns_of(found):
  return np.array([v[:3] for v in found]).T


def split(found):
  return ({k: v[i] for k, v in found.items()} for i in (0, 1))


def test_flips_against_the_number_of_bits():
  rng = np.random.default_rng(0)
  n = [10, 40, 90, 250, 800]
  flips, shares, factors = estimates(5), estimates(2, 1), estimates(2, 2)
  infinite = rng.uniform(1, 9, 5).tolist()
  report = runner.Report(
    'So far.',
    [],
    [
      table(('bits', 'flips', 'infinite'), n, flips, infinite),
      table(
        ('flips as', 'a'),
        ('sqrt(n / ln n)', 'sqrt(n)', 'infinite'),
        [*factors, 0.4],
      ),
      table(('bits',), n),
      table(('bits', 'flips / n', 'infinite'), n[:2], shares, infinite[:2]),
    ],
  )
  rows = {
    'n': np.array(n)[rng.integers(0, 5, 4000)],
    'output': rng.normal(size=4000),
    'flips': rng.integers(1, 9, 4000),
  }
  found, captions = split(bit_strings.draw(report, {'results': rows}))
  left, right = found['flips'].axes
  label = 'mean of networks, 95 %'
  for ax, places, wanted in ((left, n, flips), (right, n[:2], shares)):
    np.testing.assert_allclose(
      figures.bars(ax)[label], [places, *columns_of(wanted)]
    )
  fine, curves = np.geomspace(10, 800, 100), figures.curves(left)
  for name, curve, a in (
    ('sqrt(n / ln n)', np.sqrt(fine / np.log(fine)), factors[0].value),
    ('sqrt(n)', np.sqrt(fine), factors[1].value),
  ):
    np.testing.assert_allclose(
      curves[f'fit: {a:.3f} {name}'], [fine, a * curve]
    )
  figures.assert_curve(left, 'infinite width, first order', n, infinite)
  least = np.sqrt(fine / (2 * np.pi * np.log(fine)))
  figures.assert_curve(left, 'lower bound of the paper', fine, least)
  figures.assert_curve(right, 'infinite width, exact', n[:2], infinite[:2])
  curves = figures.curves(right)
  assert curves["the authors' 0.334"][1].tolist() == 2 * [0.334]
  null = curves['uniformly random function']
  np.testing.assert_allclose(null, [n[:2], [0.2, 0.05]])
  assert captions['flips'].startswith('So far. Left')
  (ax,) = found['margin'].axes
  curves = figures.curves(ax)
  for v in (10, 90, 800):  # The least, the middle one, the largest.
    keep = rows['n'] == v
    size = np.abs(rows['output'][keep])[:300] * np.sqrt((v + 1) / (2 * v))
    wanted = rows['flips'][keep][:300] * np.sqrt(np.log(v) / v)
    assert keep.sum() > 300
    np.testing.assert_allclose(curves.pop(f'n = {v}'), [size, wanted])
  line = curves.pop('|f| / 2, for large n')
  assert line.tolist() == [[0, 3], [0, 1.5]] and not curves
  figures.assert_looks('bit_strings', found)


def test_flips_of_networks_trained_on_images():
  rng = np.random.default_rng(0)
  kinds = ['train', 'test', 'wrong', 'random']
  flips = np.append(rng.integers(1, 30, 159), np.inf)
  results = {
    'kind': np.tile(kinds, 40),
    'trained': np.repeat([True, False], 80),
    'flips': flips,
    'n': np.full(160, 64),
  }
  means = estimates(4), estimates(4, 1)
  strings = [bit_images.KINDS[kind] for kind in kinds]
  report = runner.Report(
    'So far.', [], [table(('strings', 'trained', 'untrained'), strings, *means)]
  )
  found, captions = split(bit_images.draw(report, {'results': results}))
  assert captions['flips'].startswith('So far. Share of strings')
  for number, (ax, kind) in enumerate(
    zip(found['flips'].axes, kinds, strict=True)
  ):
    assert ax.get_title() == strings[number]
    for name, mean, span in zip(
      ('trained', 'untrained'), means, ax.patches, strict=True
    ):
      keep = (results['kind'] == kind) & (
        results['trained'] == (name == 'trained')
      )
      wanted = [np.sort(flips[keep]), np.arange(1, 21) / 20]
      np.testing.assert_allclose(figures.curves(ax)[f'{name} networks'], wanted)
      _, low, high = mean[number][:3]
      np.testing.assert_allclose(
        [span.get_x(), span.get_width()], [low, high - low]
      )
  figures.assert_looks('bit_images', found)
