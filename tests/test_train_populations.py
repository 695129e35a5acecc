"""Populations of networks: what they share, and that each is its own."""

import jax
import jax.flatten_util
import numpy as np
import pytest

from dmm_jax import models
from dmm_jax import train
from dmm_jax.train import populations

KEY = jax.random.key(3)
CONFIG = train.TrainConfig(
  optimizer='momentum', learning_rate=0.1, schedule='constant', batch_size=8
)
Condition = populations.Condition
RNG = np.random.default_rng(0)
XS = RNG.normal(size=(60, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(60) % 3
RIGHT = np.arange(200) % 10


def draw(num=6, **condition):
  return populations.draw_examples(KEY, Condition(**condition), RIGHT, num)


def test_plain_networks_see_everything_with_right_labels():
  given, rows = draw()
  assert np.all(given == RIGHT) and given.dtype == np.int32
  assert np.all(rows == np.arange(200))


def test_groups_share_a_draw_of_labels_and_no_other_group_has_it():
  given, rows = draw(random_labels=True, group=2)
  assert np.all(rows == np.arange(200))
  assert np.all(np.sort(given, axis=1) == np.sort(RIGHT))
  for pair in range(3):
    mine, mate = given[2 * pair : 2 * pair + 2]
    assert np.all(mine == mate)
    # By chance one in ten agree: 20 of 200, a standard deviation of 4.2.
    others = np.delete(given, [2 * pair, 2 * pair + 1], axis=0)
    assert np.all(np.sum(others == mine, axis=1) < 45)
    assert np.sum(mine == RIGHT) < 45
  everyone, _ = draw(random_labels=True, group=0)
  assert np.all(everyone == everyone[0]) and np.sum(everyone[0] == RIGHT) < 45
  each, _ = draw(random_labels=True)
  assert len({row.tobytes() for row in each}) == 6
  # A group that is cut short shares its draw too.
  odd, _ = draw(num=5, random_labels=True, group=2)
  np.testing.assert_array_equal(odd, given[:5])


def test_wrong_labels_are_as_many_as_asked():
  given, _ = draw(wrong=0.25, group=3)
  assert np.all(np.sum(given != RIGHT, axis=1) == 50)
  assert np.all(given[:3] == given[0]) and np.all(given[3:] == given[3])
  assert np.sum((given[0] != RIGHT) & (given[3] != RIGHT)) < 30


def test_parts_are_disjoint_within_a_group_and_drawn_anew_for_each():
  _, rows = draw(parts=2, group=2)
  assert rows.shape == (6, 100)
  for pair in range(3):
    both = np.concatenate(rows[2 * pair : 2 * pair + 2])
    assert len(np.unique(both)) == 200
  # Half of another group's part by chance: 50 of 100, a deviation of 3.5.
  assert 30 < len(np.intersect1d(rows[0], rows[2])) < 70
  _, rows = draw(parts=2, part_size=30, group=0)
  assert np.all(rows[::2] == rows[0]) and np.all(rows[1::2] == rows[1])
  assert len(np.union1d(rows[0], rows[1])) == 60


def test_more_parts_than_examples_are_refused():
  with pytest.raises(ValueError, match='2 parts of 101 examples need 202, got'):
    draw(parts=2, part_size=101)
  with pytest.raises(ValueError, match='parts of 0 examples'):
    draw(parts=201)


@pytest.mark.parametrize(
  'condition',
  [
    Condition(),
    Condition(random_labels=True, group=2),
    Condition(random_labels=True, group=0),
    Condition(parts=2, group=2),
  ],
)
@pytest.mark.parametrize('convolutional', [False, True])
def test_each_network_is_as_it_is_alone(condition, convolutional):
  module = models.MLP((5,), 3)
  if convolutional:
    module = models.CNN((3,), (), pools=0, num_classes=3)
  found = populations.fit(
    KEY,
    module,
    XS,
    LABELS,
    condition=condition,
    num=4,
    config=CONFIG,
    num_steps=9,
    pause_steps=(0, 3),
  )
  assert found.steps.tolist() == [0, 3, 9]
  weights, order, of_labels = jax.random.split(KEY, 3)
  examples = populations.draw_examples(of_labels, condition, LABELS, 4)
  for mine, wanted in zip(found.examples, examples, strict=True):
    np.testing.assert_array_equal(mine, wanted)
  number = 2
  rows, given = examples.rows[number], examples.labels[number]
  config = CONFIG._replace(num_epochs=9)
  optimizer = train.make_optimizer(config, len(rows))
  state = train.init_state(
    jax.random.split(weights, 4)[number], module, XS[0], optimizer
  )
  alone = train.fit(
    jax.random.split(order, 4)[number],
    train.flax_forward(module),
    state,
    XS[rows],
    given[rows],
    config=config,
    pause_steps=(0, 3, 9),
    each_epoch=False,
  )
  for pause in alone:
    if pause.step in (0, 3, 9):
      params, stats = found.network(number, pause.step)
      assert stats == {}
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        params,
        pause.state.params,
      )


def test_networks_differ_and_are_the_same_for_the_same_key():
  fit = lambda key: populations.fit(
    key, models.Linear(3), XS, LABELS, num=3, config=CONFIG, num_steps=4
  )
  first, again, other = fit(KEY), fit(KEY), fit(jax.random.key(4))
  np.testing.assert_array_equal(first.parameters, again.parameters)
  flat = np.concatenate([first.parameters[0], other.parameters[0]])
  gaps = np.linalg.norm(flat[:, None] - flat, axis=2)
  assert np.all(gaps[~np.eye(6, dtype=bool)] > 0.1)
  # The last snapshot is the default.
  for mine, wanted in zip(
    jax.tree.leaves(first.network(1)),
    jax.tree.leaves(first.unravel(first.parameters[-1, 1])),
    strict=True,
  ):
    np.testing.assert_array_equal(mine, wanted)
  with pytest.raises(ValueError, match=r'of steps \[4\], not of 3'):
    first.network(1, 3)


@pytest.mark.slow
def test_batch_norm_is_kept_with_its_averages():
  found = populations.fit(
    KEY,
    models.ResNet18(width=2, num_classes=3),
    RNG.normal(size=(12, 8, 8, 3)).astype(np.float32),
    np.arange(12) % 3,
    num=2,
    config=CONFIG,
    num_steps=1,
    pause_steps=(0,),
  )
  params, stats = found.network(1)
  start = found.network(1, 0)
  moved = lambda a, b: jax.tree.leaves(
    jax.tree.map(lambda u, v: np.abs(u - v).max(), a, b)
  )
  assert max(moved(params, start[0])) > 0 and min(moved(stats, start[1])) > 0
  x = np.ones((8, 8, 3), np.float32)
  logits = populations.logits(found.forward, (params, stats), x)
  variables = {'params': params, **stats}
  module = models.ResNet18(width=2, num_classes=3)
  wanted = module.apply(variables, x, train=False)[0]
  np.testing.assert_allclose(logits, wanted, atol=1e-6)


def test_stacked_networks_are_each_its_own():
  module, rng = models.MLP((5,), 3), np.random.default_rng(1)
  unravel = populations.unraveler(module, XS[0])
  size = 16 * 5 + 5 + 5 * 3 + 3
  parameters = rng.normal(size=(2, size)).astype(np.float32)
  networks = populations.stack(module, parameters, XS[0])
  shift = np.arange(60, dtype=np.float32)
  found = networks.of_each(lambda f, x, a: f(x) + a, XS, shift)
  called = networks.classify(XS)
  assert found.shape == (2, 60, 3)
  for i, flat in enumerate(parameters):
    params, _ = unravel(flat)
    logits = jax.vmap(lambda x, p=params: module.apply({'params': p}, x)[0])(XS)
    np.testing.assert_allclose(found[i], logits + shift[:, None], rtol=1e-4)
    np.testing.assert_array_equal(called[i], np.argmax(logits, 1))


@pytest.mark.parametrize('together', [True, False])
def test_ends_are_those_of_networks_trained_alone(together):
  module = models.MLP((5,), 3)
  weights, orders = (jax.random.split(jax.random.key(i), 2) for i in (1, 2))
  config = populations.constant_rate(0.1)._replace(num_epochs=2)
  assert config.batch_size == 64 and config.schedule == 'constant'
  before, after = populations.fit_ends(
    weights, orders, module, XS, LABELS, config=config, together=together
  )
  optimizer = train.make_optimizer(config, 60)
  flatten = lambda params: jax.flatten_util.ravel_pytree(params)[0]
  for i in range(2):
    state = train.init_state(weights[i], module, XS[0], optimizer)
    np.testing.assert_allclose(before[i], flatten(state.params))
    *_, last = train.fit(
      orders[i], train.flax_forward(module), state, XS, LABELS, config=config
    )
    np.testing.assert_allclose(after[i], flatten(last.state.params), atol=1e-5)
