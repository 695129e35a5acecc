"""Columns of predictions against closed forms of dense networks' laws."""

import types

import numpy as np
import pytest
from scipy import special

from dmm_jax import nngp
from dmm_jax import predictions
from dmm_jax import random_nets

NORMS = (2.0, np.inf)
XS = [*np.random.default_rng(0).uniform(size=(3, 2, 3, 1))]


def closed_form(x, norm):
  """Of networks without biases: the gradient's entries have |x|^2 / n / n."""
  size = np.linalg.norm(x)
  return size / np.sqrt(6) if norm == 2 else size / 6 / np.sqrt(2 / np.pi)


@pytest.mark.parametrize('options', [{}, {'num_radii': 7}])
def test_law_and_bound_are_those_of_the_kernel(options):
  table = predictions.law('fully_connected', XS, NORMS, bounds=None, **options)
  num = options.get('num_radii', 60)
  names = 'architecture n is_bound norm scale input_norm radius law bound'
  assert {*table} == {*names.split()}
  for column, wanted in (('n', 6), ('architecture', 'fully_connected')):
    assert table[column].tolist() == [wanted] * 2 * (3 + num)
  assert table['is_bound'].tolist() == 2 * (3 * [False] + num * [True])
  assert table['norm'].tolist() == (3 + num) * [2.0] + (3 + num) * [np.inf]
  kernel_fn = nngp.fully_connected()[2]
  for p in NORMS:
    of_x, by_radius = (
      {
        k: v[(table['norm'] == p) & (table['is_bound'] == of)]
        for k, v in table.items()
      }
      for of in (False, True)
    )
    scales = np.array([closed_form(x, p) for x in XS])
    np.testing.assert_allclose(of_x['scale'], scales, rtol=1e-5)
    sizes = [np.linalg.norm(x.ravel(), p) for x in XS]
    np.testing.assert_allclose(of_x['input_norm'], sizes)
    assert not np.any([of_x[k] for k in ('radius', 'law', 'bound')])
    radius = 3 * scales.mean() * np.arange(1, num + 1) / num
    np.testing.assert_allclose(by_radius['radius'], radius, rtol=1e-5)
    law = special.erf(radius[:, None] / scales / np.sqrt(2)).mean(1)
    np.testing.assert_allclose(by_radius['law'], law, rtol=1e-4)
    bounds = [nngp.flip_bound(kernel_fn, x, radius, p) for x in XS]
    np.testing.assert_allclose(
      by_radius['bound'], np.mean(bounds, 0), rtol=1e-4
    )
    np.testing.assert_allclose(by_radius['scale'], scales.mean(), rtol=1e-5)
    assert not np.any(by_radius['input_norm'])


def test_scales_in_a_box_and_of_so_many_draws():
  kernel_fn = nngp.fully_connected()[2]
  of = lambda p, bounds, num: [
    nngp.distance_scale(kernel_fn, x, p, bounds=bounds, num_draws=num)
    for x in XS
  ]
  scales = lambda bounds, **more: predictions.scales(
    'fully_connected', np.array(XS), (1.0, 2.0), bounds=bounds, **more
  )
  free, boxed = scales(None), scales((0.0, 1.0))
  for column, p in enumerate((1.0, 2.0)):
    for found, bounds in ((free, None), (boxed, (0.0, 1.0))):
      wanted = of(p, bounds, 200)
      np.testing.assert_allclose(found[:, column], wanted, rtol=1e-4)
  assert np.all(boxed[:, 0] > 1.01 * free[:, 0])
  few = scales(None, num_draws=20)
  np.testing.assert_allclose(few[:, 0], of(1.0, None, 20), rtol=1e-4)
  assert np.all(few[:, 0] != free[:, 0])
  table = predictions.law(
    'fully_connected', XS, (1.0,), bounds=(0.0, 1.0), num_radii=1
  )
  wanted = of(1.0, (0.0, 1.0), 1000)
  np.testing.assert_allclose(table['scale'][:3], wanted, rtol=1e-4)
  nothing = predictions.scales(
    'resnet20', np.array(XS), (1.0, 2.0), bounds=None
  )
  assert nothing.shape == (3, 2) and np.isnan(nothing).all()


def test_kernels_are_those_of_the_architectures(monkeypatch):
  for name, of in random_nets.ARCHITECTURES.items():
    if of.infinite:
      monkeypatch.setattr(nngp, of.infinite, lambda name=name: (1, 2, name))
      assert predictions.kernel.__wrapped__(name) == name
  monkeypatch.undo()
  assert predictions.kernel('lenet') is predictions.kernel('lenet')


def test_only_pooling_needs_probes_and_unknown_gains_are_measured(monkeypatch):
  probes = []

  def variance(kernel_fn, x, *, num_probes):
    probes.append(num_probes)
    return 4 * x

  monkeypatch.setattr(nngp, 'gradient_variance', variance)
  monkeypatch.setattr(nngp, 'output_variance', lambda kernel_fn, x: 9.0)
  for name, gain in (('lenet', None), ('resnet', 5.0)):
    kernel_fn = types.SimpleNamespace(gain=gain)
    x, sigma, root, found = predictions._at(kernel_fn, XS[0], name)
    assert x is XS[0] and sigma == 3
    np.testing.assert_allclose(root, 2 * np.sqrt(XS[0].ravel()))
    assert found == (gain or pytest.approx(6 * 4 * XS[0].max()))
  assert probes == [8, 1]


def test_draws_are_rows_by_norm(monkeypatch):
  asked = []

  def draw(key, kernel_fn, x, p, num):
    asked.append((key, kernel_fn, x.shape, p))
    return np.full(num, p), np.arange(num)

  monkeypatch.setattr(nngp, 'distance_draws', draw)
  table = predictions.draws('key', 'lenet', XS[0], NORMS, 3)
  np.testing.assert_array_equal(table['norm'], np.repeat(NORMS, 3))
  np.testing.assert_array_equal(table['linear'], table['norm'])
  np.testing.assert_array_equal(table['straight'], 2 * [0, 1, 2])
  np.testing.assert_array_equal(table['n'], 6 * [6])
  of = predictions.kernel('lenet')
  assert asked == [('key', of, (2, 3, 1), p) for p in NORMS]
