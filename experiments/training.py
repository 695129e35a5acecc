"""What the training experiments share: flags, data, the loop, checkpoints."""

from collections.abc import Callable
import dataclasses
import pathlib
import sys

import jax
import numpy as np
import tqdm

from dmm_jax import checkpoints
from dmm_jax import data
from dmm_jax import records
from dmm_jax import train
from experiments import networks
from experiments.lib import flags

COLUMNS = {
  'step': ('', 'steps taken'),
  'epoch': ('', 'passes over the training set finished'),
  'loss': ('', 'mean over the steps since the last row; NaN before the first'),
  'parameters': ('', 'of the network'),
}


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.preset()
  workdir: str = flags.workdir('runs/training')
  seed: int = flags.seed()
  dataset: str = flags.dataset()
  data_dir: str = flags.data_dir()
  num_train: int = flags.num_train()
  num_test: int = flags.flag(
    0, 'Test images, the first ones; 0 is all.', least=0
  )
  batch_norm: str = flags.flag(
    'own',
    "Batch normalisation: true, false, or own, the model's default.",
    choices=('own', 'true', 'false'),
  )
  dtype: str = flags.flag(
    'float32',
    'Type that layers compute in; parameters are float32.',
    choices=('float32', 'bfloat16'),
  )
  optimizer: str = flags.flag(
    'adam', 'Optimizer.', choices=('sgd', 'momentum', 'adam', 'adamw')
  )
  learning_rate: float = flags.flag(
    1e-3, 'Learning rate, after the warm-up.', least=0
  )
  schedule: str = flags.flag(
    'cosine',
    'How the learning rate falls.',
    choices=('constant', 'cosine', 'steps'),
  )
  warmup: float = flags.flag(
    0.0, 'Share of all steps in which the learning rate rises.', least=0, most=1
  )
  weight_decay: float = flags.flag(
    0.0, 'Weight decay; decoupled for adamw.', least=0
  )
  batch_size: int = flags.flag(128, 'Examples a step.', least=1)
  epochs: int = flags.flag(40, 'Passes over the training set.', least=1)
  crop: int = flags.flag(
    0, 'Largest random shift of training images, pixels.', least=0
  )
  flip: bool = flags.flag(False, 'Mirror training images at random.')
  snapshots: bool = flags.flag(
    True, 'Keep checkpoints of log-spaced steps, not of the last two alone.'
  )


def load(
  config: Config, *, in_memory: bool = True
) -> dict[str, tuple[np.ndarray | data.Column, np.ndarray]]:
  """Returns images and labels by split, train and test, the first ones."""
  sets = {}
  for split, most in (('train', config.num_train), ('test', config.num_test)):
    xs, labels = data.load(
      config.dataset, split, config.data_dir or None, in_memory=in_memory
    )
    sets[split] = xs[: most or None], labels[: most or None]
  return sets


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
  """Returns those of a module that every model may have; None for its own."""
  normed = {'own': None, 'true': True, 'false': False}[config.batch_norm]
  dtype = None if config.dtype == 'float32' else config.dtype
  return dict(batch_norm=normed, dtype=dtype)


def fit(
  config: Config,
  description: dict,
  plan: train.TrainConfig,
  xs,
  targets,
  evaluate: Callable[[train.Forward, train.State], dict],
) -> dict[str, np.ndarray]:
  """Trains, from the last checkpoint in the run directory if there is one.

  metrics.jsonl has a line for every pause: log-spaced steps and the ends of
  epochs. Checkpoints of every pause are written, of which the last two stay
  and, with --snapshots, those of log-spaced steps.

  Args:
    config: flags.
    description: rebuilds the network; see `networks`.
    plan: how to train.
    xs, targets: to train on.
    evaluate: numbers to measure after each epoch.

  Returns:
    Columns, one row a pause: `COLUMNS` and those of `evaluate`, which are NaN
    within an epoch.
  """
  run_dir = pathlib.Path(config.workdir)
  module = networks.build(description)
  optimizer = train.make_optimizer(plan, len(xs))
  weights, order = jax.random.split(jax.random.key(config.seed))
  state = train.init_state(weights, module, xs[0], optimizer)
  size = networks.size(state.params)
  forward = train.flax_forward(module)
  per_epoch = train.steps_per_epoch(plan, len(xs))
  pauses = tuple(train.log_spaced(config.epochs * per_epoch))
  ends = range(per_epoch, config.epochs * per_epoch + 1, per_epoch)
  state, since, rows = _resume(run_dir, state, {*pauses, *ends})
  first = max(since, 0)
  keep = pauses if config.snapshots else ()
  with (
    tqdm.tqdm(
      total=config.epochs, initial=first // per_epoch, unit='epoch'
    ) as bar,
    checkpoints.writer(
      run_dir / 'checkpoints', description, keep=keep, since=since
    ) as save,
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
      if pause.step in ends:
        row |= evaluate(forward, pause.state)
        bar.update(pause.epoch - bar.n)
        bar.set_postfix({k: f'{v:.4g}' for k, v in row.items() if k != 'step'})
      records.log(run_dir, **row)
      rows.append(row)
      save(pause.step, pause.state)
  # The last pause is the end of an epoch, and has all columns.
  columns = {
    name: np.array([row.get(name, np.nan) for row in rows]) for name in rows[-1]
  }
  return columns | {'parameters': np.full(len(rows), size)}


def _resume(run_dir, state, pauses):
  """Returns where a run goes on: `(state, step, rows of the log up to it)`.

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
  last = records.sync_min(last)
  if last >= 0:
    state = checkpoints.read(folder, state, last).state
  return state, last, [row for row in rows if row['step'] <= last]
