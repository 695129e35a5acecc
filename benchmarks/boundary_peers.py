"""Who finds the nearer boundary point, with how many gradients, how fast?

`boundary.measure` beside the public attacks in PyTorch: the same networks,
weights and examples, one run, one judge. Peers live in an environment of their
own; the library never needs them:

  python -m pip install -r benchmarks/requirements.txt \\
    --extra-index-url https://download.pytorch.org/whl/cpu
  python -m pip install --no-deps adv-lib==0.2.8

  python -m benchmarks.boundary_peers --reference=DIR --out_dir=runs/peers
  python -m benchmarks.boundary_peers ... --attacks=ours --redo=ours
  python -m benchmarks.boundary_peers ... --norms=0,1.5,3 --budgets=1000
  python -m benchmarks.boundary_peers ... --speed

DIR holds networks as NAME.npz: weights (`convK_kernel` [3, 3, in, out],
`fcK_kernel` [in, out], biases), `x`, `y`, `logits`, and best known distances
`best_l1`, `best_l2`, `best_linf`. Every convolution is 3x3, SAME, ReLU, 2x2
maximum; every dense layer but the last ReLU. In other norms, where nothing is
known, the best of all cells stands in, and ours is compared with each peer.

The judge evaluates every point, clipped to [0, 1], in float64: it counts if the
largest other logit is at least the true one less 1e-5; else the distance is
infinite. In norm 0 it counts changed inputs, in the dtype of the examples. One
gradient is one example going backward once; a step of DeepFool at ten classes
costs nine. A finished (network, norm, attack, budget) is kept in
OUT_DIR/cells: a killed run goes on, `--redo` forgets one side.

At 1000 gradients expect the best single peer 0.5 to 2 % (l1: to 8 %) above the
best known distance: targeted FAB or APGD, ALMA, FMN, by network and norm; in
norm 0 sigma-zero or Brendel & Bethge's 4 to 5 % above the best of peers. Peers
take 20 minutes for 15 to 80 examples a network on 2 busy cores, ours mostly
compiles. Seconds in the cells are of one call; compare times by `--speed`,
which takes its targets from the summary of the same OUT_DIR and --num_examples,
repeats the examples to 256, and times both sides in turns. Where torchax is
installed, it times ours also on the module that the peers attack, translated by
`interop.from_torch`: rows whose names end in _torch.
"""

import copy
import functools
import itertools
import multiprocessing
import os
import pathlib
import sys

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks import _peers_report
from benchmarks import printing
from benchmarks import timing
from dmm_jax import boundary
from dmm_jax import interop
from dmm_jax import margins
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import records
from experiments.lib import flags as flags_lib

NETWORKS = (
  'digits_mlp_tiny',
  'mnist_mlp',
  'mnist_cnn',
  'mnist_cnn_adv',
  'cifar_cnn',
)
# Ours by name of method; True where the method has a budget of its own.
OURS = {'ours_fast': True, 'ours_portfolio': False}
METHODS = {
  f'ours_{name}': False
  for name in (
    'projection',
    'deepfool',
    'superdeepfool',
    'fab',
    'ddn',
    'fmn',
    'apgd',
    'primal_dual',
    'sigma_zero',
  )
}
_COUNTING = (*OURS, 'ours_sigma_zero', 'ours_fmn')  # Those for norm 0.
_TORCH = '_torch'  # Ends the names of ours on the module of the peers.
_BEST = {1.0: 'best_l1', 2.0: 'best_l2', np.inf: 'best_linf'}
_SPEED_COLUMNS = (
  'network, norm, target, attack, budget, mean_ratio, gradients, seconds, '
  'first_seconds, times_ours, overhead'
).split(', ')
_TOLERANCE = 1e-5  # Of the judge, in logits.

