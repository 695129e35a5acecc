"""Random mutants: what is changed, which tests judge it, and what is said."""

import multiprocessing

import pytest

from benchmarks import _mutants
from benchmarks import mutations

SOURCE = b'''"""Numbers: 7."""
LIMIT = 0.95


def find(key, rows, low=2, *, scale=None):
  """Finds 3."""
  if low < LIMIT and rows:
    raise ValueError(f'{low} is below {LIMIT + 1}')
  best = np.argmin(rows)
  best = -best
  order(best, low, size=False)
  return where(best, low, jax.random.fold_in(key, 1))
'''
HEAD = 'if low < LIMIT and rows:'
ORDER = 'order(best, low, size=False)'
LAST = 'return where(best, low, jax.random.fold_in(key, 1))'


def changes(kind):
  found = [m for m in _mutants.mutants('a.py', SOURCE) if m.kind == kind]
  return [m.sides(SOURCE) for m in found]


def test_every_kind_of_change_is_found():
  find = 'def find(key, rows, low=2, *, scale=None):'
  last = 'return where(best, low, {})'.format
  assert changes('number') == [
    ('LIMIT = 0.95', 'LIMIT = 0.9'),
    (find, find.replace('2', '3')),
    (LAST, LAST.replace('1', '2')),
  ]
  assert changes('comparison') == [(HEAD, HEAD.replace('<', '<='))]
  assert changes('boolean') == [
    (HEAD, 'if not (low < LIMIT and rows):'),
    (HEAD, HEAD.replace('and', 'or')),
    (ORDER, ORDER.replace('False', 'True')),
  ]
  assert changes('arithmetic') == [('best = -best', 'best = (best)')]
  assert changes('argument order') == [
    (ORDER, 'order(low, best, size=False)'),
    (LAST, 'return where(best, jax.random.fold_in(key, 1), low)'),
    (LAST, last('jax.random.fold_in(1, key)')),
  ]
  assert changes('keyword dropped') == [(ORDER, 'order(best, low, )')]
  assert changes('statement dropped') == [
    ('best = -best', 'pass'),
    (ORDER, 'pass'),
  ]
  assert [new for _, new in changes('check dropped')] == ['pass']
  assert [new for _, new in changes('option ignored')] == [
    f'{name} {HEAD}' for name in ('low = 2', 'scale = None')
  ]
  assert changes('opposite') == [
    ('best = np.argmin(rows)', 'best = np.argmax(rows)')
  ]
  assert changes('first for best') == [
    ('best = np.argmin(rows)', 'best = (0 * np.argmin(rows))')
  ]
  assert changes('key reused') == [(LAST, last('key'))]


def test_tests_of_a_mutant_execute_its_lines_and_fit_the_budget():
  (mutant,) = (
    m for m in _mutants.mutants('a.py', SOURCE) if m.kind == 'arithmetic'
  )
  assert mutant.lines == (10, 10)
  seconds = {'t/b::one': 3.0, 't/a::two': 1.0, 't/b::three': 2.0, 't/a::x': 0.1}
  lines = {'a.py': {10: {*seconds} - {'t/a::x'}, 11: {'t/a::x'}}, 'b.py': {}}
  of = lambda m, budget: mutations.choose(m, seconds, lines, budget)
  assert of(mutant, 9) == (['t/a::two', 't/b::three', 't/b::one'], [])
  assert of(mutant, 4) == (['t/a::two', 't/b::three'], ['t/b::one'])
  assert of(mutant, 0) == (['t/a::two'], ['t/b::three', 't/b::one'])
  # What runs as the file is imported is seen by all that use the file.
  assert len(of(mutant._replace(lines=None), 9)[0]) == 4
  assert len(of(mutant._replace(lines=(1, 2)), 9)[0]) == 4
  assert of(mutant._replace(file='b.py'), 9) == ([], [])


@pytest.mark.parametrize(
  ('body', 'word', 'test'),
  [
    ('assert True', 'survived', 'status 0'),
    ('assert False', 'caught', 'test_a.py::test_it'),
    ('import os; os.abort()', 'caught', 'status -6'),
    ('import time; time.sleep(60)', 'caught', 'time limit'),
  ],
)
def test_what_tests_say_of_a_tree(tmp_path, body, word, test):
  tree = tmp_path / 'tree'
  tree.mkdir()
  (tree / 'test_a.py').write_text(f'def test_it():\n  {body}\n')
  limit = 3 if 'sleep' in body else 60
  context = multiprocessing.get_context('spawn')
  assert mutations.judge(tree, ['test_a.py'], limit, context) == (word, test)


def test_changes_without_effect_are_still_where_they_were():
  entries = mutations.read_equivalent(mutations.EQUIVALENT.read_text())
  mutations.check_equivalent(entries)
  entry = mutations.Equivalent('norms.py', 'no = line', 'no = place', 'none')
  with pytest.raises(ValueError, match=r'no mutant of norms.py any more: no ='):
    mutations.check_equivalent([entry])


def test_blocks_of_changes_without_effect():
  text = 'Said before.\n\n@ a.py\n- x = 1\n+ x = 2\n# No reader.\n'
  assert mutations.read_equivalent(text) == [
    ('a.py', 'x = 1', 'x = 2', 'No reader.')
  ]
