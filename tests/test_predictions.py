"""Columns of predictions against closed forms of dense networks' laws."""

import numpy as np

from dmm_jax import nngp
from dmm_jax import predictions
from dmm_jax import random_nets

NORMS = (2.0, np.inf)
XS = [*np.random.default_rng(0).uniform(size=(3, 2, 3, 1))]


def closed_form(x, norm):
  """Of networks without biases: the gradient's entries have |x|^2 / n / n."""
  size = np.linalg.norm(x)
  return size / np.sqrt(6) if norm == 2 else size / 6 / np.sqrt(2 / np.pi)


def test_laws_are_those_of_the_kernel():
  table = predictions.law('fully_connected', XS, NORMS, bounds=None)
  assert {*table} == {*'norm scale input_norm input_l2 sigma'.split()}
  assert table['norm'].tolist() == 3 * [2.0, np.inf]
  two, top = table['norm'] == 2, table['norm'] == np.inf
  for p, of in ((2.0, two), (np.inf, top)):
    scales = [closed_form(x, p) for x in XS]
    np.testing.assert_allclose(table['scale'][of], scales, rtol=1e-5)
    sizes = [np.linalg.norm(x.ravel(), p) for x in XS]
    np.testing.assert_allclose(table['input_norm'][of], sizes)
    lengths = [np.linalg.norm(x) for x in XS]
    np.testing.assert_allclose(table['input_l2'][of], lengths)
    # He's variances: E f^2 = 2 |x|^2 / n of a logit, twice that of two.
    sigma = np.sqrt(4 / 6) * np.array(lengths)
    np.testing.assert_allclose(table['sigma'][of], sigma, rtol=1e-5)


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
  table = predictions.law('fully_connected', XS, (1.0,), bounds=(0.0, 1.0))
  wanted = of(1.0, (0.0, 1.0), 1000)
  np.testing.assert_allclose(table['scale'], wanted, rtol=1e-4)
  nothing = predictions.scales(
    'resnet20', np.array(XS), (1.0, 2.0), bounds=None
  )
  assert nothing.shape == (3, 2) and np.isnan(nothing).all()


def test_kernels_are_those_of_the_architectures(monkeypatch):
  for name, of in random_nets.ARCHITECTURES.items():
    if of.infinite:
      make = lambda depth=None: (1, 2, depth)
      monkeypatch.setattr(nngp, of.infinite, make)
      wanted = 7 if name == 'resnet' else None
      assert predictions.kernel.__wrapped__(name) == wanted
  monkeypatch.undo()
  assert predictions.kernel('lenet') is predictions.kernel('lenet')


def test_only_pooling_needs_probes(monkeypatch):
  probes = []

  def variance(kernel_fn, x, *, num_probes):
    probes.append(num_probes)
    return 4 * x

  monkeypatch.setattr(nngp, 'gradient_variance', variance)
  monkeypatch.setattr(nngp, 'output_variance', lambda kernel_fn, x: 9.0)
  for name in ('lenet', 'resnet'):
    sigma, root = predictions._at(None, XS[0], name)
    assert sigma == 3
    np.testing.assert_allclose(root, 2 * np.sqrt(XS[0].ravel()))
  assert probes == [8, 1]