_REFERENCE = flags.DEFINE_string(
  'reference', None, 'Folder of the reference networks, NAME.npz.'
)
_OUT_DIR = flags.DEFINE_string('out_dir', 'runs/boundary_peers', 'Results.')
_NETWORKS = flags.DEFINE_list('networks', list(NETWORKS), 'Networks.')
_NORMS = flags.DEFINE_list(
  'norms', ['2', 'inf', '1'], 'Norms: any from 1 on; 0 counts changed inputs.'
)
_NUM_EXAMPLES = flags.DEFINE_list(
  'num_examples', ['50'], 'Examples: one number, or one for each network.'
)
_ATTACKS = flags.DEFINE_list(
  'attacks',
  ['ours', 'peers'],
  'Names, beginnings of names, or groups: ours (fast, portfolio), methods '
  '(ours, as published), peers.',
)
_BUDGETS = flags.DEFINE_list(
  'budgets', ['100', '200', '500', '1000'], 'Gradients an example.'
)
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 256, 'Examples a batch.')
_THREADS = flags.DEFINE_integer('threads', os.cpu_count(), 'Cores, each side.')
_REDO = flags.DEFINE_list('redo', [], 'Attacks to forget first; as --attacks.')
_SPEED = flags.DEFINE_bool('speed', False, 'Time equal quality instead.')
_SPEED_BATCH = flags.DEFINE_integer('speed_batch', 256, 'Examples timed.')
_REPEATS = flags.DEFINE_integer('repeats', 3, 'Timings of each side.')


