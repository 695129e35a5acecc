"""Figures of trained beside untrained networks, drawn from made-up tables."""

import itertools

import figures
import numpy as np

from dmm_jax import statistics
from experiments.figures import trained_scaling
from experiments.figures import trained_vs_random
from experiments.lib import runner
from experiments.lib import tables

NORMS = (1.0, 2.0, np.inf)


def estimates(num, seed=0):
  values = np.random.default_rng(seed).uniform(0.3, 3, num).round(3)
  return [
    statistics.Estimate(v, 0.8 * v, 1.5 * v, 9, 'networks')
    for v in values.tolist()
  ]


def table(names, rows):
  columns = [tables.Column(name, '', '') for name in names.split()]
  return tables.Table('', columns, rows)


def columns_of(names, rows):
  made = map(np.array, zip(*rows, strict=True))
  return dict(zip(names.split(), made, strict=True))


def ends_of(found):
  return np.array([v[:3] for v in found]).T


def split(found):
  return ({k: v[i] for k, v in found.items()} for i in (0, 1))


def where(rows, **wanted):
  return np.all([rows[k] == v for k, v in wanted.items()], axis=0)


# --- Against dimension -------------------------------------------------------


def test_distances_of_resized_images_against_dimension():
  rng = np.random.default_rng(0)
  n = [16, 64, 144]
  rows = [
    ('mlp', content, v, network, trained, inputs, norm, rng.uniform(1, 2), 2.0)
    for content, v in itertools.product(('images', 'blown up'), n)
    if content == 'images' or v > 16
    for trained, inputs in itertools.product((False, True), ('images', 'noise'))
    for network, norm in itertools.product(range(3), NORMS)
    for _ in range(4)
  ]
  results = columns_of(
    'model content n network trained inputs norm distance input_norm', rows
  )
  keys = list(itertools.product(NORMS, trained_scaling.PLACES))
  constants = estimates(len(keys))
  shown = [
    ['mlp', norm, place, -0.5, constants[i]]
    for i, (norm, place) in enumerate(keys)
  ]
  report = runner.Report(
    'So far.', [], [table('network p at law constant', shown)]
  )
  found, captions = split(trained_scaling.draw(report, {'results': results}))
  assert captions['distances'].startswith('So far. Median distance')
  for ax, norm in zip(found['distances'].axes, NORMS, strict=True):
    for label, trained, content, inputs in trained_scaling.SERIES:
      medians = []
      for v in n:
        keep = where(results, norm=norm, trained=trained, inputs=inputs, n=v)
        keep &= results['content'] == ('images' if v == 16 else content)
        medians.append(np.median(results['distance'][keep] / 2))
      places, value, low, high = figures.bars(ax)[label]
      np.testing.assert_allclose([places, value], [n, medians])
      assert np.all(low <= value) and np.all(value <= high)
    law = medians[0] * (np.array(n) / 16) ** -0.5  # Untrained, at images.
    figures.assert_curve(ax, 'slope of the law', n, law)
  (ax,) = found['constants'].axes
  for number, place in enumerate(trained_scaling.PLACES):
    of = [constants[i] for i, key in enumerate(keys) if key[1] == place]
    value, low, high = ends_of(of)
    wanted = [value, np.arange(3) + 0.2 * (number - 1), low, high]
    np.testing.assert_allclose(figures.bars(ax)[place], wanted, atol=1e-9)
  curves = figures.curves(ax)
  assert curves['least that keeps the lower bound'][0].tolist() == [0.8, 0.8]
  below = sum(v.high < 0.8 for v in constants)
  assert f'{below} of 9 lie wholly below 0.8' in captions['constants']
  figures.assert_looks('trained_scaling', found)


# --- Before and after training -----------------------------------------------


def drawn(norms, names=('fully_connected', 'resnet20')):
  rng = np.random.default_rng(0)
  rows = [
    (name, trained, kind, norm, rng.exponential())
    for name, trained, kind, norm in itertools.product(
      names, (False, True), trained_vs_random.TYPES, norms
    )
    for _ in range(12)
  ]
  results = columns_of('architecture trained type norm distance', rows)
  results['norm'] = results['norm'].astype(np.float32)
  results['distance'][5] = np.inf
  short = [trained_vs_random.SHORT.get(name, name) for name in names]
  keys = list(itertools.product(short, norms, trained_vs_random.TYPES))
  medians = dict(zip(('untrained', 'trained'),
                     (estimates(len(keys), s) for s in (0, 1)),
                     strict=True))  # fmt: skip
  starts = estimates(len(keys), 2)
  report = runner.Report(
    'So far.',
    [],
    [
      table(
        'network p at untrained trained',
        [
          [*key, *pair]
          for key, *pair in zip(keys, *medians.values(), strict=True)
        ],
      ),
      table(
        'network p at start',
        [[*key, v] for key, v in zip(keys, starts, strict=True)],
      ),
      table('network', [[v] for v in short]),
    ],
  )
  found = trained_vs_random.draw(report, {'results': results})
  return results, keys, medians, starts, *split(found)


def test_medians_before_and_after_training():
  _, keys, medians, _, found, captions = drawn(NORMS)
  assert captions['training'].startswith('So far. Median distances')
  for ax, norm in zip(found['training'].axes, NORMS, strict=True):
    for number, (kind, label) in enumerate(trained_vs_random.TYPES.items()):
      wanted = [
        medians[state][keys.index((name, norm, kind))]
        for name in ('dense', 'resnet20')
        for state in ('untrained', 'trained')
      ]
      value, low, high = ends_of(wanted)
      places = np.arange(4) + 0.22 * (number - 1)
      np.testing.assert_allclose(
        figures.bars(ax)[label], [value, places, low, high], atol=1e-9
      )
  said = [v.get_text() for v in found['training'].axes[0].get_yticklabels()]
  assert said == ['dense,\nuntrained', 'dense,\ntrained',
                  'resnet20,\nuntrained', 'resnet20,\ntrained']  # fmt: skip
  figures.assert_looks('trained_vs_random', found)


def test_sorted_distances_and_their_starts():
  for norms, norm in ((NORMS, 1.0), ((2.0, np.inf), 2.0)):
    results, keys, _, starts, found, captions = drawn(norms)
    assert captions['sorted'].startswith(f'Sorted l{norm:g} distances')
    cases = itertools.product(
      (('fully_connected', 'dense'), ('resnet20', 'resnet20')),
      trained_vs_random.TYPES,
    )
    for ax, ((name, short), kind) in zip(
      found['sorted'].axes, cases, strict=True
    ):
      for trained in (False, True):
        keep = where(results, architecture=name, type=kind, trained=trained)
        far = np.sort(results['distance'][keep & (results['norm'] == norm)])
        share = (np.arange(12) + 0.5) / 12
        kept = np.isfinite(far)
        label = 'trained' if trained else 'untrained'
        np.testing.assert_allclose(
          figures.curves(ax)[label], [share[kept], far[kept]]
        )
        slope = far[:3] @ share[:3] / (share[:3] @ share[:3])
        line = figures.curves(ax)[f'line through its first quarter, {label}']
        np.testing.assert_allclose(line, [[0, 0.5], [0, 0.5 * slope]])
      start = starts[keys.index((short, norm, kind))]
      assert tables.cell(start, '.2f') in ax.get_title()
