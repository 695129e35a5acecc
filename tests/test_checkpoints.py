"""Checkpoints come back bit by bit, or say why not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmm_jax import checkpoints
from dmm_jax import train

PARAMS = {'a': jnp.arange(6.0).reshape(2, 3), 'b': {'c': jnp.ones(3)}}
STATE = train.State(PARAMS, {}, optax.adam(1e-3).init(PARAMS))
DESCRIPTION = {'model': 'mlp', 'widths': [3, 4]}


def scaled(factor):
  params = jax.tree.map(lambda v: factor * v, PARAMS)
  return STATE._replace(params=params)


def write(directory, steps=(0, 1, 2, 5, 7), keep=(1,)):
  with checkpoints.writer(directory, DESCRIPTION, keep=keep) as save:
    for step in steps:
      save(step, scaled(step))


def test_the_last_ones_and_the_kept_ones_stay(tmp_path):
  write(tmp_path / 'run')
  assert checkpoints.steps(tmp_path / 'run') == [1, 5, 7]
  for step in (1, 5, 7, None):
    found = checkpoints.read(tmp_path / 'run', STATE, step)
    assert found.step == (7 if step is None else step)
    assert found.description == DESCRIPTION
    want = scaled(found.step)
    assert jax.tree.structure(found.state) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found.state, want)


def test_without_a_pattern_it_comes_as_dicts(tmp_path):
  write(tmp_path, (3,))
  found = checkpoints.read(tmp_path)
  np.testing.assert_array_equal(
    found.state['params']['a'], scaled(3).params['a']
  )


def test_writing_goes_on_where_it_ended(tmp_path):
  write(tmp_path, (1, 2))
  write(tmp_path, (2, 3), keep=())
  assert checkpoints.steps(tmp_path) == [2, 3]
  assert checkpoints.read(tmp_path, STATE, 2).state.params['b']['c'][0] == 2


def test_what_is_not_there_is_named(tmp_path):
  assert checkpoints.steps(tmp_path / 'none') == []
  with pytest.raises(checkpoints.CheckpointError, match='no checkpoint in'):
    checkpoints.read(tmp_path / 'none')
  write(tmp_path, (1,))
  with pytest.raises(
    checkpoints.CheckpointError, match=r'of step 4.* those of'
  ):
    checkpoints.read(tmp_path, step=4)


def test_another_network_is_refused(tmp_path):
  write(tmp_path, (1,))
  other = STATE._replace(params={**PARAMS, 'a': jnp.zeros((3, 3))})
  with pytest.raises(
    checkpoints.CheckpointError,
    match=r'another network: params/a is \(2, 3\) there, \(3, 3\) here',
  ):
    checkpoints.read(tmp_path, other)
  more = STATE._replace(params={**PARAMS, 'd': jnp.zeros(3)})
  with pytest.raises(checkpoints.CheckpointError, match='params/d is absent'):
    checkpoints.read(tmp_path, more)


def test_a_broken_checkpoint_is_named(tmp_path):
  write(tmp_path, (1,))
  broken = 0
  for path in (tmp_path / '1').rglob('*'):
    if path.is_file() and ('ocdbt' in str(path) or path.parent.name == 'd'):
      path.write_bytes(b'')
      broken += 1
  assert broken
  with pytest.raises(checkpoints.CheckpointError, match='cannot read'):
    checkpoints.read(tmp_path, STATE)


def test_no_rights_and_no_directory_are_errors(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(checkpoints.CheckpointError, match='cannot write'):
    write(tmp_path / 'file' / 'run', (1,))
