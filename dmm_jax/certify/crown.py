"""Certified lower bounds of the distance, by linear relaxation (CROWN)."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from dmm_jax import norms
from dmm_jax import parallel
from dmm_jax.certify import layers as layers_lib
from dmm_jax.certify import regions
from dmm_jax.certify import relaxation

RTOL = 1e-7  # Width of the last bracket of a radius, relative to it.


class Bracket(NamedTuple):
  """A certified radius, one that is not, or not yet tried, and their leads."""

  low: jax.Array
  lead_low: jax.Array
  high: jax.Array
  lead_high: jax.Array
  closed: jax.Array  # Whether `high` was tried, and failed.
  rounds: jax.Array


def _largest_radius(lead_fn, lead, start, cap):
  """Returns the largest certified radius up to `cap`, within `RTOL`.

  Regula falsi (the Illinois rule), with a bisection every third round. Every
  radius returned was itself seen to be certified: that needs no monotony.

  Args:
    lead_fn: radius -> lower bound of the lead.
    lead: its value at 0.
    start: the first radius tried.
    cap: no radius beyond it is tried.
  """

  def searching(s):
    wide = s.high - s.low > RTOL * s.high
    going = (s.lead_low > 0) & (s.rounds < 100) & (s.low < cap)
    return going & (wide | ~s.closed)

  def step(s):
    share = s.lead_low / (s.lead_low - s.lead_high)
    usable = jnp.isfinite(share) & (s.rounds % 3 != 2)
    share = jnp.where(usable, jnp.clip(share, 0.0, 1.0), 0.5)
    inside = s.low + share * (s.high - s.low)
    radius = jnp.where(s.closed, inside, s.high)
    new = lead_fn(radius)
    safe = new > 0
    beyond = jnp.where(s.closed, s.high, jnp.minimum(8 * radius, cap))
    # The end that stays counts half, so that it moves in its turn.
    return Bracket(
      jnp.where(safe, radius, s.low),
      jnp.where(safe, new, s.lead_low / 2),
      jnp.where(safe, beyond, radius),
      jnp.where(safe, s.lead_high / 2, new),
      s.closed | ~safe,
      s.rounds + 1,
    )

  zero = jnp.zeros_like(start)
  first = Bracket(zero, lead, jnp.minimum(start, cap), zero, zero > 0, zero)
  return jax.lax.while_loop(searching, step, first).low


def _ascend(leads_fn, radius, cap, slopes, num_steps):
  """Improves the slopes, while the radius follows the bound's root.

  Returns the slopes and the last radius, which need not be certified.
  """
  optimizer = optax.adam(optax.cosine_decay_schedule(0.3, num_steps))

  def loss(slopes, radius):
    leads = leads_fn(radius, slopes)
    finite = jnp.isfinite(leads)
    # Every class near the nearest counts: else the steps alternate.
    fixed = jax.lax.stop_gradient(leads)
    spread = 0.1 * jnp.mean(jnp.abs(fixed), where=finite) + 1e-300
    weight = jax.nn.softmax(-fixed / spread)
    mean = jnp.sum(jnp.where(finite, weight * leads, 0.0))
    return -mean, jnp.min(leads)

  def step(_, state):
    slopes, moments, radius = state
    grad_fn = jax.grad(loss, argnums=(0, 1), has_aux=True)
    (descent, rate), lead = grad_fn(slopes, radius)
    update, moments = optimizer.update(descent, moments)
    add = lambda s, u: jnp.clip(s + u, 0.0, 1.0)
    slopes = jax.tree.map(add, slopes, update)
    newton = radius + lead / jnp.where(rate > 0, rate, jnp.inf)
    radius = jnp.clip(newton, 0.8 * radius, jnp.minimum(1.2 * radius, cap))
    return slopes, moments, radius

  state = slopes, optimizer.init(slopes), radius
  slopes, _, radius = jax.lax.fori_loop(0, num_steps, step, state)
  return slopes, radius


def _distance(x, label, classes, layers, low, high, norm, *, num_steps):
  """The certified distance of one input from the `classes` (a mask `[k]`)."""
  down, up = x - low, high - x
  cap = norms.norm(jnp.maximum(down, up), norm)  # The ball then holds the box.
  boxed = jnp.isfinite(cap)
  cap = jnp.where(boxed, cap, 1e60)
  region = lambda radius: regions.Region(x, down, up, radius)
  logits = layers_lib.logits(layers, x)
  lead = jnp.min(jnp.where(classes, logits[label] - logits, jnp.inf))

  def leads(radius, slopes):
    bound, _ = relaxation.leads(layers, label, region(radius), slopes, norm)
    return jnp.where(classes, bound, jnp.inf)

  def search(slopes, start):
    lead_fn = lambda radius: jnp.min(leads(radius, slopes))
    return _largest_radius(lead_fn, lead, start, cap)

  best = search(relaxation.adaptive(layers), 0.01 * (1.0 + jnp.max(jnp.abs(x))))
  if num_steps:
    _, lines = relaxation.neurons(
      layers, region(best), relaxation.adaptive(layers), norm
    )
    slopes = relaxation.free_slopes(layers, lines)
    slopes, radius = _ascend(leads, best, cap, slopes, num_steps)
    best = jnp.maximum(best, search(slopes, radius))
  return jnp.where(boxed & (best >= cap), jnp.inf, best)


@functools.cache
def _solver(num_steps):
  """One function object for equal options, so that `jit` finds it again."""
  return functools.partial(_distance, num_steps=num_steps)


def lower_bounds(
  layers: layers_lib.Layers,
  xs: ArrayLike,
  labels: ArrayLike,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  num_steps: int = 20,
  batch_size: int = 64,
  progress: bool = False,
) -> np.ndarray:
  """Returns certified lower bounds of examples' distances from the boundary.

  No input nearer than this has another class. The bound is that of the network
  with these weights in exact arithmetic, computed in float64; it does not speak
  of a network that is run in float32, whose logits move by their rounding.

  Each radius is tried by CROWN: the margin, and before it the input of every
  ReLU, is bounded by a linear function of the network's input, whose minimum
  over the ball within the box is known. The tightness falls with depth and
  width: expect 0.7 to 0.9 of the distance for three layers trained without
  regularisation, and little for deep networks. Memory and time grow with the
  square of the widths: two layers' widths times 16 bytes is the largest array
  of one example, that of convolutions included.

  Sources: Zhang et al. (2018), "Efficient neural network robustness
  certification with general activation functions",
  https://arxiv.org/abs/1811.00866; and for the ascent of slopes Xu et al.
  (2021), https://arxiv.org/abs/2011.13824. Deviations: minima over ball and
  box together; slopes of wide layers are shared by all their rows.

  Args:
    layers: `[(W [in, out], b [out]), ...]`, a ReLU between each two; see
      `dense_from_convolution`.
    xs: inputs `[n, ...]`, flattened in C order.
    labels: `[n]` integers.
    norm: 1, 2 or inf.
    bounds: None, or `(low, high)`, numbers or arrays as one input: the box that
      perturbed inputs stay in.
    num_steps: of gradient ascent on the slopes; 0 for plain CROWN, which is 3
      to 10 times faster and about 1 % of the distance less.
    batch_size: examples a step.
    progress: whether to show a progress bar.

  Returns:
    float64 `[n]`, input units. 0 where already misclassified or tied, inf where
    the box is proven to hold no boundary, and more than 1e50 in place of inf
    where there is no box.

  Raises:
    ValueError: for an unsupported norm, layers or inputs that do not fit.
  """
  norms.check(norm)
  layers = layers_lib.check(layers)
  xs, labels, low, high = layers_lib.check_examples(layers, xs, labels, bounds)
  classes = np.arange(len(layers[-1][1]))[None] != labels[:, None]
  return _run(
    (xs, labels, classes),
    (layers, low, high),
    norm=norm,
    num_steps=num_steps,
    batch_size=batch_size,
    progress='certified distances' if progress else None,
  )


def _run(columns, shared, *, norm, num_steps, **options):
  with jax.enable_x64(True):
    solver = _solver(num_steps if len(shared[0]) > 1 else 0)
    shared = (*shared, np.float64(norm))
    return parallel.map_examples(solver, columns, shared=shared, **options)


def lower_bound(
  layers: layers_lib.Layers,
  x: np.ndarray,
  label: int,
  *,
  norm: float = 2,
  bounds: tuple | None = None,
  num_steps: int = 20,
) -> float:
  """Returns a certified lower bound of one input's distance; inf, 0 likewise.

  As `lower_bounds`, which see, for one input `x` and its class.
  """
  xs, labels = np.asarray(x)[None], np.asarray(label)[None]
  found = lower_bounds(
    layers, xs, labels, norm=norm, bounds=bounds, num_steps=num_steps
  )
  return float(found[0])


def class_bounds(
  layers: layers_lib.Layers,
  x: np.ndarray,
  label: int,
  low: np.ndarray,
  high: np.ndarray,
  *,
  norm: float,
) -> np.ndarray:
  """Returns a certified distance from each class, `[k]`; inf for the label.

  Args:
    layers: as `layers.check` returns them.
    x: flat input `[n]`.
    label: its class.
    low, high: the box `[n]`.
    norm: 1, 2 or inf.
  """
  num = len(layers[-1][1])
  others = np.delete(np.arange(num), label)
  classes = np.eye(num, dtype=bool)[others]
  columns = np.tile(x, (num - 1, 1)), np.full(num - 1, label, np.int32), classes
  found = _run(columns, (layers, low, high), norm=norm, num_steps=0)
  return np.insert(found, label, np.inf)


def neuron_bounds(
  layers: layers_lib.Layers,
  x: np.ndarray,
  radius: float,
  low: np.ndarray,
  high: np.ndarray,
  *,
  norm: float,
) -> list:
  """Returns `[(low, high), ...]` of the values before every ReLU.

  For all inputs within `radius` of `x` and in the box; arguments as of
  `class_bounds`.
  """
  with jax.enable_x64(True):
    box = map(jnp.asarray, (x, x - low, high - x, np.float64(radius)))
    region = regions.Region(*box)
    found = _jitted_neurons(layers, region, np.float64(norm))
    return jax.tree.map(np.asarray, found)


@jax.jit
def _jitted_neurons(layers, region, norm):
  return relaxation.neurons(layers, region, relaxation.adaptive(layers), norm)[
    0
  ]
