"""Runs that were killed: what a finished one leaves to start again from."""

import shutil

import pytest

from dmm_jax import plots
from dmm_jax import records
from dmm_jax.plots import canvas


def draw_quickly(patch):
  """Leaves empty figures; other tests look at what is drawn."""

  def save(figure, stem):
    stem.parent.mkdir(exist_ok=True)
    paths = [stem.with_name(f'{stem.name}.{v}') for v in ('png', 'pdf')]
    for path in paths:
      path.touch()
    return paths[0]

  patch.setattr(canvas, 'save', save)
  patch.setattr(plots, 'save', save)


def leave_out_tables(patch, experiment):
  """Leaves the claims alone of reports, for many of made-up results."""
  for name in vars(experiment):
    if name == 'answer' or name.endswith('_table'):
      patch.setattr(experiment, name, lambda *_: None)


def run_keeping_chunks(run, config, directory):
  """Runs an experiment, `(run directory, its result, copy of its chunks)`.

  Args:
    run: of an experiment's module.
    config: `run_dir -> config`.
    directory: an empty one.
  """
  run_dir, kept = directory / 'whole', directory / 'kept'
  finish = records.finish_run

  def keep(run_dir, **more):
    shutil.copytree(run_dir / 'chunks', kept)
    finish(run_dir, **more)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(records, 'finish_run', keep)
    draw_quickly(patch)
    result = run(config(run_dir))
  return run_dir, result, kept


def assert_same_bytes(run, config, finished, directory, *, lost):
  """A run of `experiments.lib.runner` that lost units ends as the whole one.

  Args:
    run: of an `Experiment`.
    config: as for `run_keeping_chunks`.
    finished: what that returned.
    directory: for the broken run.
    lost: names of the units that were not finished; '*' for all.

  Returns:
    The names of the units that were measured again.
  """
  whole, _, chunks = finished
  broken = directory / 'broken'
  shutil.copytree(chunks, broken / 'chunks')
  flags = (whole / 'flags.txt').read_text()
  (broken / 'flags.txt').write_text(flags.replace(str(whole), str(broken)))
  for name in lost:
    paths = list((broken / 'chunks').glob(f'{name}.npz'))
    assert paths, f'there is no unit {name}'
    for path in paths:
      path.unlink()
  # Figures are those of the whole run.
  run.__self__._replace(draw=lambda *_: {}).run(config(broken))
  written = [*whole.glob('*.npz'), whole / 'columns.json']
  for path in [*written, whole / 'report.json']:
    same = (broken / path.name).read_bytes() == path.read_bytes()
    assert same, f'{path.name} differs'
  return {row['unit'] for row in records.read_log(broken) if 'unit' in row}
