"""How near the points are that each search finds, held against a record.

  python tests/quality.py            (compares)
  python tests/quality.py --renew    (writes tests/quality.json anew)

Means and 90 % quantiles of distances in units of the least ones known, of a
ReLU and a tanh network and a few inputs each, at two budgets. A search that
lost a term, or a part of its budget, still finds boundary points: here it shows
as distances that are longer.
"""

import collections
import functools
import json
import operator
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from dmm_jax.boundary import nearest
from dmm_jax.boundary import network as network_lib
from dmm_jax.boundary import problem as problem_lib

FILE = pathlib.Path(__file__).parent / 'quality.json'
NORMS = (1, 2, np.inf)
SIZE, HIDDEN, CLASSES, NUM = 6, 16, 4, 12
# Of each method; 'portfolio' compiles anew for each, 'fast' has its own.
BUDGETS = {m: (24, 90) for m in nearest.SEARCHES}
BUDGETS |= {'fast': (40,), 'portfolio': (150, 400), 'deepfool': (9, 90)}
BUDGETS |= {'apgd': (60, 200), 'superdeepfool': (12, 90)}
BUDGETS |= {'ray': (1,), 'linear': (1,)}
MARGIN = 0.005  # How much worse is a failure, and how much better is told.
CAP = 3.0  # A search that found nothing is this far off.


def logits(params, x):
  """ReLU or tanh, and linear, and quadratic terms: any may be absent."""
  first, last, curved, direct, squares, bias = params
  xp = np if isinstance(x, np.ndarray) else jnp
  h = first @ x
  h = xp.where(curved, xp.tanh(h), xp.maximum(h, 0))
  return last @ h + direct @ x + squares @ (x * x) + bias


def network(curved, seed):
  """Parameters of a random network with one hidden layer."""
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(HIDDEN, SIZE)) * (2 / SIZE) ** 0.5
  last = rng.normal(size=(CLASSES, HIDDEN)) * (2 / HIDDEN) ** 0.5
  none = np.zeros((CLASSES, SIZE))
  bias = 0.1 * rng.normal(size=CLASSES)
  return first, last, curved, none, none, bias


def case(params, x, p, *, label=None, low=-np.inf, high=np.inf, key=0):
  """The arguments of `solve` but for the budget."""
  if label is None:
    label = int(np.argmax(logits(params, x)))
  low, high = (np.broadcast_to(v, x.shape).astype(float) for v in (low, high))
  return params, x, label, float(p), low, high, key


def cases():
  """Of both networks, all inputs and norms."""
  for curved in (False, True):
    params = network(curved, 3 + curved)
    rng = np.random.default_rng(7 + curved)
    for key, x in enumerate(rng.normal(size=(NUM, SIZE))):
      for p in NORMS:
        yield case(params, x, p, key=key)


def solve(method, rows, budgets):
  """Returns the `BoundaryPoint`, of columns [n], of cases and their budgets.

  In float64, so that rounding sends no search to another optimum.
  """

  def one(p, most, params, x, label, traced_p, low, high, key, budget):
    problem = problem_lib.create(
      network_lib.trace(lambda v: logits(params, v), x),
      x,
      label,
      norm=p or traced_p,
      low=low,
      high=high,
    )
    found = nearest._search(
      problem, method, most or budget, jax.random.key(key), nearest.RTOL
    )
    return nearest._result(problem, found, True)

  groups = collections.defaultdict(list)
  for i, (row, budget) in enumerate(zip(rows, budgets, strict=True)):
    p = row[3] if method in ('apgd', 'ddn') else None
    groups[p, budget if method == 'portfolio' else None].append(i)
  found = {}
  with jax.enable_x64(True), nearest.plain_arithmetic():
    for static, chosen in groups.items():
      columns = [(*rows[i], budgets[i]) for i in chosen]
      columns = jax.tree.map(lambda *v: np.asarray(v), *columns)
      fn = jax.jit(jax.vmap(functools.partial(one, *static)))
      got = jax.device_get(fn(*columns))
      for place, i in enumerate(chosen):
        found[i] = jax.tree.map(operator.itemgetter(place), got)
  ordered = [found[i] for i in range(len(rows))]
  return jax.tree.map(lambda *v: np.stack(v), *ordered)


def rows_of(method):
  """Returns `(rows, budgets)` of all cases that a method is for."""
  rows = [row for row in cases() if method != 'ddn' or row[3] == 2]
  every = [(row, budget) for budget in BUDGETS[method] for row in rows]
  return tuple(map(list, zip(*every, strict=True)))


def summarize(rows, budgets, distances, least):
  """Returns `{'norm, budget': [mean, 90 % quantile]}` of relative distances."""
  every = [row[3] for row in cases()]
  groups = collections.defaultdict(list)
  for row, budget, distance in zip(rows, budgets, distances, strict=True):
    groups[row[3], budget].append(distance)
  out = {}
  for (p, budget), values in groups.items():
    best = np.array([v for q, v in zip(every, least, strict=True) if q == p])
    ratios = np.minimum(np.array(values) / best, CAP)
    both = np.mean(ratios), np.quantile(ratios, 0.9)
    out[f'l{p:g}, {budget} gradients'] = [round(float(v), 5) for v in both]
  return out


def compare(found, recorded):
  """Returns what became worse, and what so much better that it is news."""
  worse, better = [], []
  for name, values in found.items():
    for what, new, old in zip(
      ('mean', '90 %'), values, recorded[name], strict=True
    ):
      if new > old * (1 + MARGIN):
        worse.append(f'{name}, {what}: {new}, recorded {old}')
      elif new < old * (1 - MARGIN):
        better.append(f'{name}, {what}: {new}, recorded {old}')
  return worse, better


def main(arguments):
  found = {}
  for method in BUDGETS:
    rows, budgets = rows_of(method)
    found[method] = rows, budgets, solve(method, rows, budgets).distance
    print(f'{method}: {len(rows)} searches', flush=True)
  if arguments == ['--renew']:
    rows = list(cases())
    every = [solve('portfolio', rows, [2000] * len(rows)).distance]
    for method, (_, _, distances) in found.items():
      if method not in ('linear', 'ddn'):
        every.extend(distances.reshape(-1, len(rows)))
    least = [round(float(v), 7) for v in np.min(every, 0)]
    record = {'least': least}
    record |= {m: summarize(*v, least) for m, v in found.items()}
    FILE.write_text(json.dumps(record, indent=1) + '\n')
    return
  record = json.loads(FILE.read_text())
  for method, values in found.items():
    lines = compare(summarize(*values, record['least']), record[method])
    for word, told in zip(('worse', 'better'), lines, strict=True):
      for line in told:
        print(f'{word}: {method}, {line}')


if __name__ == '__main__':
  main(sys.argv[1:])
