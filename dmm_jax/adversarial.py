"""Adversarial training: the loss of an example at its worst neighbour."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dmm_jax import convolutions
from dmm_jax import norms


class Adversary(NamedTuple):
  """How examples are perturbed in training.

  Attributes:
    radius: of the ball, input units.
    norm: 2 or inf.
    num_steps: of projected gradient ascent.
    step_size: of each, as a fraction of the radius; None for 2.5 / num_steps.
    trades: 0 to train on perturbed examples alone (Madry et al. 2018,
      https://arxiv.org/abs/1706.06083); else on clean ones, and this many times
      the divergence of the perturbed prediction from the clean one (Zhang et
      al. 2019, https://arxiv.org/abs/1901.08573).
    low, high: range of the inputs.
  """

  radius: float
  norm: float = 2
  num_steps: int = 10
  step_size: float | None = None
  trades: float = 0.0
  low: float = 0.0
  high: float = 1.0


def perturb(
  key: jax.Array,
  loss: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  adversary: Adversary,
) -> jax.Array:
  """Climbs a loss within a ball and the range of inputs.

  Projected gradient ascent along the steepest direction of the norm, from a
  random point of the ball. It returns the last point, not the best.

  Args:
    key: of the first point.
    loss: input -> scalar.
    x: the input.
    adversary: which ball, how many steps.

  Returns:
    As `x`: within the ball to rounding. Where the gradient is zero it stays.
  """
  norm, radius = adversary.norm, adversary.radius
  if norm not in (2, jnp.inf):
    raise ValueError(f'adversarial training is for norm 2 or inf, got {norm!r}')
  share = adversary.step_size
  size = radius * (2.5 / adversary.num_steps if share is None else share)
  bounds = adversary.low - x, adversary.high - x
  inside = lambda v: norms.project_ball(v, radius, *bounds, norm=norm)

  slope = convolutions.in_order(jax.grad(loss))

  def climb(_, step):
    gradient = slope(x + step)
    length = norms.norm(gradient, 2)
    unit = gradient / jnp.where(length > 0, length, 1.0)
    ahead = unit if norm == 2 else jnp.sign(gradient)
    return inside(step + size * ahead)

  if norm == 2:
    noise = jax.random.ball(key, x.size, dtype=x.dtype).reshape(x.shape)
  else:
    noise = jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
  first = inside(radius * noise)
  return x + jax.lax.fori_loop(0, adversary.num_steps, climb, first)


def loss(
  key: jax.Array,
  outputs: Callable[[jax.Array], tuple[Any, Any]],
  plain: Callable[[jax.Array], Any],
  loss_fn: Callable,
  x: jax.Array,
  target: jax.Array,
  adversary: Adversary,
) -> tuple[jax.Array, Any]:
  """The loss to train on, and the network's new other variables.

  Args:
    key: of the perturbation.
    outputs: input -> `(outputs, other variables)`, to be differentiated.
    plain: input -> outputs of the network in inference mode, which the
      perturbation is found on; its parameters are constants.
    loss_fn: `(outputs, target) -> scalar`.
    x, target: the example.
    adversary: how it is perturbed.
  """
  if not adversary.trades:
    worst = perturb(key, lambda v: loss_fn(plain(v), target), x, adversary)
    out, new = outputs(jax.lax.stop_gradient(worst))
    return loss_fn(out, target), new
  clean = jax.nn.log_softmax(plain(x)[0])
  worst = perturb(key, lambda v: _divergence(clean, plain(v)[0]), x, adversary)
  out, new = outputs(x)
  moved, _ = outputs(jax.lax.stop_gradient(worst))
  apart = _divergence(jax.nn.log_softmax(out[0]), moved[0])
  return loss_fn(out, target) + adversary.trades * apart, new


def _divergence(log_p, logits):
  """Kullback and Leibler's, in nats, from `log_p` to the logits' softmax."""
  log_q = jax.nn.log_softmax(logits)
  return optax.losses.kl_divergence_with_log_targets(log_q, log_p)
