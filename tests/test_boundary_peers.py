"""Timing to equal quality: ours beside peers, on both sides' own networks."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_benchmarks

from benchmarks import boundary_peers


class FakeBench:
  """Sides that answer at once; `of_torch` as told."""

  def __init__(self, of_torch):
    self.network = types.SimpleNamespace(xs=np.zeros((4, 2)))
    self.of_torch, self.calls = of_torch, []

  def prepare(self, attack, norm, budget):
    self.calls.append(('prepare', attack, norm, budget))

  def solve_into(self, found, attack, norm, budget, threads):
    self.calls.append((threads, attack, norm, budget))
    found[attack] = None, np.full(4, 30), np.full(4, 90)


ROWS = [
  dict(network='toy', norm='1.0', attack=attack, budget=budget)
  | dict(gradients=budget or 40, mean_ratio=ratio)
  for attack, budget, ratio in (
    ('ours_fast', 0, 1.01),
    ('ours_portfolio', 100, 1.03),
    ('ours_portfolio', 500, 1.0),
    ('ours_portfolio', 200, 1.015),
    ('a_fmn', 200, 1.02),
    ('a_fmn', 100, 1.2),
    ('b_ddn', 100, 1.1),
  )
]


@pytest.mark.parametrize('of_torch', [None, object()], ids=['', 'torch'])
def test_sides_of_equal_quality_are_timed_in_turns(of_torch, monkeypatch):
  monkeypatch.setattr(boundary_peers, 'unit_times', lambda *_: (1e-3, 1e-4))
  seconds = {'ours_fast': 0.2, 'ours_fast_torch': 0.3, 'a_fmn': 0.8}

  def best_times(calls, repeats, first):
    assert (repeats, first) == (2, 0)
    for call in calls.values():
      call()
    # On one core a peer takes less.
    return {(a, n): seconds.get(a, 1.0) * (1 + n) for a, n in calls}

  monkeypatch.setattr(boundary_peers.timing, 'best_times', best_times)
  bench = FakeBench(of_torch)
  rows = boundary_peers.time_equal_quality(bench, 1.0, ROWS, 2, 3)
  ours = ['ours_fast', 'ours_portfolio']
  again = ['ours_fast_torch', 'ours_portfolio_torch'] if of_torch else []
  assert [r['attack'] for r in rows] == [*ours, *again, 'a_fmn']
  budgets = {'ours_fast': 0, 'ours_portfolio': 200, 'a_fmn': 200}
  jobs = [(a, 1.0, budgets[a.removesuffix('_torch')]) for a in (*ours, *again)]
  want = {('prepare', *job) for job in jobs} | {(3, *job) for job in jobs}
  want |= {(how, 'a_fmn', 1.0, 200) for how in ('prepare', 1, 3)}
  assert set(bench.calls) == want and len(bench.calls) == len(want)
  by_name = {r['attack']: r for r in rows}
  assert {r['target'] for r in rows} == {1.02}
  assert by_name['a_fmn']['times_ours'] == pytest.approx(0.8 * 2 / (0.2 * 4))
  assert by_name['a_fmn']['overhead'] is by_name['a_fmn']['first_seconds']
  # 30 gradients, each with a forward, and 60 more forwards.
  alone = 30 * 1e-3 + 60 * 1e-4
  for name in set(by_name) - {'a_fmn'}:
    assert by_name[name]['overhead'] == pytest.approx(
      by_name[name]['seconds'] / alone
    )
    assert by_name[name]['first_seconds'] >= 0
  for name in again:
    assert by_name[name]['times_ours'] == pytest.approx(
      seconds.get(name, 1.0) / seconds['ours_fast']
    )


def test_without_peers_there_is_no_module():
  bench = boundary_peers.Bench(test_benchmarks.dense_network(), 256)
  assert bench.of_torch is None


@pytest.mark.parametrize('kind', ['dense_network', 'conv_network'])
def test_ours_on_the_module_of_the_peers(kind):
  module = test_benchmarks.peers()
  pytest.importorskip('torchax', reason='torchax is not installed')
  net = getattr(test_benchmarks, kind)()
  bench = boundary_peers.Bench(net, 256, module)
  logits = jax.jit(jax.vmap(bench.of_torch.logits_fn))(jnp.asarray(net.xs))
  np.testing.assert_allclose(logits, net.stored_logits, atol=1e-5)
  for norm in (1.0, 2.0):
    solve = lambda attack, norm=norm: bench.solve(attack, norm, 0)
    own, translated = solve('ours_fast'), solve('ours_fast_torch')
    np.testing.assert_allclose(translated[0], own[0], atol=1e-3)
    assert np.mean(translated[1]) == np.mean(own[1]) == 41