class Network:
  """A reference network in float64 numpy and in JAX, and its examples.

  Attributes:
    name: of its file.
    weights: its arrays by name.
    xs, ys: examples and their labels.
    best: best known distances by norm, `[n]`; of 1, 2 and inf.
  """

  def __init__(self, name, arrays, num_examples=None):
    self.name = name
    part = slice(num_examples)
    self.xs, self.ys = arrays['x'][part], arrays['y'][part]
    self.stored_logits = arrays['logits'][part]
    self.best = {p: arrays[key][part] for p, key in _BEST.items()}
    self.weights = {
      k: v for k, v in arrays.items() if k.endswith(('_kernel', '_bias'))
    }
    layers = [k.removesuffix('_bias') for k in self.weights if '_bias' in k]
    self._convs = [name for name in layers if name.startswith('conv')]
    self._denses = [name for name in layers if name.startswith('fc')]

  def repeat(self, num):
    """The same network with `num` examples, these over and over."""
    rows = np.arange(num) % len(self.xs)
    arrays = dict(self.weights, x=self.xs[rows], y=self.ys[rows])
    arrays |= {key: self.best[p][rows] for p, key in _BEST.items()}
    return Network(self.name, arrays | {'logits': self.stored_logits[rows]})

  def of_torch(self, module):
    """The same network, its logits those of a module of PyTorch.

    Raises:
      ImportError: without torchax.
    """
    translated, params = interop.from_torch(module)
    axes = (2, 0, 1) if self._convs else (0,)
    network = copy.copy(self)
    network.logits_fn = lambda x: translated(params, x.transpose(axes))
    return network

  def logits_fn(self, x):
    """One input -> logits, in JAX."""
    layer = lambda k: (self.weights[f'{k}_kernel'], self.weights[f'{k}_bias'])
    for kernel, bias in map(layer, self._convs):
      x = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        (1, 1),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )[0]
      x = _pool(jax.nn.relu(x + bias[None, None]))
    x = x.ravel()
    for kernel, bias in map(layer, self._denses[:-1]):
      x = jax.nn.relu(x @ kernel + bias)
    kernel, bias = layer(self._denses[-1])
    return x @ kernel + bias

  def exact_logits(self, xs):
    """Inputs -> logits, in float64, in numpy."""
    layer = lambda k: [
      self.weights[f'{k}_{part}'].astype(float) for part in ('kernel', 'bias')
    ]
    xs = np.asarray(xs, float)
    for kernel, bias in map(layer, self._convs):
      padded = np.pad(xs, ((0, 0), (1, 1), (1, 1), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(
        padded, (3, 3), axis=(1, 2)
      )
      xs = np.einsum('nijcab,abco->nijo', windows, kernel, optimize=True)
      xs = np.stack([_pool(x) for x in np.maximum(xs + bias, 0)])
    xs = xs.reshape(len(xs), -1)
    for kernel, bias in map(layer, self._denses[:-1]):
      xs = np.maximum(xs @ kernel + bias, 0)
    kernel, bias = layer(self._denses[-1])
    return xs @ kernel + bias


def _pool(x):
  """Maximum over 2x2 windows of `[rows, columns, channels]`, even numbers."""
  rows, columns, channels = x.shape
  return x.reshape(rows // 2, 2, columns // 2, 2, channels).max((1, 3))


def load(reference, name, num_examples):
  with np.load(pathlib.Path(reference) / f'{name}.npz') as file:
    return Network(name, dict(file), num_examples)


def check_agreement(network, *more):
  """Raises unless every side gives the stored logits, to 1e-4."""
  sides = [network.exact_logits(network.xs), *more]
  sides.append(jax.jit(jax.vmap(network.logits_fn))(network.xs))
  for i, logits in enumerate(sides):
    error = np.max(np.abs(np.asarray(logits) - network.stored_logits))
    if not error < 1e-4:
      raise ValueError(f'{network.name}: logits of side {i} are {error} off')


def judge(exact_logits, xs, ys, points, norm):
  """Distances `[n]` of points, clipped to [0, 1]; inf if the class is the same.

  Args:
    exact_logits: inputs -> logits, in float64.
    xs, ys: examples and labels.
    points: claimed to be of another class.
    norm: from 1 on, or 0 for the number of inputs that are not the same.
  """
  points = np.clip(np.asarray(points, float), 0, 1)
  if norm == 0:  # What rounding takes away has not changed.
    points = points.astype(xs.dtype).astype(float)
  logits = exact_logits(points)
  rows = np.arange(len(ys))
  own = logits[rows, ys]
  others = logits.copy()
  others[rows, ys] = -np.inf
  # A NaN compares false: infinite.
  fooled = others.max(1) - own >= -_TOLERANCE
  deltas = (points - np.asarray(xs, float)).reshape(len(xs), -1)
  return np.where(fooled, np.linalg.norm(deltas, norm, axis=1), np.inf)


def select(names, available):
  """Attacks that names, beginnings of names or groups stand for, in order."""
  groups = {
    'ours': list(OURS),
    'methods': list(METHODS),
    'peers': [a for a in available if not a.startswith('ours')],
  }
  chosen = []
  for name in names:
    exact = [name] if name in available else None
    begin = [a for a in available if a.startswith(name)]
    found = groups.get(name) or exact or begin
    if not found:
      known = ', '.join([*groups, *available])
      raise flags_lib.FlagError(f'{name!r} is no attack; they are {known}')
    chosen += [a for a in found if a not in chosen]
  return chosen


def run_ours(network, name, norm, budget, batch_size):
  """Our side: points, gradients and forwards an example.

  A gradient is charged with a forward of its own, as in a torch model.
  """
  found = boundary.measure(
    network.logits_fn,
    network.xs,
    network.ys,
    norm=norm,
    bounds=(0.0, 1.0),
    method=name.removeprefix('ours_'),
    max_gradients=budget or 2000,
    batch_size=batch_size,
  )
  forwards = found.forwards + found.gradients
  return found.point, found.gradients, forwards


def cell_file(out_dir, network, norm, attack, budget):
  return out_dir / 'cells' / f'{network}-{norm}-{attack}-{budget}.json'


def run_cell(out_dir, network, norm, attack, budget, solve, prepare):
  """What one attack found, from its file if there is one for as many examples.

  Args:
    out_dir: where cells are kept.
    network, norm, attack, budget: what to run; budget 0 for the attack's own.
    solve: `() -> (points, gradients, forwards)`.
    prepare: called before, and timed apart: it compiles.
  """
  file = cell_file(out_dir, network.name, norm, attack, budget)
  if file.exists():
    cell = records.read_json(file)
    if len(cell['distance']) == len(network.xs):
      return cell
  cell = dict(network=network.name, norm=str(norm), attack=attack)
  cell |= dict(budget=budget, error='', seconds=0.0, first_seconds=0.0)
  try:
    _, cell['first_seconds'] = timing.timed(prepare)
    (points, gradients, forwards), cell['seconds'] = timing.timed(solve)
    found = judge(network.exact_logits, network.xs, network.ys, points, norm)
  except Exception as error:  # Some peers raise; the others go on.
    cell['error'] = f'{type(error).__name__}: {error}'[:300]
    found = np.full(len(network.xs), np.inf)
    gradients = forwards = 0.0
  cell |= dict(
    gradients=float(np.mean(gradients)),
    forwards=float(np.mean(forwards)),
    distance=np.asarray(found).tolist(),
  )
  records.write_json(file, cell)
  return cell


class Bench:
  """One network's two sides, ready to run any attack."""

  def __init__(self, network, batch_size, peers=None):
    self.network, self._batch_size, self._peers = network, batch_size, peers
    self._model = peers and peers.Model(network.weights)
    torch_logits = ()
    if peers:
      torch_logits = (self._model(peers.to_torch(network.xs)).detach(),)
    check_agreement(network, *torch_logits)

  @functools.cached_property
  def of_torch(self):
    """The network by the module of the peers; None without either library."""
    if not self._peers:
      return None
    try:
      return self.network.of_torch(self._model.network)
    except ImportError as error:
      print(f'without interop ({error})')
      return None

  def runs(self, attack, norm):
    """Whether an attack minimises a norm."""
    if attack.startswith('ours') and norm == 0:
      return attack in _COUNTING
    if attack.startswith('ours'):
      return attack != 'ours_sigma_zero' and (attack != 'ours_ddn' or norm == 2)
    return norm in self._peers.PEERS[attack].norms

  def own_budget(self, attack):
    if attack.startswith('ours'):
      return OURS.get(attack, False)
    return self._peers.PEERS[attack].own_budget

  def prepare(self, attack, norm, budget):
    """Compiles: ours by a whole call, a peer by its first steps."""
    if attack.startswith('ours'):
      self.solve(attack, norm, budget)
    else:
      self.solve(attack, norm, 60, examples=2)

  def solve_into(self, found, attack, norm, budget, threads):
    """Solves, a peer on so many threads, and keeps the answer by name."""
    if self._peers:
      self._peers.torch.set_num_threads(threads)
    found[attack] = self.solve(attack, norm, budget)

  def solve(self, attack, norm, budget, examples=None):
    """Returns points, gradients and forwards an example."""
    net = self.network
    if attack.endswith(_TORCH):
      net, attack = self.of_torch, attack.removesuffix(_TORCH)
    if attack.startswith('ours'):
      return run_ours(net, attack, norm, budget, self._batch_size)
    return self._peers.attack(
      self._model,
      attack,
      net.xs[:examples],
      net.ys[:examples],
      norm,
      budget,
      float(np.max(net.best[norm])) if norm in net.best else None,
      self._batch_size,
    )


def measure(bench, out_dir, norms, attacks, budgets):
  """Fills the cells of one network, both sides in turns; returns them."""
  units = []
  for norm, budget, attack in itertools.product(norms, budgets, attacks):
    own = bench.own_budget(attack)
    if bench.runs(attack, norm) and not (own and budget != budgets[0]):
      units.append((norm, attack, 0 if own else budget))
  cells = []
  with tqdm.tqdm(units, desc=bench.network.name, unit='cell') as bar:
    for norm, attack, budget in bar:
      bar.set_postfix_str(f'{attack} {budget} l{norm:g}')
      cells.append(
        run_cell(
          out_dir,
          bench.network,
          norm,
          attack,
          budget,
          functools.partial(bench.solve, attack, norm, budget),
          functools.partial(bench.prepare, attack, norm, budget),
        )
      )
  return cells


def cells_of(out_dir, networks, norms):
  """All cells on disk of as many examples as asked for, of any attack."""
  cells = []
  for network, norm in itertools.product(networks, norms):
    for file in sorted(out_dir.glob(f'cells/{network.name}-{norm}-*.json')):
      cell = records.read_json(file)
      if len(cell['distance']) == len(network.xs):
        cells.append(cell)
  return cells


def reference_distances(cells, networks, norms):
  """Best known distances by network and norm; else the best of all cells."""
  references = {}
  for network, norm in itertools.product(networks, norms):
    key = network.name, str(norm)
    mine = [c['distance'] for c in cells if (c['network'], c['norm']) == key]
    if norm in network.best:
      references[key] = network.best[norm]
    else:
      references[key] = np.min(mine, axis=0, initial=np.inf)
  return references


def write_results(out_dir, networks, norms):
  """Writes results.npz and summary.json from the cells; returns the latter."""
  cells = cells_of(out_dir, networks, norms)
  references = reference_distances(cells, networks, norms)
  rows = _peers_report.summarize(cells, references)
  sizes = [len(cell['distance']) for cell in cells]
  columns = {
    key: np.repeat([cell[key] for cell in cells], sizes)
    for key in ('network', 'norm', 'attack', 'budget')
  }
  columns['example'] = np.concatenate([np.arange(n) for n in sizes])
  columns['distance'] = np.concatenate([cell['distance'] for cell in cells])
  columns['best'] = np.concatenate(
    [references[cell['network'], cell['norm']] for cell in cells]
  )
  records.save_columns(out_dir / 'results.npz', columns)
  unknown = [c for c in cells if float(c['norm']) not in _BEST]
  summary = dict(judge_tolerance=_TOLERANCE, cores=os.cpu_count(), rows=rows)
  summary['counts'] = _peers_report.count_changes(cells)
  summary['beside_peers'] = _peers_report.compare(unknown)
  records.write_json(out_dir / 'summary.json', summary)
  return summary


def contenders(rows):
  """Who reaches the quality of the best peer, each at its cheapest budget.

  Returns:
    `(target, rows)`: the best peer's mean ratio at its best budget, and for
    each attack that reaches it the row of fewest gradients; ours first.
  """
  peers = [r for r in rows if not r['attack'].startswith('ours')]
  if not peers:
    return np.inf, []
  target = min(r['mean_ratio'] for r in peers)
  cheapest = {}
  for row in sorted(rows, key=lambda r: r['gradients']):
    if row['mean_ratio'] <= target:
      cheapest.setdefault(row['attack'], row)
  ours_first = lambda r: (not r['attack'].startswith('ours'), r['gradients'])
  return target, sorted(cheapest.values(), key=ours_first)


def unit_times(network, batch_size, repeats, count=20):
  """Seconds of one jitted value-and-gradient, and one forward, of all examples.

  Each from where the last one led: nothing can be hoisted from the loop.
  """

  def gradients(x, label, count):
    margin = lambda v: margins.margin(network.logits_fn(v), label)
    step = lambda _, v: v - 1e-6 * jax.grad(margin)(v)
    return jnp.sum(jax.lax.fori_loop(0, count, step, x))

  def forwards(x, label, count):
    step = lambda _, v: v - 1e-9 * network.logits_fn(v)[label]
    return jnp.sum(jax.lax.fori_loop(0, count, step, x))

  def side(fn, count):
    # Traced before: only running it is timed.
    example = network.xs[0], network.ys[0], np.int32(count)
    traced = programs.trace(fn, *example)
    return lambda: parallel.map_examples(
      traced,
      (network.xs, network.ys),
      shared=(np.int32(count),),
      batch_size=batch_size,
    )

  sides = {
    (fn, n): side(fn, n) for fn in (gradients, forwards) for n in (1, 1 + count)
  }
  best = timing.best_times(sides, repeats)
  return [
    (best[fn, 1 + count] - best[fn, 1]) / count for fn in (gradients, forwards)
  ]


def time_equal_quality(bench, norm, rows, repeats, threads):
  """Rows of the table of `--speed`: both sides to the best peer's quality."""
  target, sides = contenders(rows)
  if bench.of_torch:
    ours = [r for r in sides if r['attack'].startswith('ours')]
    again = [dict(r, attack=r['attack'] + _TORCH) for r in ours]
    sides = [*ours, *again, *sides[len(ours) :]]
  found, first, calls = {}, {}, {}
  ours = [r['attack'] for r in sides if r['attack'].startswith('ours')]
  for row in sides:
    job = row['attack'], norm, row['budget']
    first[row['attack']] = timing.timed(functools.partial(bench.prepare, *job))[
      1
    ]
    # Torch is at times faster on one core: a peer may choose.
    for cores in [threads] if row['attack'] in ours else {1, threads}:
      calls[row['attack'], cores] = functools.partial(
        bench.solve_into, found, *job, cores
      )
  taken = timing.best_times(calls, repeats, first=0)
  size = len(bench.network.xs)
  gradient, forward = unit_times(bench.network, size, repeats)
  for row in sides:
    name = row['attack']
    _, gradients, forwards = found[name]
    gradients, forwards = float(np.mean(gradients)), float(np.mean(forwards))
    alone = gradients * gradient + (forwards - gradients) * forward
    row['gradients'] = gradients
    row['seconds'] = min(s for (a, _), s in taken.items() if a == name)
    row['first_seconds'] = first[name] if name in ours else None
    row['overhead'] = row['seconds'] / alone if name in ours else None
  by_name = {row['attack']: row for row in sides}
  reference = by_name[ours[0]]['seconds'] if ours else np.nan
  more = lambda r: dict(target=target, times_ours=r['seconds'] / reference)
  return [{k: (r | more(r))[k] for k in _SPEED_COLUMNS} for r in sides]


def first_call(reference, name, norm, method, budget, threads):
  """Seconds of the first search of a process, compilation included."""
  jax.config.update('jax_num_cpu_devices', threads)
  network = load(reference, name, 20)
  run = lambda: run_ours(network, method, norm, budget, 256)
  return timing.timed(run)[1]


def _speed(out_dir, benches, norms):
  """Times every network and norm; speed.json grows as they finish."""
  rows = records.read_json(out_dir / 'summary.json')['rows']
  out = dict(equal_quality=[], fresh_process=[])
  fresh = multiprocessing.get_context('spawn')
  for bench in benches:
    name = bench.network.name
    for norm in norms:
      mine = [r for r in rows if (r['network'], r['norm']) == (name, str(norm))]
      out['equal_quality'] += time_equal_quality(
        bench, norm, mine, _REPEATS.value, _THREADS.value
      )
      records.write_json(out_dir / 'speed.json', out)
    for norm, method in itertools.product(norms, OURS):
      job = _REFERENCE.value, name, norm, method, 1000, _THREADS.value
      with fresh.Pool(1) as pool:
        seconds = pool.apply(first_call, job)
      out['fresh_process'].append(
        dict(network=name, norm=str(norm), attack=method, seconds=seconds)
      )
      records.write_json(out_dir / 'speed.json', out)
  text = lambda v: '-' if v is None else v if isinstance(v, str) else f'{v:.3g}'
  for key, keys in (
    ('equal_quality', _SPEED_COLUMNS),
    ('fresh_process', ['network', 'norm', 'attack', 'seconds']),
  ):
    printing.print_table(keys, [[text(r[k]) for k in keys] for r in out[key]])


def _import_peers():
  try:
    from benchmarks import _peers_torch
  except ImportError as error:
    print(f'without peers ({error}); see benchmarks/requirements.txt')
    return None
  _peers_torch.torch.set_num_threads(_THREADS.value)
  return _peers_torch


def _benches(peers):
  """Loads one network after the other; speed mode repeats the examples."""
  nums = [int(n) for n in _NUM_EXAMPLES.value]
  names = _NETWORKS.value
  if len(nums) not in (1, len(names)):
    raise flags_lib.FlagError('--num_examples: one number, or one a network')
  nums = nums * len(names) if len(nums) == 1 else nums
  for name, num in zip(names, nums, strict=True):
    network = load(_REFERENCE.value, name, num)
    if _SPEED.value:
      network = network.repeat(_SPEED_BATCH.value)
    yield Bench(network, _BATCH_SIZE.value, peers)


def run():
  jax.config.update('jax_num_cpu_devices', _THREADS.value)
  jax.config.update('jax_default_matmul_precision', 'highest')
  peers = _import_peers()
  out_dir = pathlib.Path(_OUT_DIR.value)
  norms = [float(p) for p in _NORMS.value]
  available = [*OURS, *METHODS, *(peers.PEERS if peers else ())]
  attacks = select(_ATTACKS.value, available)
  if _SPEED.value:
    _speed(out_dir, _benches(peers), norms)
    return
  forgotten = select(_REDO.value, available)
  networks = []
  for bench in _benches(peers):
    networks.append(bench.network)
    for file in out_dir.glob(f'cells/{bench.network.name}-*.json'):
      if file.stem.split('-')[2] in forgotten:
        file.unlink()
    budgets = [int(b) for b in _BUDGETS.value]
    measure(bench, out_dir, norms, attacks, budgets)
    jax.clear_caches()
  summary = write_results(out_dir, networks, norms)
  rows = summary['rows']
  printing.print_table(_peers_report.HEADER, _peers_report.table(rows))
  for key in ('counts', 'beside_peers'):
    if summary[key]:
      print()
      printing.print_table(*_peers_report.plain_table(summary[key]))
  for r in rows:
    if r['error']:
      where = f'{r["network"]} {r["norm"]} {r["attack"]} {r["budget"]}'
      print(f'{where}: {r["error"]}')
  for path in _peers_report.draw(out_dir):
    print(path)


def main(argv):
  try:
    if len(argv) > 1:
      raise flags_lib.FlagError(f'unexpected argument {argv[1]!r}')
    run()
  except (flags.FlagError, FileNotFoundError) as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  flags.mark_flag_as_required('reference')
  app.run(main)
