"""What the training experiments share: flags, the loop, checkpoints."""

from collections.abc import Callable
import dataclasses
import sys

import jax
import numpy as np
import tqdm

from dmm_jax import checkpoints
from dmm_jax import records
from dmm_jax import train
from experiments import networks
from experiments.lib import flags


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag(
    'default', 'Values for the flags that are not given; see above.'
  )
  workdir: str = flags.workdir('runs/training')
  seed: int = flags.flag(0, 'Of weights, order and noise.', least=0)
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.flag(0, 'Only the first so many; 0 for all.', least=0)
  num_test: int = flags.flag(0, 'Likewise, of the test set.', least=0)
  batch_norm: str = flags.flag(
    'own',
    "Whether there is; or the model's own default.",
    choices=('own', 'true', 'false'),
  )
  dtype: str = flags.flag(
    'float32',
    'That layers compute in; parameters are float32.',
    choices=('float32', 'bfloat16'),
  )
  optimizer: str = flags.flag(
    'adam', 'Optimizer.', choices=('sgd', 'momentum', 'adam', 'adamw')
  )
  learning_rate: float = flags.flag(1e-3, 'After the warm-up.', least=0)
  schedule: str = flags.flag(
    'cosine', 'Of the rate.', choices=('constant', 'cosine', 'steps')
  )
  warmup: float = flags.flag(0.0, 'Part of all steps.', least=0, most=1)
  weight_decay: float = flags.flag(0.0, 'Decoupled for adamw.', least=0)
  batch_size: int = flags.flag(128, 'Examples a step.', least=1)
  epochs: int = flags.flag(40, 'Passes over the training set.', least=1)
  crop: int = flags.flag(0, 'Pixels of random shifts.', least=0)
  flip: bool = flags.flag(False, 'Mirror images at random.')
  snapshots: bool = flags.flag(True, 'Keep checkpoints of chosen steps.')


def train_config(
  config: Config, loss: str, adversary=None
) -> train.TrainConfig:
  """Returns how to train, as the flags say."""
  other = {'adversary', 'num_epochs', 'loss'}
  same = {n: getattr(config, n) for n in set(train.TrainConfig._fields) - other}
  return train.TrainConfig(
    **same, loss=loss, num_epochs=config.epochs, adversary=adversary
  )


def attributes(config: Config) -> dict:
  """Those of a module that every model may have; None for its own."""
  normed = {'own': None, 'true': True, 'false': False}[config.batch_norm]
  dtype = None if config.dtype == 'float32' else config.dtype
  return dict(batch_norm=normed, dtype=dtype)


def run(
  config: Config,
  run_dir,
  description: dict,
  plan: train.TrainConfig,
  xs,
  targets,
  evaluate: Callable[[train.Forward, train.State], dict],
) -> tuple[train.State, dict[str, np.ndarray]]:
  """Trains, from the last checkpoint if there is one.

  metrics.jsonl has the loss at every pause. Checkpoints of every pause are
  written, of which the last two stay and, with --snapshots, those of log-spaced
  steps.

  Args:
    config, run_dir: flags, and where.
    description: rebuilds the network; see `networks`.
    plan: how to train.
    xs, targets: to train on.
    evaluate: numbers to add to the curves after each epoch.

  Returns:
    The last state, and the curves, columns of one row an epoch: results.npz,
    which the caller writes when all is done.
  """
  module = networks.build(description)
  optimizer = train.make_optimizer(plan, len(xs))
  weights, order = jax.random.split(jax.random.key(config.seed))
  state = train.init_state(weights, module, xs[0], optimizer)
  forward = train.flax_forward(module)
  per_epoch = train.steps_per_epoch(plan, len(xs))
  pauses = tuple(train.log_spaced(config.epochs * per_epoch))
  ends = range(per_epoch, config.epochs * per_epoch + 1, per_epoch)
  state, since, rows = _resume(run_dir, state, {*pauses, *ends})
  first = max(since, 0)
  done = first // per_epoch
  keep = pauses if config.snapshots else ()
  folder = run_dir / 'checkpoints'
  with (
    tqdm.tqdm(total=config.epochs, initial=done, unit='epoch') as bar,
    checkpoints.writer(folder, description, keep=keep, since=since) as save,
  ):
    for pause in train.fit(
      order,
      forward,
      state,
      xs,
      targets,
      config=plan,
      first_step=first,
      pause_steps=pauses,
    ):
      row = dict(step=pause.step, epoch=pause.epoch, loss=float(pause.loss))
      if pause.step and pause.step == pause.epoch * per_epoch:
        row |= evaluate(forward, pause.state)
        bar.update(pause.epoch - bar.n)
        bar.set_postfix({k: f'{v:.4g}' for k, v in row.items() if k != 'step'})
      records.log(run_dir, **row)
      rows.append(row)
      save(pause.step, pause.state)
      state = pause.state
  curves = [row for row in rows if len(row) == len(rows[-1])]
  columns = {name: np.array([row[name] for row in curves]) for name in rows[-1]}
  return state, columns


def _resume(run_dir, state, pauses):
  """Where a run goes on: `(state, step, rows of metrics up to it)`.

  From the last checkpoint such that it and all before it are whole, and their
  pauses are in the log; -1 for none.
  """
  rows = records.read_steps(run_dir)
  missing = min(pauses - {row['step'] for row in rows}, default=np.inf)
  folder, last = run_dir / 'checkpoints', -1
  for step in checkpoints.steps(folder):
    try:
      checkpoints.check(folder, step)
    except checkpoints.DamagedCheckpointError as error:
      print(f'note: {error}; going on from an earlier one', file=sys.stderr)
      break
    if step >= missing:
      break
    last = step
  last = records.agree(last)
  if last >= 0:
    state = checkpoints.read(folder, state, last).state
  return state, last, [row for row in rows if row['step'] <= last]
