"""Checkpoints come back bit by bit, or say why not."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmm_jax import checkpoints
from dmm_jax import parallel
from dmm_jax import train

PARAMS = {'a': jnp.arange(6.0).reshape(2, 3), 'b': {'c': jnp.ones(3)}}
STATE = train.State(PARAMS, {}, optax.adam(1e-3).init(PARAMS))
DESCRIPTION = {'model': 'mlp', 'widths': [3, 4]}


def scaled(factor):
  params = jax.tree.map(lambda v: factor * v, PARAMS)
  return STATE._replace(params=params)


def write(directory, steps=(0, 1, 2, 5, 7), keep=(1,), factor=1):
  with checkpoints.writer(directory, DESCRIPTION, keep=keep) as save:
    for step in steps:
      save(step, scaled(factor * step))


def test_the_last_two_and_the_kept_ones_stay(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)  # A name that is relative.
  write('deep/run', (0, 1, 2, 5, 9, 10))
  # As numbers: 9 lies before 10.
  assert checkpoints.steps('deep/run') == [1, 9, 10]
  (tmp_path / 'deep/run/notes').mkdir()
  assert checkpoints.steps(tmp_path / 'deep/run') == [1, 9, 10]
  for step in (1, 9, 10, None):
    found = checkpoints.read('deep/run', STATE, step)
    assert found.step == (10 if step is None else step)
    assert found.description == DESCRIPTION
    want = scaled(found.step)
    assert jax.tree.structure(found.state) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, found.state, want)


def test_without_a_pattern_it_comes_as_dicts_of_numpy_arrays(tmp_path):
  rows = parallel.shard(jnp.arange(4.0))
  with checkpoints.writer(tmp_path, {}) as save:
    save(3, STATE._replace(params={**PARAMS, 'rows': rows}))
  found = checkpoints.read(str(tmp_path))
  assert found.step == 3 and found.description == {}
  params = found.state['params']
  assert all(isinstance(v, np.ndarray) for v in jax.tree.leaves(params))
  np.testing.assert_array_equal(params['a'], PARAMS['a'])
  np.testing.assert_array_equal(params['rows'], np.arange(4))
  assert params['b']['c'].dtype == np.float32


def test_writing_goes_on_where_it_ended(tmp_path):
  write(tmp_path, (1, 2))
  # What a killed run left.
  left = tmp_path / '7.orbax-checkpoint-tmp-1'
  left.mkdir()
  write(tmp_path, (2, 3), keep=(), factor=10)
  assert not left.exists()
  assert checkpoints.steps(tmp_path) == [2, 3]
  found = checkpoints.read(tmp_path, STATE, 2).state
  np.testing.assert_array_equal(found.params['b']['c'], 3 * [20])


def test_later_ones_than_that_it_goes_on_from_are_removed(tmp_path):
  write(tmp_path, (1, 2, 5), keep=(1, 2, 5))
  (tmp_path / '5' / '_CHECKPOINT_METADATA').write_text('[]')
  for since, there in ((2, [1, 2]), (1, [1]), (1, [1]), (-1, [])):
    with checkpoints.writer(tmp_path, {}, since=since):
      assert checkpoints.steps(tmp_path) == there


def test_what_is_not_there_is_named(tmp_path):
  assert checkpoints.steps(tmp_path / 'none') == []
  (tmp_path / 'file').write_text('')
  assert checkpoints.steps(tmp_path / 'file') == []
  said = rf'^no checkpoint in {tmp_path}/none$'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.read(tmp_path / 'none')
  with pytest.raises(
    checkpoints.CheckpointError, match=r'^no checkpoint of step 4 in .*none$'
  ):
    checkpoints.read(tmp_path / 'none', step=4)
  for step in (9, 10):
    (tmp_path / str(step)).mkdir()
  with pytest.raises(
    checkpoints.CheckpointError,
    match=r'^no checkpoint of step 4 in .*; it has those of 9, 10$',
  ):
    checkpoints.read(tmp_path, step=4)


def test_another_network_is_refused(tmp_path):
  write(tmp_path, (1,))
  other = STATE._replace(
    params={'a': jnp.zeros((3, 3)), 'b': {'c': jnp.zeros(4)}}
  )
  said = r'another network: params/a is \(2, 3\) there, \(3, 3\) here \(2 of'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.read(tmp_path, other)
  more = STATE._replace(params={**PARAMS, 'd': 1.0})
  said = r'params/d is absent there, \(\) here \(1 of 8 arrays differ\)'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.read(tmp_path, more)
  fewer = STATE._replace(params={'a': PARAMS['a']})
  said = r'params/b/c is \(3,\) there, absent here'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.read(tmp_path, fewer)


def test_a_broken_checkpoint_is_named(tmp_path):
  write(tmp_path, (1,))
  broken = 0
  for path in (tmp_path / '1').rglob('*'):
    if path.is_file() and ('ocdbt' in str(path) or path.parent.name == 'd'):
      path.write_bytes(b'')
      broken += 1
  assert broken
  said = rf'^cannot read the checkpoint {tmp_path}/1: '
  with pytest.raises(checkpoints.CheckpointError, match=said):
    checkpoints.read(tmp_path, STATE)


def test_no_rights_and_no_directory_are_errors(tmp_path):
  (tmp_path / 'file').write_text('')
  said = rf'^cannot write to the checkpoint {tmp_path}/file/run: '
  with pytest.raises(checkpoints.CheckpointError, match=said):
    write(tmp_path / 'file' / 'run', (1,))


@pytest.mark.parametrize('at', ('save_async', 'close'))
def test_what_cannot_be_written_is_named_when_it_is_known(
  tmp_path, monkeypatch, at
):
  def fail(*args, **options):
    raise OSError('  disk full\nat block 7')

  monkeypatch.setattr(checkpoints._training.Checkpointer, at, fail)
  said = rf'^cannot write to the checkpoint {tmp_path}: disk full$'
  with pytest.raises(checkpoints.CheckpointError, match=said):
    write(tmp_path, (1,))


def test_bare_errors_are_told_by_their_kind_and_deaths_as_they_are():
  with pytest.raises(checkpoints.CheckpointError, match=r'here: KeyError$'):
    with checkpoints._explained('read', 'here'):
      raise KeyError
  for error in (
    checkpoints.CheckpointError('own'),
    jax.errors.JaxRuntimeError('a process has died'),
  ):
    with pytest.raises(type(error), match=str(error)):
      with checkpoints._explained('read', 'here'):
        raise error


def damage(directory, act):
  """Acts on the files that hold arrays; returns how many there were."""
  paths = [p for p in directory.rglob('*') if p.is_file()]
  paths = [p for p in paths if p.parent.name == 'd']
  for path in paths:
    path.write_bytes(act(path.read_bytes()))
  return len(paths)


def test_without_the_last_ones_files_the_one_before_counts(tmp_path):
  """As a loss of power leaves them: names on the disk, no contents."""
  write(tmp_path, (1, 5))
  assert damage(tmp_path / '5', lambda data: b'')
  with pytest.warns(UserWarning, match=rf'{tmp_path}/5: .* of step 1$'):
    found = checkpoints.read(tmp_path, STATE)
  assert found.step == 1
  jax.tree.map(np.testing.assert_array_equal, found.state, scaled(1))
  with pytest.raises(checkpoints.DamagedCheckpointError):
    checkpoints.read(tmp_path, STATE, 5)
  damage(tmp_path / '1', lambda data: b'')
  with pytest.raises(checkpoints.DamagedCheckpointError, match='/5: '):
    checkpoints.read(tmp_path, STATE)


def test_a_flipped_bit_is_not_read_as_other_weights(tmp_path):
  with checkpoints.writer(tmp_path / 'whole', {}) as save:
    save(3, {'w': jnp.linspace(0, 1, 400).reshape(20, 20)})
  wanted = checkpoints.read(tmp_path / 'whole').state['w']
  rng, refused = np.random.default_rng(0), 0
  for number in range(12):
    there = shutil.copytree(tmp_path / 'whole', tmp_path / str(number))

    def flip(data):
      place = rng.integers(len(data))
      bit = bytes([data[place] ^ 1 << rng.integers(8)])
      return data[:place] + bit + data[place + 1 :]

    assert damage(there / '3', flip)
    try:
      found = checkpoints.read(there).state['w']
      np.testing.assert_array_equal(found, wanted)
    except checkpoints.DamagedCheckpointError as error:
      assert f'{there}/3' in str(error)
      refused += 1
  assert refused


def test_files_that_are_not_as_they_were_written_are_named(tmp_path):
  write(tmp_path, (2,))
  paths = [path for path in (tmp_path / '2').rglob('*') if path.is_file()]
  assert len(paths) > 6
  for path in paths:
    whole, name = path.read_bytes(), path.relative_to(tmp_path / '2')
    said = f'{tmp_path}/2: its {name} is not as it was written; take another'
    for act in (path.unlink, lambda: path.write_bytes(b'0' + whole)):  # noqa: B023
      act()
      with pytest.raises(checkpoints.DamagedCheckpointError) as error:
        checkpoints.read(tmp_path, STATE)
      assert said in str(error.value)
      path.write_bytes(whole)
  (tmp_path / '2' / '.DS_Store').write_text('left by a copy')
  assert checkpoints.read(tmp_path, STATE).step == 2


def test_what_orbax_says_is_shortened(tmp_path):
  with pytest.raises(checkpoints.CheckpointError) as error:
    with checkpoints._explained('read', tmp_path):
      raise KeyError('long ' * 99 + '\nand more')
  assert str(error.value).endswith('long ...') and len(str(error.value)) < 300
