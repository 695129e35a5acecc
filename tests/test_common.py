"""What experiments share that do not speak of claims yet: verdicts, reports."""

import dataclasses

import numpy as np
import pytest

from dmm_jax import records
from dmm_jax import statistics
from experiments import common
from experiments.lib import flags
from experiments.lib import results


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str = flags.flag('', 'Run directory.')
  preset: str = flags.flag('quick', 'Preset.')


def entry(value, low, high, **more):
  return {'value': value, 'interval': [low, high], **more}


ROWS = [
  {'network': 'plain', 'n': 10, 'size': entry(2.5, 2, 3), 'verdict': 'far'},
  {'network': 'a & b', 'n': 9, 'size': entry(-1e-5, -2, 1), 'verdict': 'near'},
  {'network': 'other', 'n': 100, 'size': entry(0.5, 0, 1), 'verdict': 'near'},
]


def report(summary):
  print(f'{summary["question"]} Sizes:')
  rows = [
    [r['network'], str(r['n']), common.with_interval(r['size'], '.3g')]
    for r in summary['rows']
  ]
  common.print_table(['network', 'n', 'l2 distance'], rows)
  common.print_table(['one'], [['x']])


def conduct(workdir, collected=lambda: None):
  def collect(config, run_dir):
    collected()
    records.save_columns(run_dir / 'results.npz', {'x': np.zeros(1)})

  return common.conduct(
    Config(workdir=str(workdir)),
    'experiments.som_codes',
    collect=collect,
    summarize=lambda *_: {'question': 'How far?', 'rows': ROWS},
    draw=lambda run_dir: [run_dir / 'figures/a.png'],
    report=report,
  )


def test_a_run_ends_with_a_report_of_what_it_printed(tmp_path, capsys):
  count = []
  summary = conduct(tmp_path / 'run', lambda: count.append(1))
  out = capsys.readouterr().out
  assert out.startswith('How far? Sizes:\nnetwork    n ') and 'a & b' in out
  assert out.endswith(f'\nfigures: {tmp_path}/run/figures/a.png\n')
  assert records.read_json(tmp_path / 'run/summary.json') == summary
  run = results.read_run('run', tmp_path / 'run')
  assert run.report.claims == []
  assert run.report.answer == 'plain: far; a & b: near; other: near'
  assert run.raw['question'] == 'How far?'
  command = 'python -m experiments.som_codes --preset=quick'
  assert run.raw['command'] == command
  verdicts, sizes, other = run.report.tables
  assert verdicts.title == 'Verdicts'
  assert [column.name for column in verdicts.columns] == [
    'of',
    'verdict',
    'why',
  ]
  assert verdicts.rows[1] == ['a & b', 'near', '']
  assert sizes.rows[0] == ['plain', '10', '2.5 [2, 3]']
  meanings = [column.meaning for column in sizes.columns]
  assert meanings == [
    'kind of network; untrained: before the first step; own: on random '
    'labels; labels50: half of the labels wrong',
    'examples measured',
    'median distance to the boundary of the attacked test images',
  ]
  assert other.rows == [['x']] and other.columns[0].meaning == ''
  # Again: what is there is not collected, and nothing is told twice.
  conduct(tmp_path / 'run', lambda: count.append(1))
  assert len(count) == 1
  again = results.read_run('run', tmp_path / 'run')
  assert again.report == run.report


def test_verdicts_are_what_intervals_say():
  of = lambda low, high: entry((low + high) / 2, low, high)
  assert common.decide([True, True], [False, False]) == 'supported'
  assert common.decide([True, False], [False, False]) == 'undecided'
  assert common.decide([True, False], [False, True]) == 'not supported'
  assert common.below(of(0, 1), of(2, 3))
  assert common.below(0.5, of(0.6, 1)) and common.below(of(0, 0.2), 0.5)
  assert not common.below(of(0, 2), of(1, 3))
  assert not common.below(of(np.nan, np.nan), 1.0)


