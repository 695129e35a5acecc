"""Who fools whom: a toy run beside closed forms, and planted worlds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import resume
from scipy import special

from dmm_jax import halfway
from dmm_jax import models
from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.train import populations
from experiments import transfer
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import tables

TOY = dict(
  models=('linear', 'deep_linear'),
  parts=(40, 300),
  num_networks=4,
  num_steps=60,
  early_steps=3,
  num_images=60,
  num_segments=100,
)
NAMES = ['linear', 'deep_linear', 'linear on 40', 'linear on 300']
RANDOM = 'linear, random'


@pytest.fixture(autouse=True)
def empty_figures(monkeypatch):
  resume.draw_quickly(monkeypatch)


def toy(workdir, **more):
  return transfer.Config(workdir=str(workdir), **(TOY | more))


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return resume.run_keeping_chunks(
    transfer.run, toy, tmp_path_factory.mktemp('run')
  )


@pytest.fixture(scope='module')
def inputs():
  return transfer.load(toy(''))


# --- Runs ------------------------------------------------------------------


def linear(result, name, number):
  """Kernel and bias of a linear network of the run."""
  table = result.tables[f'parameters_{[*NAMES, RANDOM].index(name)}']
  flat = table['parameters'][number]
  unravel = populations.unraveler(models.Linear(), np.zeros((8, 8, 1)))
  head = unravel(flat)[0]['head']
  return np.asarray(head['kernel']), np.asarray(head['bias'])


def call(result, name, number, xs):
  kernel, bias = linear(result, name, number)
  return xs.reshape(len(xs), -1) @ kernel + bias


def test_images_are_those_that_were_asked_for(inputs):
  for (xs, labels), (of_xs, of_labels) in (
    (inputs.attacked, inputs.test),
    (inputs.others, inputs.train),
  ):
    assert len(xs) == len(labels) == 60
    rows = [np.flatnonzero((of_xs == x).all((1, 2, 3)))[0] for x in xs]
    assert len(set(rows)) == 60
    np.testing.assert_array_equal(of_labels[rows], labels)
  a, b = inputs.others[1][inputs.pairs].T
  assert len(a) == 100 and np.all(a != b)
  few = transfer.load(toy('', num_classes=3, num_train=200, parts=(40,)))
  assert len(few.train[1]) == 200 and set(few.test[1]) == {0, 1, 2}


def test_networks_are_measured_as_numpy_does(finished, inputs):
  _, result, _ = finished
  rows = result.tables['networks']
  names = [*NAMES, RANDOM]
  assert rows['population'].tolist() == np.repeat(names, 4).tolist()
  xs, labels = inputs.others
  directions = []
  for place, name in enumerate(rows['population']):
    if name == 'deep_linear':
      continue
    number = rows['network'][place]
    called = call(result, name, number, inputs.test[0]).argmax(1)
    right = np.mean(called == inputs.test[1])
    assert rows['accuracy'][place] == pytest.approx(right, abs=0.004)
    # Where leads balance.
    kernel, _ = linear(result, name, number)
    leads = []
    for side in (0, 1):
      logits = call(result, name, number, xs[inputs.pairs[:, side]])
      picked = np.take_along_axis(logits, labels[inputs.pairs], 1)
      leads.append(picked[:, 0] - picked[:, 1])
    wanted = leads[0] / (leads[0] - leads[1])
    wanted[np.sign(leads[0]) == np.sign(leads[1])] = np.nan
    np.testing.assert_allclose(rows['fraction'][place], wanted, atol=1e-3)
    share = special.softmax(call(result, name, number, xs), axis=1)
    slope = (share - np.eye(10)[labels]) @ kernel.T
    slope /= np.linalg.norm(slope, axis=1, keepdims=True)
    directions.append((place, slope))
  for i, a in directions[:6]:
    for j, b in directions[-6:]:
      wanted = np.mean(np.sum(a * b, axis=1))
      assert rows['cosine'][i, j] == pytest.approx(wanted, abs=1e-4)
  np.testing.assert_array_equal(
    rows['radius'] > 0, rows['population'] != RANDOM
  )
  assert np.all(rows['radius'] < 0.5)


def test_hits_are_images_that_targets_lose(finished, inputs):
  """Noise and attacks as they were drawn; what networks call them by numpy."""
  _, result, _ = finished
  networks, rows = result.tables['networks'], result.table
  assert len(rows['hits']) == 20 * 16 * 3
  radius = networks['radius'].reshape(5, 4).mean(1)
  xs, labels = inputs.attacked
  for name, number in (('linear', 1), ('linear on 300', 2), (RANDOM, 3)):
    kernel, bias = linear(result, name, number)
    population = [*NAMES, RANDOM].index(name)
    size = np.float32(radius[population if name != RANDOM else 0])
    logits_fn = lambda x, k=kernel, b=bias: x.ravel() @ k + b
    step = functools.partial(halfway.step_and_noise, logits_fn)
    moved, noisy = jax.vmap(step, in_axes=(0, 0, 0, None))(
      xs, labels, np.arange(60), size
    )
    other = np.clip(xs + np.roll(moved - xs, 1, axis=0), 0, 1)
    for kind, after in (
      ('own', moved),
      ('other image', other),
      ('noise', noisy),
    ):
      for target in (0, 9, 14):
        (row,) = np.flatnonzero(
          (rows['source'] == 4 * population + number)
          & (rows['target'] == target)
          & (rows['kind'] == kind)
        )
        of = networks['population'][target], networks['network'][target]
        known = call(result, *of, xs).argmax(1) == labels
        lost = known & (
          call(result, *of, np.asarray(after)).argmax(1) != labels
        )
        halves = lambda v: [v[::2].sum(), v[1::2].sum()]
        assert rows['images'][row].tolist() == halves(known)
        np.testing.assert_allclose(rows['hits'][row], halves(lost), atol=1)


def test_steps_at_two_linear_classes_reach_the_corner():
  """Whatever the start: as far as the radius and [0, 1] allow."""
  rng = np.random.default_rng(0)
  w = rng.normal(size=12).astype(np.float32)
  logits_fn = lambda x: jnp.stack([jnp.sum(w * x.ravel()), 0.0])
  x = rng.uniform(size=(2, 3, 2)).astype(np.float32)
  step = functools.partial(halfway.step_and_noise, logits_fn, x, 0, 3)
  moved, noisy = step(0.2)
  corner = np.clip(x.ravel() - 0.2 * np.sign(w), 0, 1)
  np.testing.assert_allclose(moved.ravel(), corner, atol=1e-6)
  inner = (x > 0.2) & (x < 0.8)
  np.testing.assert_allclose(np.abs(noisy - x)[inner], 0.2, atol=1e-6)


def test_the_radius_holds_most_nearest_points_of_a_linear_network(inputs):
  empty = transfer.populations_of(toy(''))[0]
  unravel = populations.unraveler(empty.module, inputs.attacked[0][0])
  size = sum(np.size(v) for v in jax.tree.leaves(unravel(np.zeros(650))))
  rng = np.random.default_rng(0)
  flat = 0.1 * rng.normal(size=(1, size)).astype(np.float32)
  networks = populations.stack(empty.module, flat, inputs.attacked[0][0])
  xs, labels = inputs.attacked
  head = unravel(flat[0])[0]['head']
  kernel, bias = (np.asarray(head[name]) for name in ('kernel', 'bias'))
  logits = xs.reshape(60, -1) @ kernel + bias
  right = logits.argmax(1) == labels
  found = transfer.matched_radius(inputs, networks, 0)
  # At least as far as without [0, 1].
  far = []
  for row, label in zip(logits[right], labels[right], strict=True):
    gaps = (row[label] - row) / np.maximum(
      np.abs(kernel[:, [label]] - kernel).sum(0), 1e-9
    )
    far.append(np.delete(gaps, label).min())
  least = np.sort(far)[int(0.9 * len(far))]
  assert least * (1 - 1e-4) < found < 3 * least


def test_first_steps_begin_before_training(finished):
  _, result, _ = finished
  early = result.tables['early']
  assert early['step'].tolist() == np.repeat([0, 1, 2, 3], 4).tolist()
  assert early['rate'].shape == early['cosine'].shape == (16, 4)
  np.testing.assert_allclose(np.diagonal(early['cosine'][:4]), 1, atol=1e-3)
  start = early['accuracy'][early['step'] == 0]
  assert np.all(start < 0.4) and np.ptp(start) > 0
  assert np.all((early['rate'] >= 0) & (early['rate'] <= 1))


@pytest.mark.parametrize(
  'lost',
  [
    *('attack-2', 'networks', 'early'),
    pytest.param('*', marks=pytest.mark.slow),
  ],
)
def test_a_broken_run_ends_with_the_same_bytes(finished, tmp_path, lost):
  measured = resume.assert_same_bytes(
    transfer.run, toy, finished, tmp_path, lost=[lost]
  )
  chunks = {path.stem for path in finished[2].iterdir()}
  assert measured == (chunks if lost == '*' else {lost})


def test_reports_fit_a_terminal(finished):
  _, result, _ = finished
  for table in result.report.tables:
    lines = tables.to_text(table, legend=False).splitlines()
    assert len(table.rows) <= 20 and max(map(len, lines)) <= 100
    assert 'nan' not in ' '.join(lines)


@pytest.mark.parametrize(
  'given, message',
  [
    (dict(parts=(40, 719)), '--parts asks for 1438, there are 1437'),
    (dict(num_images=361), '--num_images asks for 361, there are 360'),
    (dict(num_networks=5), '--num_networks=5 is not even'),
    (dict(num_classes=11), '--num_classes asks for 11, there are 10'),
    (dict(models=('tree',)), '--models=tree is unknown'),
  ],
)
def test_bad_flags_are_named_and_nothing_is_written(tmp_path, given, message):
  with pytest.raises(flags.FlagError, match=message):
    transfer.run(toy(tmp_path / 'run', **given))
  assert not (tmp_path / 'run').exists()


# --- Planted worlds ----------------------------------------------------------

POPULATIONS = ('mlp', 'linear', 'mlp on 50', 'mlp on 700', 'mlp, random')
M, IMAGES = 6, 200
PLANTED = dict(models=('mlp', 'linear'), parts=(50, 700), num_networks=M)


def nodes(rng, size):
  """Effects of sources and of targets, on all of their pairs."""
  num = len(POPULATIONS) * M
  return size * (rng.normal(size=(num, 1)) + rng.normal(size=(1, num)))


def fractions(rng, loads):
  """Where segments are crossed; two rows correlate by both of their loads."""
  shared = rng.normal(size=300)
  own = rng.normal(size=(len(loads), 300))
  loads = np.array(loads)[:, None]
  return 0.5 + 0.1 * (loads * shared + np.sqrt(1 - loads**2) * own)


def first_rows(rng, cosine, gain, rises):
  """Rows of early.npz: at steps 0, 1, 2, ... with these rises of accuracy."""
  rows = []
  accuracy = rng.uniform(0.08, 0.12, size=M)
  rate = rng.uniform(0.02, 0.06, size=(M, 1)) + 0.01 * rng.normal(size=(M, M))
  for step, rise in enumerate((0.0, *rises)):
    noise = nodes(rng, 0.02)[:M, :M]
    symmetric = cosine * (step > 0) + (noise + noise.T) / 2
    rows.append(
      {
        'step': np.full(M, step),
        'network': np.arange(M),
        'accuracy': accuracy + rise,
        'cosine': symmetric,
        'rate': rate + gain * (step > 0) + nodes(rng, 0.01)[:M, :M],
      }
    )
  return records.concatenate(rows)


def world(
  rng,
  *,
  gap=0.0,
  effect=0.0,
  noise=0.3,
  sides=0.2,
  loads=(0.6, 0.6),
  cosine=0.0,
  early=(transfer.LEAST, transfer.LEAST),
  rises=(0.01, 0.3),
  accuracy=0.9,
  images=IMAGES,
):
  """Tables of a run whose numbers are planted.

  Args:
    rng: of numpy.
    gap: log odds of examples over other steps, but for random labels.
    effect: of the cosine, in standard deviations, on logits of rates.
    noise: what else differs between pairs.
    sides: what else differs between sources, and between targets.
    loads: of crossings, on the smallest and on the largest parts.
    cosine: of networks with right labels; 0 of those with random ones.
    early: cosine, and gain in rate, in the first steps.
    rises: of accuracy, step by step.
    accuracy: of networks with right labels.
    images: that are attacked.
  """
  num = len(POPULATIONS) * M
  learns = np.arange(num) < num - M
  shared = rng.normal(size=(num, num))
  shared = (shared + shared.T) / np.sqrt(2)
  mean = cosine * np.outer(learns, learns)
  parts = []
  level = nodes(rng, sides)
  for kind in transfer.KINDS:
    y = level + nodes(rng, sides) - 2.0 + noise * rng.normal(size=(num, num))
    if kind == 'own':
      y = y + gap * learns[:, None] + effect * shared + 8 * np.eye(num)
    source, target = np.nonzero(np.ones((num, num)) * learns)
    rates = special.expit(y[source, target])
    parts.append(
      {
        'source': source,
        'target': target,
        'kind': np.full(len(source), kind),
        'images': np.full((len(source), 2), images // 2),
        'hits': rng.binomial(images // 2, rates[:, None], (len(source), 2)),
      }
    )
  loads = np.repeat([0.8, 0.8, *loads, 0.0], M)
  right = np.where(learns, accuracy, 0.1) + 0.01 * rng.normal(size=num)
  return {
    'results': records.concatenate(parts),
    'networks': {
      'population': np.repeat(POPULATIONS, M),
      'network': np.tile(np.arange(M), len(POPULATIONS)),
      'accuracy': right,
      'chance': np.full(num, 0.1),
      'radius': np.full(num, 0.1),
      'fraction': fractions(rng, loads),
      'cosine': mean + 0.1 * shared * (1 - np.eye(num)),
    },
    'early': first_rows(rng, *early, rises),
  }


def judge(found):
  report = transfer.analyze(toy('', **PLANTED), found)
  return {claim.name: claim for claim in report.claims}


CLEAR = dict(
  gap=2.0,
  effect=0.5,
  noise=0.05,
  sides=0.05,
  loads=(0.4, 0.8),
  cosine=0.4,
  early=(0.2, 0.2),
  images=2000,
)


def test_worlds_without_anything_support_nothing(monkeypatch):
  """Each rule errs in at most 5 %: at most 6 of 60 worlds, by the binomial."""
  resume.leave_out_tables(monkeypatch, transfer)
  found = [judge(world(np.random.default_rng(s))) for s in range(60)]
  counts = {
    name: sum(
      claims_of[name].verdict == claims.SUPPORTED for claims_of in found
    )
    for name in transfer.STATEMENTS
  }
  assert max(counts.values()) <= 6, counts
  # The rules are not silent: what is at a threshold is refuted as rarely.
  refuted = sum(v['directions align'].verdict == 'not supported' for v in found)
  assert refuted <= 6


def test_a_clear_world_supports_every_claim():
  for seed in range(3):
    found = judge(world(np.random.default_rng(seed), **CLEAR))
    assert [*found] == [*transfer.STATEMENTS]
    for name, claim in found.items():
      assert claim.verdict == claims.SUPPORTED, (name, claim.reason)
  papers = [claim.paper for claim in found.values()]
  assert papers == 5 * ['2206.04463'] + 2 * ['2206.04472']


@pytest.mark.parametrize(
  'planted, name, verdict',
  [
    (dict(gap=-1.0), 'transfer', 'not supported'),
    (dict(gap=-1.0), 'transfer, strong', 'not supported'),
    (dict(effect=0.0), 'explained, strong', 'not supported'),
    (dict(noise=0.5), 'explained', 'supported'),
    (dict(noise=0.5), 'explained, strong', 'not supported'),
    (dict(loads=(0.8, 0.4)), 'more data', 'not supported'),
    (dict(cosine=-0.3), 'directions align', 'not supported'),
    (dict(early=(0.0, 0.2)), 'before accuracy', 'not supported'),
    (dict(early=(0.2, 0.0)), 'before accuracy', 'not supported'),
    (dict(rises=(0.03, 0.3)), 'before accuracy', 'not tested'),
    (dict(accuracy=0.5), 'transfer', 'not tested'),
  ],
)
def test_what_refutes_each_claim(planted, name, verdict):
  found = judge(world(np.random.default_rng(0), **(CLEAR | planted)))
  assert found[name].verdict == verdict, found[name].reason
  others = {'explained': 'explained', 'transfer': 'transfer'}
  if verdict != 'not tested' and name.split(',')[0] not in others:
    rest = [claim.verdict for key, claim in found.items() if key != name]
    assert rest == 6 * ['supported']


def test_instruments_that_fail_test_nothing():
  found = world(np.random.default_rng(0), **CLEAR)
  rows = found['results']
  own = (rows['kind'] == 'own') & (rows['source'] == rows['target'])
  weak = own & (rows['source'] >= M) & (rows['source'] < 2 * M)
  rows['hits'][weak] = 650
  verdicts = {claim.verdict for claim in judge(found).values()}
  assert verdicts == {'not tested'}
  reason = judge(found)['more data'].reason
  assert reason == 'examples of linear fool 65% of their sources'
  # Rates that differ by the draw of images alone.
  alike = dict(gap=2.0, noise=0.0, sides=0.0, effect=0.0, images=40)
  found = judge(world(np.random.default_rng(1), **(CLEAR | alike)))
  assert found['explained'].reason == 'images alone explain'


def test_the_last_step_before_accuracy_rises_is_judged():
  planted = CLEAR | dict(rises=(0.0, 0.015, 0.4, 0.01))
  made = world(np.random.default_rng(1), **planted)
  report = transfer.analyze(toy('', **PLANTED), made)
  rows = tables.to_dicts(report.tables[3])
  assert [row['step'] for row in rows if row['decides']] == [2]
  texts = [c.text for c in judge(made)['before accuracy'].conditions]
  assert [text.split(' above')[0] for text in texts] == [
    'cosine at step 2', 'gain in rate at step 2'
  ]  # fmt: skip


def test_rates_are_of_the_pairs_that_they_speak_of():
  """By numpy: all pairs, of parts the disjoint ones, never of oneself."""
  config, found = toy('', **PLANTED), world(np.random.default_rng(2), **CLEAR)
  of = transfer.gather(config, found)
  rows = records.select(found['results'], kind='own')
  share = (rows['hits'] + 0.5) / (rows['images'] + 1)
  y = special.logit(share).mean(1)
  where = {k: np.floor_divide(rows[k], M) for k in ('source', 'target')}

  def mean(source, target, keep=True):
    keep = keep & (rows['source'] != rows['target'])
    keep &= (where['source'] == source) & (where['target'] == target)
    return special.expit(y[keep].mean())

  paired = rows['source'] // 2 == rows['target'] // 2
  for source, target, keep in (
    (0, 0, True), (1, 0, True), (0, 3, True), (4, 0, True), (2, 2, paired),
    (2, 3, True),
  ):  # fmt: skip
    names = POPULATIONS[source], POPULATIONS[target]
    got = of.rate('own', *names)
    assert got.value == pytest.approx(mean(source, target, keep))
    assert 0 < got.low < got.value < got.high < 1
  assert of.rate('own', 'mlp on 50', 'mlp on 50').n == 3
  own = y[(rows['source'] == rows['target']) & (where['source'] == 1)]
  assert of.itself('linear') == pytest.approx(special.expit(own).mean())
  agree = halfway.concordance(found['networks']['fraction'])
  assert of.mean(agree, 'mlp', 'mlp').value == pytest.approx(
    np.mean(agree[:M, :M][~np.eye(M, dtype=bool)])
  )
  (table, explained, networks, early) = transfer.analyze(config, found).tables
  assert [row[0] for row in table.rows] == [
    *POPULATIONS,
    'mlp, other image',
    'mlp, noise',
  ]
  assert table.rows[1][1] == of.rate('own', 'linear', 'mlp')
  assert table.rows[-1][2] == of.rate('noise', 'mlp', 'linear')
  assert len(explained.rows) == 4 and len(early.rows) == 3
  accuracy = found['networks']['accuracy'][M : 2 * M]
  wanted = statistics.proportion(accuracy, unit='networks')
  assert networks.rows[1][1] == wanted
