"""Pairs of networks: training, attacks, auto-encoders, and their oracles."""

import jax
import numpy as np
import pytest
from sklearn import decomposition

from dmm_jax import models
from experiments import networks
from experiments import pairs
from experiments.lib import flags

PLAN = pairs.Plan(
  seed=1,
  num=2,
  epochs=2,
  radius=0.5,
  radius_linf=0.1,
  trades=3.0,
  attack_steps=2,
)
RNG = np.random.default_rng(0)
XS = RNG.uniform(size=(40, 3, 2, 1)).astype(np.float32)
LABELS = (np.arange(40) % 3).astype(np.int32)
MLP = models.MLP((5,), 3)


@pytest.mark.parametrize(
  'kind, radius, norm, trades',
  [('PGD l2', 0.5, 2, 0), ('PGD linf', 0.1, np.inf, 0), ('TRADES', 0.5, 2, 3)],
)
def test_adversaries_by_kind(kind, radius, norm, trades):
  found = pairs.adversary(PLAN, kind)
  assert (found.radius, found.norm, found.trades) == (radius, norm, trades)
  assert found.num_steps == 2
  assert pairs.adversary(PLAN, 'plain') is pairs.adversary(PLAN, 'given')


def test_pairs_start_alike_and_differ_in_the_adversary_alone():
  train = lambda kind, **more: pairs.train_kind(
    PLAN, MLP, XS, LABELS, kind, **more
  )
  plain, again, hard = map(train, ('plain', 'plain again', 'PGD l2'))
  assert plain.shape == again.shape == hard.shape == (2, 6 * 5 + 5 + 15 + 3)
  np.testing.assert_array_equal(plain, train('plain'))
  # No attack at all is plain training, from the same weights in one order.
  weak = pairs.Plan(**(vars(PLAN) | dict(radius=0.0)))
  same = pairs.train_kind(weak, MLP, XS, LABELS, 'PGD l2')
  np.testing.assert_allclose(same, plain, atol=1e-4)
  gap = lambda other: np.abs(other - plain).max()
  assert 1e-3 < gap(hard) < 0.1 < gap(again)
  assert np.abs(plain[0] - plain[1]).max() > 0.1
  # More networks leave the first ones as they are.
  more = pairs.Plan(**(vars(PLAN) | dict(num=3)))
  more = pairs.train_kind(more, MLP, XS, LABELS, 'plain')
  np.testing.assert_allclose(more[:2], plain, atol=1e-4)


def test_variables_go_flat_and_back():
  given = [MLP.init(jax.random.key(i), XS[0]) for i in range(2)]
  flat = [networks.flatten(v) for v in given]
  for row, variables in zip(flat, given, strict=True):
    back = networks.unflatten(MLP, XS[0], row)
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


@pytest.mark.parametrize('norm, dual', [(2.0, 2), (np.inf, 1)])
def test_accuracy_under_attack_of_a_linear_network(norm, dual):
  linear = models.Linear(2)
  x = RNG.uniform(0.45, 0.55, size=(50, 6)).astype(np.float32)
  variables = linear.init(jax.random.key(0), x[0])
  variables = jax.tree.map(np.asarray, variables)
  logits = np.array([linear.apply(variables, v)[0] for v in x])
  gaps = logits[:, 1] - logits[:, 0]
  labels = (gaps > np.median(gaps)).astype(np.int32)  # Many are wrong.
  gradient = jax.grad(
    lambda v: np.float32([-1, 1]) @ linear.apply(variables, v)[0]
  )
  steep = np.linalg.norm(gradient(x[0]), dual)
  lead = np.where(labels == 1, gaps, -gaps) / steep
  for radius in (0.0, float(np.quantile(lead[lead > 0], 0.4)), 10.0):
    radius = min(radius, 0.4)  # Within the box.
    found = pairs.accuracies(
      linear, [networks.flatten(variables)], x, labels, radius=radius, norm=norm
    )
    np.testing.assert_allclose(found, [np.mean(lead > radius)], atol=0.021)


def test_errors_beside_principal_components():
  module = models.DenseAutoEncoder((3, 2, 1), 2)
  flat = pairs.train_autoencoders(PLAN, module, XS, epochs=3)
  test = XS[:15] ** 2
  errors, of_pca = pairs.reconstruction_errors(module, flat, test, XS)
  for row, error in zip(flat, errors, strict=True):
    variables = networks.unflatten(module, XS[0], row)
    made = np.array([module.apply(variables, x)[0] for x in test])
    np.testing.assert_allclose(error, np.mean((made - test) ** 2), rtol=1e-4)
  pca = decomposition.PCA(2).fit(XS.reshape(40, -1))
  points = test.reshape(15, -1)
  made = pca.inverse_transform(pca.transform(points))
  np.testing.assert_allclose(of_pca, np.mean((made - points) ** 2), rtol=1e-4)


def test_tangents_are_those_of_the_decoder():
  module = models.DenseAutoEncoder((3, 2, 1), 2)
  flat = pairs.train_autoencoders(PLAN, module, XS, epochs=1)[1]
  bases = pairs.tangents(module, flat, XS[:4])
  assert bases.shape == (4, 2, 6)
  variables = networks.unflatten(module, XS[0], flat)
  for x, basis in zip(XS, bases, strict=False):
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-5)
    z = np.asarray(module.apply(variables, x, method='encode'), float)
    for step in np.eye(2) * 1e-2:
      ends = [
        np.ravel(module.apply(variables, np.float32(z + s), method='decode'))
        for s in (step, -step)
      ]
      way = ends[0] - ends[1]
      rest = way - basis.T @ (basis @ way)
      assert np.linalg.norm(rest) < 0.01 * np.linalg.norm(way)


def test_given_networks_are_pairs_of_one_architecture(monkeypatch):
  made = {
    name: networks.Trained(
      models.MLP((width,), 3),
      pairs.train.State({'of': name}, {}, ()),
      {},
      0,
    )
    for name, width in (('a', 5), ('b', 5), ('c', 4))
  }
  asked = []

  def read_for(path, shape, num_classes):
    asked.append((path, shape, num_classes))
    return made[path]

  monkeypatch.setattr(networks, 'read_for', read_for)
  found = pairs.read('a,b', 'b,a', (3, 2, 1), 3)
  assert found['module'] == MLP
  of = lambda kind: [v['params']['of'] for v in found[kind]]
  assert (of('plain'), of('given')) == (['a', 'b'], ['b', 'a'])
  assert asked[0] == ('a', (3, 2, 1), 3) and len(asked) == 4
  assert pairs.read('', '', (3, 2, 1), 3) == {}
  with pytest.raises(flags.FlagError, match=r'--plain names 2 runs.*1; they'):
    pairs.read('a,b', 'b', (3, 2, 1), 3)
  with pytest.raises(flags.FlagError, match='different architectures'):
    pairs.read('a', 'c', (3, 2, 1), 3)
