"""What a gradient step at one example does to the outputs at others.

Through the empirical tangent kernel `J(x') J(x)^T`, of which no entry is ever
formed: a step is a vector of parameters, and its effect a forward derivative.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def influence(
  outputs: Callable,
  params: Any,
  x: jax.Array,
  label: jax.Array,
  others: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Returns how logits change with a gradient step at one example.

  `-J(x') J(x)^T dl/df(x)`, the change per unit of learning rate in the limit of
  small ones, l the cross-entropy. For a linear model with biases it is
  `(<x, x'> + 1) (onehot(label) - softmax(f(x)))`.

  Args:
    outputs: `(params, one input) -> logits [k]`.
    params: a pytree.
    x, label: the example of the step.
    others: inputs `[n, ...]`.

  Returns:
    `(at x [k], at the others [n, k])`.
  """
  step = _descent(outputs, params, x[None], label[None])
  change = lambda v: jax.jvp(lambda p: outputs(p, v), (params,), (step,))[1]
  return change(x), jax.vmap(change)(others)


def meeting_ratio(
  outputs: Callable,
  params: Any,
  x: jax.Array,
  label: jax.Array,
  others: jax.Array,
) -> jax.Array:
  """Returns how far others are carried along by a step at one example.

  The change of the example's class's logit at each other input over that at
  the example itself: 1 moves as far, 0 stays. For a linear model with biases
  `(<x, x'> + 1) / (<x, x> + 1)`. The step is up the log odds of the label. A
  step down the cross-entropy has its direction, and a length that underflows
  where the network is sure.

  Args:
    outputs, params, x, label, others: as for `influence`.

  Returns:
    `[n]`; NaN where the step does not move the example. The tails are heavy
    where it hardly does: take medians, not means.
  """

  def log_odds(params):
    logits = outputs(params, x)
    mine = jnp.arange(len(logits)) == label
    rest = jax.nn.logsumexp(jnp.where(mine, -jnp.inf, logits))
    return logits[label] - rest

  step = jax.grad(log_odds)(params)
  change = lambda v: jax.jvp(
    lambda p: outputs(p, v)[label], (params,), (step,)
  )[1]
  moved = change(x)
  usable = jnp.where(moved == 0, jnp.nan, moved)
  return jax.vmap(change)(others) / usable


def accumulate(
  outputs: Callable,
  params: Any,
  xs: jax.Array,
  labels: jax.Array,
  batches: jax.Array,
  others: jax.Array,
  *,
  num_classes: int,
  learning_rate: float,
  momentum: float = 0.0,
) -> tuple[Any, jax.Array]:
  """Trains by stochastic gradient descent, and books each class's influence.

  At every step the change of the outputs to first order, `J(x') (its part of
  the step)`, is added up for the examples of each class apart; momentum's
  velocity is a sum of such parts. Their total is the trained function's change
  but for what is of second order in the learning rate.

  Args:
    outputs: `(params, one input) -> logits [k]`.
    params: to start from.
    xs, labels: to train on `[n, ...]`, `[n]`.
    batches: rows of each step `[steps, b]`.
    others: inputs `[m, ...]` whose outputs are followed.
    num_classes: of labels.
    learning_rate, momentum: of the steps.

  Returns:
    `(params, booked [num_classes, m, k])`.
  """
  many = jax.vmap(outputs, in_axes=(None, 0))
  classes = jnp.arange(num_classes)

  def step(carry, rows):
    params, velocity, booked = carry
    x, label = xs[rows], labels[rows]
    share = lambda c: _descent(outputs, params, x, label, label == c)
    parts = jax.vmap(share)(classes)
    velocity = jax.tree.map(lambda v, p: momentum * v + p, velocity, parts)
    move = lambda v: jax.tree.map(lambda leaf: learning_rate * leaf, v)
    effect = lambda v: jax.jvp(lambda p: many(p, others), (params,), (v,))[1]
    booked = booked + jax.vmap(lambda v: effect(move(v)))(velocity)
    whole = jax.tree.map(lambda v: v.sum(0), move(velocity))
    return (optax.apply_updates(params, whole), velocity, booked), None

  still = jax.tree.map(lambda p: jnp.zeros((num_classes, *p.shape)), params)
  shape = jax.eval_shape(many, params, others).shape
  first = params, still, jnp.zeros((num_classes, *shape))
  (params, _, booked), _ = jax.lax.scan(step, first, batches)
  return params, booked


def _descent(outputs, params, xs, labels, weights=None):
  """Minus the gradient of the cross-entropy, over the number of examples."""
  weights = jnp.ones(len(xs)) if weights is None else weights

  def loss(params):
    logits = jax.vmap(outputs, in_axes=(None, 0))(params, xs)
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(
      logits, labels
    )
    return -jnp.sum(weights * losses) / len(xs)

  return jax.grad(loss)(params)


def linear_ratios(sources: np.ndarray, others: np.ndarray) -> np.ndarray:
  """Returns meeting ratios in a linear network with biases `[m, n]`.

  Args:
    sources: inputs of the steps `[m, ...]`.
    others: inputs that are carried along `[n, ...]`.
  """
  sources, others = (v.reshape(len(v), -1) for v in (sources, others))
  own = np.sum(sources**2, axis=1, keepdims=True)
  return (sources @ others.T + 1) / (own + 1)


def ratio_statistics(
  ratios: np.ndarray, labels: np.ndarray, theirs: np.ndarray
) -> dict[str, np.floating]:
  """Returns medians of meeting ratios, and how many sources lead.

  same, other: the median over sources of the median at inputs of the source's
  class, and at the rest; gap: the median difference of the two; leads: the
  share of sources with a positive one.

  Args:
    ratios: `[m, n]`; those that are not finite do not count, nor do sources
      without any at inputs of their class, or at others.
    labels: of the sources `[m]`.
    theirs: of the inputs that are carried along `[n]`.
  """
  mine = labels[:, None] == theirs
  parts = [
    np.where(of & np.isfinite(ratios), ratios, np.nan).astype(float)
    for of in (mine, ~mine)
  ]
  usable = np.all([np.isfinite(part).any(1) for part in parts], axis=0)
  same, other = (np.nanmedian(part[usable], axis=1) for part in parts)
  return {
    'same': np.median(same),
    'other': np.median(other),
    'gap': np.median(same - other),
    'leads': np.mean(same > other),
  }


def sum_statistics(
  start: np.ndarray, end: np.ndarray, parts: np.ndarray, labels: np.ndarray
) -> dict[str, np.floating]:
  """Returns what influence that was added up says of training.

  explained: share of the variance of the logits' change that it explains;
  ratio: the mean change of a logit by examples of its class, at inputs of the
  class over that at others; accuracy: of the network at the end;
  by_influence: of its start and added-up influence.

  Args:
    start, end: logits of n inputs before and after `[n, k]`.
    parts: what examples of each class did to them `[k, n, k]`, as of
      `accumulate`.
    labels: of the inputs `[n]`.
  """
  change, total = end - start, parts.sum(axis=0)
  error = np.sum((change - total) ** 2)
  classes = np.arange(len(parts))
  own = parts[classes, :, classes]  # What class c did to logit c.
  mine = classes[:, None] == labels
  return {
    'explained': 1 - error / np.sum((change - change.mean(0)) ** 2),
    'ratio': own[mine].mean() / own[~mine].mean(),
    'accuracy': np.mean(end.argmax(1) == labels),
    'by_influence': np.mean((start + total).argmax(1) == labels),
  }
