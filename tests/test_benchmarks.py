"""The benchmark beside peers: its scores, judge, cells, tables and figures."""

import itertools
import os
import pathlib
import types

import jax
import numpy as np
import pytest

from benchmarks import _peers_report
from benchmarks import _som_report
from benchmarks import boundary_peers
from dmm_jax import records
from experiments.lib import flags

NORMS = (1.0, 2.0, np.inf)


def layer(rng, name, *shape):
  kernel = rng.normal(size=shape) / np.sqrt(shape[-2])
  bias = rng.normal(size=shape[-1:]) / 10
  arrays = {f'{name}_kernel': kernel, f'{name}_bias': bias}
  return {k: v.astype(np.float32) for k, v in arrays.items()}


def network(weights, shape, num=6):
  """A network with the arrays of a reference file; best distances are ones."""
  xs = np.random.default_rng(1).uniform(size=(num, *shape)).astype(np.float32)
  arrays = dict(weights, x=xs, y=np.zeros(num, np.int32), logits=np.zeros(1))
  arrays |= {f'best_{norm}': np.ones(num) for norm in ('l1', 'l2', 'linf')}
  bare = boundary_peers.Network('toy', arrays)
  logits = bare.exact_logits(xs)
  arrays |= dict(logits=logits, y=logits.argmax(1).astype(np.int32))
  return boundary_peers.Network('toy', arrays)


def conv_network(**options):
  rng = np.random.default_rng(0)
  weights = layer(rng, 'conv1', 3, 3, 2, 4) | layer(rng, 'conv2', 3, 3, 4, 3)
  weights |= layer(rng, 'fc1', 6, 5) | layer(rng, 'fc2', 5, 10)
  return network(weights, (8, 4, 2), **options)


def dense_network():
  rng = np.random.default_rng(0)
  return network(layer(rng, 'fc1', 4, 8) | layer(rng, 'fc2', 8, 3), (4,))


def test_local_optimality_by_hand():
  best = np.array([1.0, 2.0, 3.0])
  assert _peers_report.local_optimality(best, best) == 1
  # Areas 7/3 and 2 below curves that end at 3: 1 - (1/3) / (3 - 2).
  found = np.array([2.0, 2.0, np.inf])
  assert _peers_report.local_optimality(found, best) == pytest.approx(2 / 3)
  # One of three misclassified; the other two no nearer than eps_max.
  value = _peers_report.local_optimality(
    np.array([0.0, 2.0, 5.0]), np.array([0.0, 1.0, 2.0]), clean_accuracy=2 / 3
  )
  assert value == pytest.approx(0)


def test_local_optimality_is_the_area_between_curves():
  rng = np.random.default_rng(0)
  best = rng.gamma(2.0, size=300)
  found = best * rng.uniform(1, 1.5, size=300)
  radii = np.linspace(0, best.max(), 20001)
  area = lambda d: np.trapezoid([np.mean(d > r) for r in radii], radii)
  expected = 1 - (area(found) - area(best)) / (best.max() - area(best))
  value = _peers_report.local_optimality(found, best)
  assert value == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize('make', [dense_network, conv_network])
def test_float64_logits_are_those_of_jax(make):
  net = make()
  ours = jax.jit(jax.vmap(net.logits_fn))(net.xs)
  np.testing.assert_allclose(ours, net.exact_logits(net.xs), atol=1e-5)
  boundary_peers.check_agreement(net)
  with pytest.raises(ValueError, match='toy: logits of side 1'):
    boundary_peers.check_agreement(net, net.stored_logits + 2e-4)


