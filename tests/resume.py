"""Runs that were killed: what a finished one leaves to start again from."""

import shutil

import pytest

from dmm_jax import records
from dmm_jax.plots import canvas
from experiments import common


def draw_quickly(patch):
  """Leaves empty figures; `test_plots_*` look at what is drawn."""

  def save(figure, stem):
    stem.parent.mkdir(exist_ok=True)
    paths = [stem.with_name(f'{stem.name}.{v}') for v in ('png', 'pdf')]
    for path in paths:
      path.touch()
    return paths[0]

  patch.setattr(canvas, 'save', save)


def run_keeping_chunks(run, config, directory):
  """Runs an experiment, `(run directory, summary, copy of its chunks)`.

  Args:
    run: of an experiment's module.
    config: `run_dir -> config`.
    directory: an empty one.
  """
  run_dir, kept = directory / 'whole', directory / 'kept'
  finish = records.finish_run

  def keep(run_dir):
    shutil.copytree(run_dir / 'chunks', kept)
    finish(run_dir)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(records, 'finish_run', keep)
    draw_quickly(patch)
    summary = run(config(run_dir))
  return run_dir, summary, kept


def assert_goes_on(run, config, finished, directory, *, lost, kept, same):
  """A run killed before it wrote a chunk ends as the unbroken one did.

  Args:
    run, config: as for `run_keeping_chunks`.
    finished: what that returned.
    directory: for the broken run.
    lost: the chunk that is missing.
    kept: files besides chunks that were there.
    same: files whose bytes have to agree.
  """
  whole, _, chunks = finished
  broken = directory / 'broken'
  broken.mkdir()
  flags = (whole / 'flags.txt').read_text()
  (broken / 'flags.txt').write_text(flags.replace(str(whole), str(broken)))
  for name in kept:
    shutil.copy(whole / name, broken)
  shutil.copytree(chunks, broken / 'chunks')
  (broken / 'chunks' / f'{lost}.npz').unlink()
  conduct = common.conduct
  with pytest.MonkeyPatch.context() as patch:
    # Figures are drawn from the same files.
    patch.setattr(
      common,
      'conduct',
      lambda *args, **options: conduct(
        *args, **options | {'draw': lambda run_dir: []}
      ),
    )
    run(config(broken))
  for name in same:
    assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
