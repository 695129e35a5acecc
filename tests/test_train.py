"""Training against optax by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import train


def problem():
  rng = np.random.default_rng(0)
  labels = rng.integers(0, 3, 50).astype(np.int32)
  xs = rng.normal(size=(50, 4)) + 3 * np.eye(4)[labels]
  return xs.astype(np.float32), labels, jnp.zeros((3, 4))


def run(batch_size, num_epochs=3):
  xs, labels, params = problem()
  logits_fn = lambda w, x: w @ x
  return list(
    train.epochs(
      jax.random.key(1),
      logits_fn,
      params,
      xs,
      labels,
      num_epochs=num_epochs,
      learning_rate=0.1,
      batch_size=batch_size,
    )
  )


def test_one_batch_an_epoch_is_adam_by_hand():
  xs, labels, params = problem()
  optimizer = optax.adam(optax.cosine_decay_schedule(0.1, 3))
  state = optimizer.init(params)
  found = run(batch_size=128)

  def loss(w):
    rows = jax.nn.log_softmax(xs @ w.T)
    return -jnp.mean(rows[jnp.arange(50), labels])

  for got, value in found:
    want, slope = jax.value_and_grad(loss)(params)
    change, state = optimizer.update(slope, state)
    params = params + change
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(got, params, rtol=1e-4, atol=1e-5)


def test_it_learns_and_repeats_to_the_same_bits():
  first, again = run(16, 10), run(16, 10)
  assert first[-1][1] < 0.3 * first[0][1]
  for one, other in zip(first, again, strict=True):
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1]
