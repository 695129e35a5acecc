"""Training: plain, and the same for the same key."""

from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import jax
import optax


def epochs(
  key: jax.Array,
  logits_fn: Callable,
  params: Any,
  xs,
  labels,
  *,
  num_epochs: int,
  learning_rate: float,
  batch_size: int = 128,
) -> Iterator[tuple[Any, float]]:
  """Minimises cross-entropy by Adam, the rate falling to 0 along a cosine.

  One permutation an epoch, whose last examples are left out where they fill no
  batch.

  Args:
    key: of the order of examples.
    logits_fn: `(params, x) -> logits [k]`, of one input.
    params: a pytree, to start from.
    xs, labels: `[n, ...]` and `[n]` integers.
    num_epochs: how many passes.
    learning_rate: of Adam, at the start.
    batch_size: examples a step; all of them, if there are fewer.

  Yields:
    `(params, loss)` after every epoch, the loss its mean over the steps.
  """
  num = len(xs)
  batch_size = min(batch_size, num)
  steps = num // batch_size
  rate = optax.cosine_decay_schedule(learning_rate, num_epochs * steps)
  optimizer = optax.adam(rate)

  def loss(params, xs, labels):
    logits = jax.vmap(lambda x: logits_fn(params, x))(xs)
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, labels
    ).mean()

  @jax.jit
  def epoch(state, key, xs, labels):
    def step(state, rows):
      params, inner = state
      value, slope = jax.value_and_grad(loss)(params, xs[rows], labels[rows])
      change, inner = optimizer.update(slope, inner)
      return (optax.apply_updates(params, change), inner), value

    order = jax.random.permutation(key, num)[: steps * batch_size]
    return jax.lax.scan(step, state, order.reshape(steps, batch_size))

  state = params, optimizer.init(params)
  for i in range(num_epochs):
    state, values = epoch(state, jax.random.fold_in(key, i), xs, labels)
    yield state[0], float(values.mean())
