"""What the training loop costs, beside a bare step and Flax's MNIST example.

  python -m benchmarks.training

All sides in one run, in turns, the same module, optimizer and size of batch, of
MNIST's shape (random: times do not depend on it); milliseconds a step, the
fastest of --repeats passes. `bare` is one jitted step on a batch that is
already on the device, again and again; `flax example` the loop of Flax's MNIST
example: batches indexed on the host, gradients and update in two jitted calls,
losses kept; `fit` is `train.fit`.
"""

from absl import app
from absl import flags
from flax.training import train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from dmm_jax import models
from dmm_jax import train

_EXAMPLES = flags.DEFINE_integer('examples', 6400, 'Examples of one pass.')
_BATCH = flags.DEFINE_integer('batch', 128, 'Examples a step.')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'Passes that are timed.')
MODELS = {'mlp': models.MLP(), 'cnn': models.CNN()}


def cross_entropy(logits, labels):
  losses = optax.losses.softmax_cross_entropy_with_integer_labels(
    logits, labels
  )
  return losses.mean()


def sides(module, xs, labels, batch):
  """One pass of each, `{name: function}`; each returns parameters."""
  config = train.TrainConfig(num_epochs=1, batch_size=batch)
  optimizer = train.make_optimizer(config, len(xs))
  begin = train.init_state(jax.random.key(0), module, xs[0], optimizer)
  forward = train.flax_forward(module)
  logits = lambda params, xs: jax.vmap(
    lambda x: module.apply({'params': params}, x)[0]
  )(xs)
  loss = lambda params, xs, labels: cross_entropy(logits(params, xs), labels)
  num = len(xs) // batch

  @jax.jit
  def step(params, inner, xs, labels):
    slope = jax.grad(loss)(params, xs, labels)
    change, inner = optimizer.update(slope, inner, params)
    return optax.apply_updates(params, change), inner

  first = jnp.asarray(xs[:batch]), jnp.asarray(labels[:batch])

  def bare():
    params, inner = begin.params, begin.optimizer
    for _ in range(num):
      params, inner = step(params, inner, *first)
    return params

  @jax.jit
  def gradients(state, xs, labels):
    def objective(params):
      out = logits(params, xs)
      return cross_entropy(out, labels), out

    (value, out), slope = jax.value_and_grad(objective, has_aux=True)(
      state.params
    )
    return slope, value, jnp.mean(jnp.argmax(out, -1) == labels)

  update = jax.jit(lambda state, slope: state.apply_gradients(grads=slope))

  def example():
    state = train_state.TrainState.create(
      apply_fn=module.apply, params=begin.params, tx=optimizer
    )
    order = jax.random.permutation(jax.random.key(1), len(xs))
    losses, accuracies = [], []
    for rows in np.asarray(order)[: num * batch].reshape(num, batch):
      slope, value, accuracy = gradients(state, xs[rows], labels[rows])
      state = update(state, slope)
      losses.append(value)
      accuracies.append(accuracy)
    return state.params, np.mean(losses), np.mean(accuracies)

  def fit():
    *_, last = train.fit(
      jax.random.key(1), forward, begin, xs, labels, config=config
    )
    return last.state.params

  return {'bare': bare, 'flax example': example, 'fit': fit}


def main(argv):
  del argv
  rng = np.random.default_rng(0)
  xs = rng.random((_EXAMPLES.value, 28, 28, 1), np.float32)
  labels = rng.integers(0, 10, len(xs)).astype(np.int32)
  steps = len(xs) // _BATCH.value
  for name, module in MODELS.items():
    found = timing.best_times(
      sides(module, xs, labels, _BATCH.value), _REPEATS.value
    )
    text = ', '.join(f'{k} {v / steps * 1e3:.2f} ms' for k, v in found.items())
    print(
      f'{name}: {text}; fit / bare {found["fit"] / found["bare"]:.2f}, '
      f'flax example / fit {found["flax example"] / found["fit"]:.2f}'
    )


if __name__ == '__main__':
  app.run(main)