def test_judge():
  logits = lambda xs: np.stack([xs[:, 0] - 0.5, np.zeros(len(xs))], 1)
  xs, ys = np.full((6, 2), 0.8), np.zeros(6, int)
  points = np.array(
    [
      [0.4, 0.8],  # Across.
      [0.5 + 0.9e-5, 0.8],  # A tie, within the tolerance.
      [0.5 + 1.1e-5, 0.8],  # Short of it.
      [-0.2, 1.3],  # Counts as [0, 1].
      [np.nan, 0.8],
      [0.8, 0.8],  # The input itself.
    ]
  )
  expected = {
    1.0: [0.4, 0.3, np.inf, 1.0, np.inf, np.inf],
    2.0: [0.4, 0.3, np.inf, np.sqrt(0.68), np.inf, np.inf],
    np.inf: [0.4, 0.3, np.inf, 0.8, np.inf, np.inf],
  }
  for norm, distances in expected.items():
    found = boundary_peers.judge(logits, xs, ys, points, norm)
    np.testing.assert_allclose(found, distances, atol=1e-5)


def test_judge_counts_changes():
  logits = lambda xs: np.stack([xs[:, 0] - 0.5, np.zeros(len(xs))], 1)
  xs, ys = np.full((5, 3), 1, np.float32), np.zeros(5, int)
  points = np.array(
    [
      [0.4, 1.0, 1.0],
      [0.4, 1 - 1e-9, 1.0],  # The same in float32.
      [0.4, 1 - 1e-6, 0.0],
      [0.4, 1.5, 1.0],  # Clipped.
      [0.6, 1.0, 1.0],
    ]
  )
  found = boundary_peers.judge(logits, xs, ys, points, 0.0)
  np.testing.assert_array_equal(found, [1, 1, 3, 1, np.inf])


def test_select():
  available = ['ours_fast', 'ours_portfolio', 'ours_ddn', 'a_ddn', 'a_fmn', 'b']
  chosen = lambda *names: boundary_peers.select(names, available)
  assert chosen('ours') == ['ours_fast', 'ours_portfolio']
  assert chosen('peers') == ['a_ddn', 'a_fmn', 'b']
  assert chosen('b', 'a_', 'b') == ['b', 'a_ddn', 'a_fmn']
  assert chosen() == []
  with pytest.raises(flags.FlagError, match="'c' is no attack"):
    chosen('c')


class FakeBench:
  """Both sides of a network with two logits, `x[0] < 0.5` or not."""

  def __init__(self, num=6):
    xs = np.linspace(0.6, 0.9, num)[:, None]
    self.network = types.SimpleNamespace(
      name='fake',
      xs=xs,
      ys=np.zeros(num, int),
      best={norm: xs[:, 0] - 0.5 for norm in NORMS},
      exact_logits=lambda x: np.stack([x[:, 0] - 0.5, 0 * x[:, 0]], 1),
    )
    self.calls = []

  def runs(self, attack, norm):
    return attack != 'l2_only' or norm == 2

  def own_budget(self, attack):
    return attack == 'ours_fast'

  def prepare(self, attack, norm, budget):
    pass

  def solve(self, attack, norm, budget):
    self.calls.append((attack, norm, budget))
    if attack == 'broken':
      raise RuntimeError('no such norm')
    xs = self.network.xs
    points = 0.5 + 0 * xs
    if attack == 'short':
      points = points + (np.arange(len(xs)) == 0)[:, None]
    return points, np.full(len(xs), 7), np.full(len(xs), 9)


ATTACKS = ['ours_fast', 'l2_only', 'short', 'broken']


def fill(bench, out_dir):
  return boundary_peers.measure(bench, out_dir, [2.0, 1.0], ATTACKS, [10, 20])


def test_cells_are_run_once(tmp_path):
  bench = FakeBench()
  first = fill(bench, tmp_path)
  asked = {(a, n, b) for a, n, b in bench.calls if n == 2}
  assert asked == {
    ('ours_fast', 2, 0),
    *((a, 2, b) for a in ATTACKS[1:] for b in (10, 20)),
  }
  assert not any(a == 'l2_only' for a, n, _ in bench.calls if n == 1)
  assert len(bench.calls) == len(first) == 12
  # Nothing is run again, but what is missing or is of other examples.
  assert fill(bench, tmp_path) == first and len(bench.calls) == 12
  boundary_peers.cell_file(tmp_path, 'fake', 2.0, 'short', 10).unlink()
  fill(bench, tmp_path)
  assert bench.calls[12:] == [('short', 2.0, 10)]
  other = FakeBench(num=4)
  fill(other, tmp_path)
  assert len(other.calls) == 12