def test_tables_are_printed_with_their_names_to_the_left(capsys):
  common.print_table(['a', 'bb', 'c'], [['xx', '1', 'y'], ['z', '22', 'long']])
  assert capsys.readouterr().out == (
    'a   bb  c\n--  --  ----\nxx   1  y\nz   22  long\n'
  )


def test_meanings_are_of_an_experiment_before_they_are_of_all():
  assert common.meaning('experiments.none', 'n') == 'examples measured'
  assert common.meaning('experiments.som_codes', 'network').startswith(
    'kind of'
  )
  assert common.meaning('experiments.none', 'network').startswith('the netw')
  assert common.meaning('experiments.som_codes', 'no such') == ''
  assert common.meaning('experiments.som_codes', '') == ''
  for moved in ('gallery', 'random_scaling', 'boundary_distances'):
    assert not common._meanings().has_section(moved)


@pytest.mark.parametrize(
  'summary, want',
  [
    ({'verdict': 'learned', 'n': 3}, [('', 'learned', '')]),
    (  # Those at the top stand for all.
      {'verdicts': ['a: 0 of 9'], 'rows': ROWS},
      [('', 'a: 0 of 9', '')],
    ),
    (
      {'verdicts': {'R1': {'verdict': 'supported', 'why': 'as'}}},
      [('R1', 'supported', 'as')],
    ),
    (
      {'rows': [{'arm': a, 'radius': r, 'n': 3, 'verdict': 'v'} for a, r in (
        ('on', 1.0), ('on', 2.5), ('off', 1.0))]},
      [('on, radius 1', 'v', ''), ('on, radius 2.5', 'v', ''),
       ('off, radius 1', 'v', '')],
    ),
    (
      {'slopes': [
        {'side': 'off', 'factors': [0.5, 7.0], 'value': 1, 'verdict': 'g'},
        {'side': 'off', 'factors': [3.0, 7.0], 'value': 2, 'verdict': 'p'},
      ]},
      [('slopes, factors 0.5 to 7', 'g', ''),
       ('slopes, factors 3 to 7', 'p', '')],
    ),
    (
      {'rows': [{'network': 'x'}, {'network': 'PGD', 'verdicts': ['a', 'b']}],
       'fit': {'verdicts': ['c']}, 'random_share': {'verdict': 'd'}},
      [('PGD', 'a; b', ''), ('fit', 'c', ''), ('random share', 'd', '')],
    ),
    (  # The fewest texts: `kind` says no more than `about`.
      {'rows': [
        {'set': a, 'kind': b, 'about': f'c {b}', 'mean': i, 'verdict': 'v'}
        for i, (a, b) in enumerate([('x', 's'), ('x', 't'), ('y', 's')])]},
      [('x, s', 'v', ''), ('x, t', 'v', ''), ('y, s', 'v', '')],
    ),
    (
      {'compared': [{'norm': '2.0', 'verdict': 'nearer'}]},
      [('compared, norm 2', 'nearer', '')],
    ),
    ({'question': 'none'}, []),
    ({'verdict': ['a'], 'deep': [[[]], {}, {'verdict': 3}]}, []),
  ],
)  # fmt: skip
def test_verdicts_are_found_wherever_they_are(summary, want):
  assert [tuple(v) for v in common.verdicts(summary)] == want


def test_many_verdicts_are_counted():
  of = lambda *said: [
    common.Verdict(f'n{i}', s, '') for i, s in enumerate(said)
  ]
  assert common.condensed(of('a')) == 'a'
  assert common.condensed(of('a', 'b')) == 'n0: a; n1: b'
  many = of('a', 'b by +0.10', 'b by -0.20', 'a', 'a', 'c', 'd')
  assert common.condensed(many) == '3 x a | 2 x b | 1 x c | 1 others'
  assert common.condensed(many[:6]).count(';') == 5
  assert common.condensed(of(*'aabbccc')) == '3 x c | 2 x a | 2 x b'


def test_estimates_in_a_summary():
  found = statistics.Estimate(0.5, 0.25, 1.0, 3, 'networks')
  assert common.entry(found) == entry(0.5, 0.25, 1.0)
  assert common.with_interval(common.entry(found), '.1f') == '0.5 [0.2, 1.0]'
