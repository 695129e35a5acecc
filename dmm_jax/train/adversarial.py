"""Adversarial training: the loss of an example where it is largest nearby."""

from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmm_jax import _xla_cpu
from dmm_jax import norms


class Adversary(NamedTuple):
  """How examples are perturbed in training.

  Attributes:
    radius: of the ball, in input units.
    norm: of the ball, 2 or inf.
    num_steps: of projected gradient ascent, at least 1.
    step_size: length of a step as a fraction of the radius; None for
      2.5 / num_steps.
    trades: 0 to train on perturbed examples alone (Madry et al. 2018,
      https://arxiv.org/abs/1706.06083); else on clean ones, and this many times
      the divergence of the perturbed prediction from the clean one (Zhang et
      al. 2019, https://arxiv.org/abs/1901.08573).
    low, high: range of the inputs, -inf and inf for none.
  """

  radius: float
  norm: float = 2
  num_steps: int = 10
  step_size: float | None = None
  trades: float = 0.0
  low: float = 0.0
  high: float = 1.0


def check(adversary: Adversary) -> None:
  """Raises ValueError where a value of an adversary is none that works.

  Values that JAX traces are not checked.
  """
  if adversary.norm not in (2, np.inf):
    raise ValueError(
      f'norm of an adversary must be 2 or inf, got {adversary.norm!r}'
    )
  if isinstance(adversary.num_steps, bool) or adversary.num_steps < 1:
    raise ValueError(
      'num_steps of an adversary must be at least 1, got '
      f'{adversary.num_steps!r}'
    )
  for name in ('radius', 'step_size', 'trades'):
    value = getattr(adversary, name)
    known = value is not None and not isinstance(value, jax.core.Tracer)
    if known and not 0 <= value < np.inf:
      raise ValueError(
        f'{name} of an adversary must be finite and not negative, got {value!r}'
      )
  ends = adversary.low, adversary.high
  traced = any(isinstance(v, jax.core.Tracer) for v in ends)
  if not traced and not ends[0] < ends[1]:
    raise ValueError(
      f'low of an adversary must be below high, got {ends[0]!r} and {ends[1]!r}'
    )


def perturb(
  key: jax.Array,
  loss: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  adversary: Adversary,
) -> jax.Array:
  """Increases a loss within a ball and the range of inputs.

  Takes projected gradient steps along the steepest direction of the norm, from
  a random point of the ball, and returns the last point, not the best.

  Args:
    key: of the first point.
    loss: input -> scalar.
    x: the input. Numbers of it outside of the adversary's range may move
      towards the range alone.
    adversary: which ball, and how many steps.

  Returns:
    As `x`: within the ball to rounding, whatever `x` is, and within the range
    where `x` is. Where the gradient is zero, steps are zero.

  Raises:
    ValueError: for a norm, radius or number of steps that is none.
  """
  check(adversary)
  norm, radius = adversary.norm, adversary.radius
  fraction = adversary.step_size
  if fraction is None:
    fraction = 2.5 / adversary.num_steps
  size = radius * fraction
  # The projection needs a start within the range.
  bounds = (
    jnp.minimum(adversary.low - x, 0.0),
    jnp.maximum(adversary.high - x, 0.0),
  )
  inside = lambda v: norms.project_ball(v, radius, *bounds, norm=norm)

  slope = _xla_cpu.channels_last_gradients(jax.grad(loss))

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


def attack(
  key: jax.Array,
  logits_fn: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  label: jax.Array,
  adversary: Adversary,
) -> jax.Array:
  """Increases the cross-entropy of a label; see `perturb`.

  Args:
    key, x, adversary: as for `perturb`.
    logits_fn: input -> logits `[k]`.
    label: the class that is left, an integer.
  """
  of_label = lambda v: optax.losses.softmax_cross_entropy_with_integer_labels(
    logits_fn(v), label
  )
  return perturb(key, of_label, x, adversary)


def loss(
  key: jax.Array,
  outputs: Callable[[jax.Array], tuple[Any, Any]],
  plain: Callable[[jax.Array], Any],
  loss_fn: Callable,
  x: jax.Array,
  target: jax.Array,
  adversary: Adversary,
) -> tuple[jax.Array, Any]:
  """Returns the loss to train on, and the network's new other variables.

  Args:
    key: of the perturbation.
    outputs: input -> `(outputs, other variables)`, to be differentiated.
    plain: input -> outputs of the network in inference mode, for the search;
      its parameters are constants.
    loss_fn: `(outputs, target) -> scalar`.
    x, target: the example.
    adversary: how the example is perturbed.
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
  """Returns KL(p || softmax(logits)), in nats."""
  log_q = jax.nn.log_softmax(logits)
  return optax.losses.kl_divergence_with_log_targets(log_q, log_p)