def test_results_of_cells(tmp_path):
  bench = FakeBench()
  fill(bench, tmp_path)
  summary = boundary_peers.write_results(tmp_path, [bench.network], [2.0, 1.0])
  assert records.read_json(tmp_path / 'summary.json') == summary
  assert summary['counts'] == summary['beside_peers'] == []
  rows = summary['rows']
  mine = {r['attack']: r for r in rows if r['norm'] == '2.0'}
  exact = mine['l2_only']
  assert exact['mean_ratio'] == pytest.approx(1)
  assert exact['within_0.1%'] == exact['success'] == 1
  assert exact['local_optimality'] == pytest.approx(1)
  assert (exact['gradients'], exact['forwards']) == (7, 9)
  assert exact['better_by_0.1%'] == 0
  assert mine['short']['success'] == pytest.approx(5 / 6)
  assert mine['short']['mean_ratio'] == np.inf
  assert mine['broken']['success'] == 0
  assert mine['broken']['error'] == 'RuntimeError: no such norm'
  columns = records.load_columns(tmp_path / 'results.npz')
  assert len(columns['distance']) == 12 * 6
  chosen = (columns['attack'] == 'short') & (columns['budget'] == 10)
  chosen &= columns['norm'] == '1.0'
  np.testing.assert_allclose(
    columns['distance'][chosen], [np.inf, *columns['best'][chosen][1:]]
  )
  lines = _peers_report.table(rows)
  assert all(len(line) == len(_peers_report.HEADER) for line in lines)
  by_start = {tuple(line[:4]): line[4:] for line in lines}
  start = ['7', '1.00', '1.0000', '1.0000', '1.00', '1.00', '0.00', '1.0000']
  assert by_start['fake', '2.0', 'ours_fast', '-'][:8] == start
  assert by_start['fake', '2.0', 'l2_only', '20'][-1] == '-'  # Not compiled.
  # Figures come from the files alone.
  for path in _peers_report.draw(tmp_path):
    assert path.stat().st_size > 10_000


def test_norms_without_best_known_distances(tmp_path):
  bench, norms = FakeBench(), [0.0, 3.0]
  boundary_peers.measure(bench, tmp_path, norms, ATTACKS, [10, 20])
  summary = boundary_peers.write_results(tmp_path, [bench.network], norms)
  # The best of the run stands in.
  exact = [r for r in summary['rows'] if r['attack'] == 'ours_fast']
  assert [r['mean_ratio'] for r in exact] == [1, 1]
  counts = {(r['attack'], r['budget']): r for r in summary['counts']}
  assert counts.keys() == {('ours_fast', 0), ('short', 10), ('short', 20)}
  row = counts['short', 20]
  assert (row['median'], row['mean']) == (1, 1)
  assert row['success'] == pytest.approx(5 / 6)
  beside = {(r['norm'], r['peer']): r for r in summary['beside_peers']}
  assert beside.keys() == {
    (p, a) for p in ('0.0', '3.0') for a in ('short', 'best_of_peers')
  }
  for row in beside.values():
    assert row['nearer'] == pytest.approx(1 / 6)  # Where the peer fails.
    assert row['equal'] == pytest.approx(5 / 6)
    assert row['farther'] == row['above_1.005'] == 0
    assert row['mean_ratio'] == row['max_ratio'] == 1
  header, lines = _peers_report.plain_table(summary['beside_peers'])
  assert all(len(line) == len(header) for line in lines)
  for path in _peers_report.draw(tmp_path):
    assert path.stat().st_size > 10_000


