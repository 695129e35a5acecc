"""Figures of who fools whom, drawn from planted worlds."""

import figures
import numpy as np
import pytest
import test_transfer as planted

from dmm_jax import halfway
from experiments import transfer
from experiments.figures import transfer as drawing
from experiments.lib import tables as tables_lib

TARGETS = ['mlp', 'linear', 'mlp on 50', 'mlp on 700']


@pytest.fixture(scope='module')
def drawn():
  config = planted.toy('', **planted.PLANTED)
  found = planted.world(np.random.default_rng(0), **planted.CLEAR)
  report = transfer.analyze(config, found)
  made = drawing.draw(report, found)
  rows = [tables_lib.to_dicts(table) for table in report.tables]
  return found, rows, *({k: v[i] for k, v in made.items()} for i in (0, 1))


def test_rates_stand_in_their_cells(drawn):
  _, (rates, *_), found, captions = drawn
  ax, _ = found['matrices'].axes
  wanted = np.array([[row[to].value for to in TARGETS] for row in rates])
  assert wanted.shape == (7, 4)
  (image,) = ax.images
  np.testing.assert_array_equal(image.get_array(), wanted)
  said = {}
  for text in ax.texts:
    j, i = (round(v) for v in text.get_position())
    said.setdefault((i, j), []).append(text.get_text())
    colour = 'white' if wanted[i, j] > 0.55 else 'black'
    assert text.get_color() == colour
  assert len(said) == wanted.size
  for (i, j), (value, ends) in said.items():
    estimate = rates[i][TARGETS[j]]
    assert value == f'{estimate.value:.0%}'
    assert ends == f'{estimate.low:.0%} to {estimate.high:.0%}'
  # Above the line: those that learned right labels.
  (line,) = figures.others(ax)
  assert line[1].tolist() == [3.5, 3.5]
  assert [v.get_text() for v in ax.get_xticklabels()] == TARGETS
  assert 'of mlp by each other' in captions['matrices']
  controls = [tables_lib.cell(row['mlp'], '.0%') for row in rates[4:]]
  assert f'learned random labels ({controls[0]} of mlp)' in captions['matrices']
  assert f'other images ({controls[1]}), noise' in captions['matrices']
  assert f'same size ({controls[2]}).' in captions['matrices']
  figures.assert_looks('transfer', found)


def test_pairs_are_dots_and_shares_are_bars(drawn):
  tables, (_, shares, *_), found, captions = drawn
  left, right = found['explained'].axes
  rows = {k: v[tables['results']['kind'] == 'own'] for k, v in
          tables['results'].items()}  # fmt: skip
  rate = rows['hits'].sum(1) / rows['images'].sum(1)
  agree = halfway.concordance(tables['networks']['fraction'])
  agree = agree[rows['source'], rows['target']]
  source, target = (rows[k] // planted.M for k in ('source', 'target'))
  others = (rows['source'] != rows['target']) & (source < 4)
  part = (source > 1) | (target > 1)
  curves = figures.curves(left)
  for label, keep in (
    ('one architecture', (source == target) & ~part),
    ('two architectures', (source != target) & ~part),
    ('one part size', (source == target) & part),
    ('populations with parts of the data', (source != target) & part),
  ):
    wanted = [agree[others & keep], rate[others & keep]]
    np.testing.assert_allclose(curves.pop(label), wanted)
  assert not curves
  bars = figures.bars(right)
  for shift, name in ((-0.12, 'within strata'), (0.12, 'all pairs')):
    x, y, low, high = np.array(bars[name], float)
    found_of = [row[name] for row in shares]
    np.testing.assert_allclose(y, np.arange(4) + shift)
    for got, end in ((x, 'value'), (low, 'low'), (high, 'high')):
      np.testing.assert_allclose(got, [getattr(v, end) for v in found_of])
  cell = tables_lib.cell(shares[0]['within strata'], 'z.2f')
  assert f'explain {cell}' in captions['explained']


def test_first_steps_are_curves_beside_their_start(drawn):
  _, (*_, early), found, captions = drawn
  for ax, name in zip(
    found['first_steps'].axes, ('accuracy', 'cosine', 'rate'), strict=True
  ):
    steps = [row['step'] for row in early]
    value, low, high = np.array([row[name][:3] for row in early]).T
    curves = figures.curves(ax)
    np.testing.assert_allclose(curves['mean, 95 %'], [steps, value])
    (area,) = figures.areas(ax)
    np.testing.assert_allclose(area, [steps, low, high])
    assert curves['before training'][1].tolist() == 2 * [value[0]]
    assert curves['decides the claim'][0].tolist() == [1, 1]
  assert 'At step 2 they' in captions['first_steps']
  assert (
    "Dotted, step 1, decides the claim 'before accuracy': the last step at "
    'which accuracy has not yet risen by more than 0.02, as the'
  ) in captions['first_steps']


def test_no_step_is_marked_where_accuracy_rises_at_once():
  config = planted.toy('', **planted.PLANTED)
  clear = planted.CLEAR | dict(rises=(0.03, 0.3))
  found = planted.world(np.random.default_rng(0), **clear)
  made = drawing.draw(transfer.analyze(config, found), found)
  figure, caption = made['first_steps']
  for ax in figure.axes:
    assert 'decides the claim' not in figures.curves(ax)
  assert caption.endswith(
    "before training. None decides the claim 'before accuracy': accuracy rises "
    'with the first one.'
  )