def test_ours_beside_the_best_of_peers_by_hand():
  cell = lambda attack, budget, *distance: dict(
    network='n',
    norm='1.5',
    attack=attack,
    budget=budget,
    error='',
    distance=distance,
  )
  rows = _peers_report.compare(
    [
      cell('ours_fast', 0, 1.0, 2.0, 3.0, np.inf),
      cell('a', 1000, 2.0, 2.0, 3.0, 8.0),
      cell('a', 100, 0.1, 0.1, 0.1, 0.1),  # A smaller budget.
      cell('b', 1000, np.inf, 1.0, 4.0, np.inf),
    ]
  )
  by_peer = {r['peer']: r for r in rows}
  assert list(by_peer) == ['a', 'b', 'best_of_peers']
  shares = lambda r: [r['nearer'], r['equal'], r['farther'], r['above_1.005']]
  assert shares(by_peer['a']) == [0.25, 0.5, 0.25, 0.25]
  assert by_peer['a']['mean_ratio'] == np.inf  # Where ours alone fails.
  assert shares(by_peer['b']) == [0.5, 0.25, 0.25, 0.5]
  assert by_peer['b']['mean_ratio'] == pytest.approx((2 + 0.75) / 2)
  assert by_peer['b']['max_ratio'] == 2
  assert shares(by_peer['best_of_peers']) == [0.25, 0.25, 0.5, 0.5]


def test_styles_tell_attacks_apart_in_grey():
  names = [f'peer{i}' for i in range(12)] + ['ours_fast', 'ours_portfolio']
  styles = _peers_report.looks(names)
  assert len({str(sorted(s.items(), key=str)) for s in styles.values()}) == 14
  for name, style in styles.items():
    ours = name.startswith('ours')
    assert (style['color'] == 'black') == ours
    assert (style['linewidth'] > 2) == ours


def test_contenders_reach_the_best_peer():
  row = lambda attack, gradients, ratio: dict(
    attack=attack, gradients=gradients, mean_ratio=ratio
  )
  rows = [
    row('a', 100, 1.05),
    row('a', 500, 1.02),
    row('a', 1000, 1.02),
    row('b', 100, 1.03),
    row('ours_fast', 40, 1.03),
    row('ours_portfolio', 200, 1.01),
    row('ours_portfolio', 100, 1.015),
  ]
  target, chosen = boundary_peers.contenders(rows)
  assert target == 1.02
  found = [(r['attack'], r['gradients']) for r in chosen]
  assert found == [('ours_portfolio', 100), ('a', 500)]


def peers():
  reason = 'torch is not installed: see benchmarks/requirements.txt'
  pytest.importorskip('torch', reason=reason)
  try:
    from benchmarks import _peers_torch
  except ImportError as error:
    pytest.skip(f'{error}: see benchmarks/requirements.txt')
  return _peers_torch


def test_peers_find_what_the_judge_accepts_and_are_charged_for_it():
  module = peers()
  module.torch.set_num_threads(1)
  bench = boundary_peers.Bench(conv_network(num=3), 256, module)
  net = bench.network
  costs = {'advlib_ddn': 30, 'advlib_fab': 27, 'advlib_fab_t': 27}
  for attack, cost in costs.items():
    points, gradients, forwards = bench.solve(attack, 2.0, 30)
    found = boundary_peers.judge(net.exact_logits, net.xs, net.ys, points, 2.0)
    assert np.isfinite(found).any(), attack
    assert gradients == cost <= 30 and forwards >= 3


def test_sparse_peers_and_searches_in_other_norms():
  module = peers()
  module.torch.set_num_threads(1)
  bench = boundary_peers.Bench(dense_network(), 256, module)
  net = bench.network
  solve = lambda attack, norm: bench.solve(attack, norm, 40)
  judge = lambda points, norm: boundary_peers.judge(
    net.exact_logits, net.xs, net.ys, points, norm
  )
  runs = lambda norm: [a for a in module.PEERS if bench.runs(a, norm)]
  assert {'advlib_sigma_zero', 'advlib_vfga', 'foolbox_fmn'} <= set(runs(0.0))
  for attack in ('advlib_sigma_zero', 'advlib_fmn'):
    points, gradients, _ = solve(attack, 0.0)
    counts = judge(points, 0.0)
    found = np.isfinite(counts)
    assert found.any() and np.all(counts[found] % 1 == 0), attack
    assert counts[found].max() <= 4 and gradients == 40
  assert runs(1.5) == runs(7.0) == ['torch_pgd', 'torch_pgd_t']
  best = {}
  for norm, attack in itertools.product((1.5, 3.0), runs(1.5)):
    points, gradients, _ = solve(attack, norm)
    best[norm, attack] = judge(points, norm)
    assert gradients <= 40 and np.isfinite(best[norm, attack]).all()
  # Near the surface, and l3 at most l1.5.
  least = {p: np.minimum(*[best[p, a] for a in runs(p)]) for p in (1.5, 3.0)}
  assert np.all(least[3.0] <= least[1.5] * 1.001)


def test_ours_passes_the_judge():
  bench = boundary_peers.Bench(dense_network(), 256)
  net = bench.network
  points, gradients, forwards = bench.solve('ours_deepfool', 2.0, 20)
  found = boundary_peers.judge(net.exact_logits, net.xs, net.ys, points, 2.0)
  assert np.isfinite(found).any()
  assert np.all(gradients <= 21) and np.all(forwards > gradients)


@pytest.mark.parametrize('name', boundary_peers.NETWORKS)
def test_best_known_points_pass_the_judge(name):
  folder = os.environ.get('DMM_REFERENCE')
  if not folder or not pathlib.Path(folder).is_dir():
    pytest.skip('no folder of reference networks: set DMM_REFERENCE')
  net = boundary_peers.load(folder, name, 10)
  boundary_peers.check_agreement(net)
  with np.load(pathlib.Path(folder) / f'{name}_points.npz') as points:
    for norm, best in net.best.items():
      points_of = points[f'adv_l{norm:g}'][:10]
      found = boundary_peers.judge(
        net.exact_logits, net.xs, net.ys, points_of, norm
      )
      np.testing.assert_allclose(found, best, rtol=1e-4, atol=1e-6)


def test_maps_are_compared_by_turns():
  job = xs, begin, sigmas = _som_report.draw(_som_report.Size(50, 3, 2, 4))
  assert (sigmas[0], sigmas[-1]) == pytest.approx((1, 1))
  assert xs.shape == (50, 3) and begin.shape == (2, 2, 3)
  np.testing.assert_allclose(xs.std(0), 1, rtol=1e-4)
  calls = []

  def run(name, own):
    calls.append((name, len(own[0]), len(own[2])))
    return {'ours': 1.0, 'fastersom': 2.0, 'minisom': 4.0}[name], own[1]

  names = ['ours', 'fastersom', 'minisom']
  seconds, books = _som_report.compare(run, names, job, 3, max_steps=100)
  # The slow one gets 5 codes for one epoch, twice, and 200 / 5 times the time.
  assert calls.count(('minisom', 5, 1)) == 2
  assert calls.count(('fastersom', 50, 4)) == 4
  rows = _som_report.summarize('toy', seconds, books, xs)
  assert [r['ratio'][0] for r in rows] == [1, 0.5, 1 / 160]
  assert [r['quantization'] is None for r in rows] == [False, False, True]
  assert rows[0]['over_best'] == 1
  lines = _som_report.table(rows)
  assert all(len(line) == len(_som_report.HEADER) for line in lines)
  assert lines[2][3] == '~160' and lines[2][-1] == '-'
