"""Training of maps against plain numpy and other libraries."""

import dataclasses
import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import som_oracles as plain

from dmm_jax import som
from dmm_jax.som import fitting

KEY = jax.random.key(0)
PLACES = list(itertools.product(som.TOPOLOGIES, (False, True)))


def draw(n=60, d=5, seed=0):
  return np.random.default_rng(seed).normal(size=(n, d))


def make(codebook, **names):
  return som.Map(jnp.asarray(codebook), **names)


@pytest.fixture
def double():
  with jax.enable_x64(True):
    yield


# --- One step --------------------------------------------------------------


def test_one_step_on_every_grid_is_that_of_numpy(double):
  # l1 costs the least to compile; other distances follow.
  grid = 4, 7
  cases = [(*v, n) for v in PLACES for n in som.NEIGHBORHOODS]
  keys = 'topology periodic neighborhood'.split()
  cases = [dict(zip(keys, v, strict=True)) for v in cases]
  codebook, xs = draw(28, 3, 1).reshape(*grid, 3), draw(31, 3)
  xs[4, 1] = np.nan

  @jax.jit
  def run(codebook, sigma, rate):
    out = []
    for names in cases:
      ours = som.Map(codebook, jnp.arange(3.0), distance='l1', **names)
      online = som.step(ours, xs[0], sigma, rate)
      if names['neighborhood'] == 'mexican_hat':
        batch = ours
      else:
        # In few rows at a time; on each device a part.
        batch = som.batch_step(ours, xs, sigma, search_bytes=28 * 8 * 3 * 5)
      out.append((online, batch))
    return out

  found = run(codebook, 1.7, 0.3)
  for names, (online, batch) in zip(cases, found, strict=True):
    want, _ = plain.online_step(codebook, xs[0], 1.7, 0.3, 'l1', **names)
    close = functools.partial(np.testing.assert_allclose, err_msg=str(names))
    close(online.codebook, want, atol=1e-12)
    for one in (online, batch):
      np.testing.assert_array_equal(one.history, np.arange(3))
    if names['neighborhood'] == 'mexican_hat':
      continue
    want, _ = plain.batch_step(codebook, xs, 1.7, 'l1', **names)
    close(batch.codebook, want, atol=1e-12)


@pytest.mark.parametrize('distance', som.DISTANCES)
def test_one_step_of_every_distance_is_that_of_numpy(double, distance):
  codebook, xs = draw(12, 4, 1).reshape(3, 4, 4), draw(37, 4)
  xs[3, 2], xs[5, 0], xs[7], xs[9] = np.nan, np.inf, 0, 2.5

  @jax.jit
  def run(codebook, xs):
    ours = som.Map(codebook, distance=distance)
    step = lambda x: som.step(ours, x, 1.2, 0.4).codebook
    return som.batch_step(ours, xs, 0.9).codebook, jax.lax.map(step, xs[:10])

  batch, online = run(codebook, xs)
  want, _ = plain.batch_step(codebook, xs, 0.9, distance)
  np.testing.assert_allclose(batch, want, atol=1e-10)
  usable = plain.is_usable(xs, distance)
  for x, known, got in zip(xs, usable, online, strict=False):
    want = codebook
    if known:
      want, _ = plain.online_step(codebook, x, 1.2, 0.4, distance)
    np.testing.assert_allclose(got, want, atol=1e-10)


def test_units_without_codes_around_keep_their_code():
  # In float32 below about 1e-31, the sum of weights.
  begin = make(np.array([[[0.0], [10.0]]], np.float32))
  for weight, moves in ((1e-29, True), (1e-33, False)):
    sigma = np.sqrt(0.5 / -np.log(weight / 2))
    new = som.batch_step(begin, np.ones((2, 1), np.float32), sigma).codebook
    np.testing.assert_allclose(new[0, :, 0], [1, 1 if moves else 10], rtol=1e-5)
  # Not even where most codes are infinite.
  xs = np.float32([[1], [np.inf], [np.inf], [np.inf], [3]])
  new = som.batch_step(begin, xs, 1e3).codebook
  np.testing.assert_allclose(new[0, :, 0], 2, rtol=1e-4)


# --- Fits ------------------------------------------------------------------

# Everything otherwise than by default.
OPTIONS = dict(
  grid=(4, 3),
  num_epochs=4,
  topology='hexagonal',
  periodic=True,
  distance='l1',
  neighborhood='triangle',
  sigma=(2.3, 0.9),
)


@pytest.mark.parametrize('schedule', som.SCHEDULES)
def test_a_batch_fit_is_that_of_numpy(double, schedule):
  xs, begin = draw(31, 3), draw(12, 3, 1).reshape(4, 3, 3)
  got = som.fit(KEY, xs, init=begin, schedule=schedule, **OPTIONS)
  want, history = begin, []
  names = {k: OPTIONS[k] for k in 'topology periodic neighborhood'.split()}
  for sigma in plain.schedule(schedule, 2.3, 0.9, 4):
    want, away = plain.batch_step(want, xs, sigma, 'l1', **names)
    history.append(away)
  np.testing.assert_allclose(got.codebook, want, atol=1e-10)
  np.testing.assert_allclose(got.history, history, rtol=1e-10)
  for name in ('grid', 'topology', 'periodic', 'distance', 'neighborhood'):
    assert getattr(got, name) == OPTIONS[name]


@pytest.mark.parametrize('schedule', som.SCHEDULES)
def test_an_online_fit_is_that_of_numpy(double, schedule):
  # Equal codes, so that their order is no matter; an unusable one among them.
  x, begin = draw(1, 3)[0], draw(12, 3, 1).reshape(4, 3, 3)
  xs = np.tile(x, (3, 1))
  got = som.fit(
    KEY,
    xs,
    method='online',
    init=begin,
    schedule=schedule,
    rate=(0.6, 0.2),
    **OPTIONS,
  )
  names = {k: OPTIONS[k] for k in 'topology periodic neighborhood'.split()}
  want, away = begin, []
  values = (plain.schedule(schedule, *v, 12) for v in ((2.3, 0.9), (0.6, 0.2)))
  for sigma, rate in zip(*values, strict=True):
    want, before = plain.online_step(want, x, sigma, rate, 'l1', **names)
    away.append(before)
  np.testing.assert_allclose(got.codebook, want, atol=1e-10)
  np.testing.assert_allclose(
    got.history, np.reshape(away, (4, 3)).mean(1), rtol=1e-10
  )


def test_schedules_between_two_ends():
  for name in som.SCHEDULES:
    for start, end, num in ((2.0, 0.5, 5), (0.5, 4.0, 2), (3.0, 1.0, 1)):
      want = plain.schedule(name, start, end, num)
      got = som.schedule(name, start, end, num)
      np.testing.assert_allclose(got, want, rtol=1e-6)
    assert som.schedule(name, 2.0, 1.0, 0).shape == (0,)
  with pytest.raises(ValueError, match=r"schedule must be one of .* 'cosine'"):
    som.schedule('cosine', 2.0, 1.0, 3)


def test_defaults_of_a_fit():
  # The same program throughout: what changes are its arguments.
  xs = draw(40, 2).astype(np.float32)
  before = fitting._fit._cache_size()
  fit = functools.partial(som.fit, KEY, xs)
  plainly = fit()
  assert plainly.grid == (20, 20) and plainly.history.shape == (20,)
  names = [v.name for v in dataclasses.fields(som.Map)][2:]
  values = [getattr(plainly, name) for name in names]
  assert values == ['rectangular', False, 'euclidean', 'gaussian']
  explicit = fit(
    grid=(20, 20),
    num_epochs=20,
    method='batch',
    init='sample',
    sigma=(10.0, 0.7),
    schedule='exponential',
    search_bytes=None,
    divide=True,
  )
  np.testing.assert_array_equal(explicit.codebook, plainly.codebook)
  assert fitting._fit._cache_size() == before + 1
  wider = fit(sigma=(10.0, 1.4))
  assert np.any(wider.codebook != plainly.codebook)


def test_defaults_of_an_online_fit():
  xs = draw(9, 2).astype(np.float32)
  fit = functools.partial(
    som.fit, KEY, xs, grid=(2, 7), num_epochs=2, method='online', distance='l1'
  )
  want = fit(sigma=(3.5, 0.7), rate=(0.5, 0.01)).codebook
  np.testing.assert_array_equal(fit().codebook, want)
  for other in (dict(rate=(0.5, 0.02)), dict(sigma=(3.5, 0.8))):
    assert np.any(fit(**other).codebook != want)
  # On a small grid the first width is no smaller than the last.
  fit = functools.partial(
    som.fit, KEY, xs, grid=(1, 1), num_epochs=1, method='online', distance='l1'
  )
  np.testing.assert_array_equal(fit().codebook, fit(sigma=(0.7, 0.7)).codebook)


def test_a_fit_is_the_same_undivided_and_in_single_precision(double):
  xs, begin = draw(31, 3), draw(12, 3, 1).reshape(3, 4, 3)
  fit = functools.partial(
    som.fit, KEY, init=begin, grid=(3, 4), num_epochs=3, sigma=(2, 0.5)
  )
  got = fit(xs)
  alone = fit(xs, divide=False)
  np.testing.assert_allclose(alone.codebook, got.codebook, atol=1e-12)
  np.testing.assert_allclose(alone.history, got.history, atol=1e-12)
  single = fit(np.float32(xs))
  assert single.codebook.dtype == jnp.float32
  np.testing.assert_allclose(single.codebook, got.codebook, atol=1e-5)
  for method in som.METHODS:
    none = som.fit(
      KEY, xs, init=begin, grid=(3, 4), num_epochs=0, method=method
    )
    np.testing.assert_allclose(none.codebook, begin, atol=1e-12)
    assert none.history.shape == (0,)


def test_codes_are_divided_among_devices_if_asked():
  ours, xs = make(np.zeros((2, 3, 3))), jnp.zeros((40, 3))
  text = lambda f, **more: str(jax.make_jaxpr(functools.partial(f, **more))(xs))
  step = lambda v, **more: som.batch_step(ours, v, 1.0, **more)
  fit = lambda v, **more: som.fit(KEY, v, grid=(2, 3), **more)
  for function in (step, fit):
    assert 'psum' in text(function) and 'psum' in text(function, divide=True)
    assert 'psum' not in text(function, divide=False)
  limited = fit(xs, search_bytes=4 * 6 * 16, num_epochs=1)
  assert limited.history.shape == (1,)
  assert '[1,20,3]' in text(fit, divide=False, search_bytes=4 * 6 * 20) or (
    '[3,16,3]' in text(fit, divide=False, search_bytes=4 * 6 * 20)
  )


def test_online_epochs_take_every_code_once_in_a_new_order():
  # At rate 1 one unit jumps from code to code: its jumps tell the order.
  xs = np.array([1.0, 2, 4, 8])
  fit = jax.jit(
    lambda key: som.fit(
      key,
      xs[:, None],
      grid=(1, 1),
      num_epochs=6,
      method='online',
      rate=(1, 1),
      init=np.zeros((1, 1, 1)),
    )
  )
  orders = []
  for seed in (0, 1):
    found = fit(jax.random.key(seed))
    at = {0.0: ()}
    for mean in found.history:
      new = {}
      for start, past in at.items():
        for order in itertools.permutations(xs):
          if np.isclose(np.abs(np.diff([start, *order])).mean(), mean):
            new[order[-1]] = (*past, order)
      at = new
    last = float(found.codebook[0, 0, 0])
    assert last in at
    orders.append(at[last])
  # Orders of epochs and of keys differ.
  assert all(len(set(v)) > 2 for v in orders) and orders[0] != orders[1]


def test_online_and_batch_find_as_good_maps():
  xs = draw(400, 2).astype(np.float32)
  fit = functools.partial(som.fit, KEY, xs, grid=(5, 5), num_epochs=5)
  batch, online = (fit(method=m) for m in ('batch', 'online'))
  errors = [som.quantization_error(v, xs) for v in (batch, online)]
  np.testing.assert_allclose(*errors, rtol=0.2)
  assert som.topographic_error(batch, xs) < 0.1


def test_vmap_over_seeds_and_layers():
  layers = [draw(50, d, seed=d).astype(np.float32) for d in (3, 6)]
  stack = som.pad(layers)
  keys = jax.random.split(KEY, 2)
  fit = functools.partial(som.fit, grid=(3, 2), num_epochs=3)
  many = jax.vmap(lambda k: jax.vmap(functools.partial(fit, k))(stack))(keys)
  assert many.codebook.shape == (2, 2, 3, 2, 6)
  assert many.grid == (3, 2) and many.units.shape == (2, 2, 6, 6)
  for i, j in np.ndindex(2, 2):
    one = fit(keys[i], layers[j])
    codebook = many.codebook[i, j]
    np.testing.assert_allclose(
      codebook[..., : layers[j].shape[1]], one.codebook, atol=1e-5
    )
    np.testing.assert_allclose(many.history[i, j], one.history, rtol=1e-5)
  np.testing.assert_allclose(many.codebook[:, 0, ..., 3:], 0)


# --- Codes of any kind -----------------------------------------------------


@pytest.mark.parametrize(
  'method, init', [('batch', 'sample'), ('batch', 'pca'), ('online', 'random')]
)
def test_degenerate_codes(method, init):
  # Of one shape, fewer than units but enough to fit again and again.
  options = dict(grid=(3, 4), num_epochs=3, method=method, init=init)
  fit = lambda v: som.fit(KEY, v, sigma=(1, 0.5), **options)
  whole = draw(10, 2).astype(np.float32)
  found = fit(whole * np.float32([1, 0]))
  assert np.all(np.isfinite(found.codebook))
  flat = np.full((10, 2), 3.0, np.float32)
  found = fit(flat)
  if init != 'random':
    np.testing.assert_allclose(found.codebook, 3, atol=1e-5)
    assert som.quantization_error(found, flat) < 1e-5
  # NaN and infinite codes count for nothing.
  holed = whole.copy()
  holed[8:] = [[np.nan, 1], [np.inf, 0]]
  found = fit(holed)
  assert np.all(np.isfinite(found.codebook))
  assert np.all(np.isfinite(found.history))
  # No usable code at all.
  nothing = np.full((10, 2), np.nan, np.float32)
  assert np.all(np.isnan(fit(nothing).codebook))


def test_nan_codes_change_nothing(double):
  xs, begin = draw(20, 3), draw(6, 3, 1).reshape(2, 3, 3)
  holed = np.insert(xs, 5, np.nan, axis=0)
  fit = lambda v: som.fit(
    KEY, v, grid=(2, 3), num_epochs=3, init=begin, distance='l1'
  )
  np.testing.assert_allclose(fit(holed).codebook, fit(xs).codebook, atol=1e-12)
  np.testing.assert_allclose(fit(holed).history, fit(xs).history, atol=1e-12)


def test_one_dimension_lies_in_order():
  xs = np.random.default_rng(0).uniform(size=(60, 1)).astype(np.float32)
  ours = som.fit(KEY, xs, grid=(1, 8), init='pca', sigma=(2, 0.5))
  assert np.all(np.diff(ours.codebook[0, :, 0]) > 0)
  assert som.topographic_error(ours, xs) == 0


def test_large_offsets_do_not_cancel():
  xs = draw(200, 3).astype(np.float32)
  begin = xs[:12].reshape(3, 4, 3)
  fit = lambda v, b: som.fit(KEY, v, grid=(3, 4), num_epochs=3, init=b)
  near, far = fit(xs, begin), fit(xs + 256, begin + 256)
  np.testing.assert_allclose(far.codebook - 256, near.codebook, atol=1e-3)


@pytest.mark.parametrize('size', [1e5, 1e6])
def test_fit_with_an_outlier_is_the_closed_form(size):
  xs = draw(200).astype(np.float32)
  xs[0], xs[1, 0] = size, -size
  begin = draw(12, seed=1).reshape(3, 4, 5).astype(np.float32)
  fit = lambda v: som.fit(
    KEY, v, grid=(3, 4), num_epochs=4, sigma=(1.5, 0.5), init=begin
  )
  got, want, history = fit(xs), begin.astype(float), []
  for sigma in plain.schedule('exponential', 1.5, 0.5, 4):
    want, away = plain.batch_step(want, xs.astype(float), sigma)
    history.append(away)
  # Of a mean that holds the outlier, some float32 roundings of its weight.
  scale = 1e-5 * (np.abs(want).max(axis=-1, keepdims=True) + 1)
  assert np.all(np.abs(got.codebook - want) <= scale)
  np.testing.assert_allclose(got.history, history, rtol=1e-5)


def test_history_is_the_mean_distance_of_near_codes():
  # Codes next to their units, far from the centre: the expansion cancels.
  xs = np.repeat(draw(20, 3).astype(np.float32) * 100, 5, axis=0)
  xs = xs + 1e-3 * draw(100, 3, 1).astype(np.float32)
  begin = xs[::5].reshape(4, 5, 3)
  got = som.fit(KEY, xs, grid=(4, 5), num_epochs=1, init=begin)
  away = plain.all_distances(xs, begin.reshape(-1, 3)).min(axis=1)
  np.testing.assert_allclose(got.history, [away.mean()], rtol=1e-5)


@pytest.mark.parametrize(
  'options, message',
  [
    (dict(topology='round'), 'topology must be one of'),
    (dict(topology='hexagonal', periodic=True, grid=(3, 4)), 'even number'),
    (dict(distance='l3'), 'distance must be one of'),
    (dict(neighborhood='cone'), 'neighborhood must be one of'),
    (dict(neighborhood='mexican_hat'), "use method='online'"),
    (dict(method='both'), 'method must be one of'),
    (dict(init='zeros'), r'init must be a codebook .* or one of'),
    (dict(init=np.zeros((1, 1, 3))), r'here of shape \(4, 4, 3\), got shape'),
    (dict(schedule='cosine'), 'schedule must be one of'),
    (dict(grid=(0, 2)), 'grid must be two positive integers'),
    (dict(sigma=(1, 0)), 'sigma must be two positive'),
    (dict(sigma=(-1, 1)), 'sigma must be two positive'),
    (dict(sigma=(1, 2, 3)), 'sigma must be two'),
    (dict(sigma=2.0), 'sigma must be two'),
    (dict(sigma=[[1, 2], [1, 2]]), 'sigma must be two'),
    (dict(sigma=(np.inf, 1)), 'sigma must be two'),
    (dict(sigma=(1, np.nan)), 'sigma must be two'),
    (dict(rate=(0.5,)), 'rate must be two'),
    (dict(rate=(0.5, 0)), 'rate must be two'),
    (dict(num_epochs=2.5), 'num_epochs must be an integer, at least 0'),
    (dict(num_epochs=-1), 'num_epochs must be an integer, at least 0'),
    (dict(search_bytes=0), 'search_bytes must be None or a positive'),
    (dict(method='online', search_bytes=-2), 'search_bytes must be None or'),
  ],
)
def test_invalid_options_are_refused(options, message):
  options = dict(grid=(4, 4)) | options
  with pytest.raises(ValueError, match=message):
    som.fit(KEY, draw(9, 3), **options)


def test_codes_and_keys_that_are_none_are_refused():
  xs = draw(4, 2)
  for wrong in (np.zeros((0, 3)), np.zeros((3, 0)), np.zeros(3)):
    with pytest.raises(
      ValueError, match=r'non-empty \[n, d\] array, got shape'
    ):
      som.fit(KEY, wrong)
  with pytest.raises(ValueError, match='codes must be real numbers, got dtype'):
    som.fit(KEY, xs * 1j)
  raw = jax.random.PRNGKey(0)
  for wrong, what in (
    (0, 'a int'),
    (jax.random.split(KEY), 'key<.*(2,)'),
    (jnp.stack([raw, raw]), 'uint32'),
    (raw.astype(jnp.int32), 'int32'),
    (np.zeros(2), 'float64'),
  ):
    with pytest.raises(ValueError, match=f'key must be one key.*got {what}'):
      som.fit(wrong, xs)
  # Raw keys are keys too, whole numbers codes, and lists grids.
  fit = functools.partial(som.fit, grid=[1, 2], num_epochs=np.int64(1))
  whole = np.array([[0, 1], [4, 5]], np.uint8)
  trained = fit(raw, whole)
  assert trained.codebook.dtype == jnp.float32 and trained.grid == (1, 2)
  np.testing.assert_array_equal(
    trained.codebook, fit(jax.random.wrap_key_data(raw), whole * 1.0).codebook
  )
  np.testing.assert_array_equal(
    trained.codebook, fit(raw, whole.tolist()).codebook
  )
  for xs in (whole, whole * 1.0):
    trained = fit(raw, xs, method='online', distance='l1', sigma=(1, 1))
    assert trained.codebook.dtype == jnp.float32
    assert np.any(trained.codebook % 1 != 0)


# --- Other libraries -------------------------------------------------------


def test_triangle_never_overshoots():
  # MiniSom's has height sigma^2: the unit would go 4 times the way.
  begin = make(np.zeros((3, 3, 1)), neighborhood='triangle')
  moved = som.step(begin, np.ones(1), 2.0, 1.0).codebook
  np.testing.assert_allclose(moved.max(), 1)


def test_batch_is_not_averaged_by_parts():
  # Peers that average an update over a batch of m lag: W += mean(h (x - w)).
  xs = draw(300, 3).astype(np.float32) + 5
  ours = som.fit(KEY, xs, grid=(1, 1), num_epochs=1, init=np.zeros((1, 1, 3)))
  np.testing.assert_allclose(ours.codebook[0, 0], xs.mean(0), rtol=1e-5)


@pytest.mark.parametrize('topology', som.TOPOLOGIES)
def test_agrees_with_minisom(topology):
  minisom = pytest.importorskip('minisom')
  xs = draw(100, 4)
  peer = minisom.MiniSom(6, 5, 4, sigma=2.0, topology=topology, random_seed=0)
  begin = peer.get_weights().copy()
  peer.train(xs, 100)
  sigmas, rates = (som.schedule('asymptotic', v, 0, 100) for v in (2.0, 0.5))
  with jax.enable_x64(True):
    state = som.from_minisom(begin, topology=topology)
    one = lambda state, now: (som.step(state, *now), None)
    scan = jax.jit(lambda s: jax.lax.scan(one, s, (xs, sigmas, rates))[0])
    got = scan(state)
    np.testing.assert_allclose(
      som.to_minisom(got), peer.get_weights(), atol=1e-6
    )
    np.testing.assert_allclose(
      som.quantization_error(got, xs), peer.quantization_error(xs), rtol=1e-6
    )
    error = som.topographic_error(got, xs)
    np.testing.assert_allclose(error, peer.topographic_error(xs), atol=1e-9)
    for reduce in ('mean', 'sum'):
      ours = som.u_matrix(got, reduce=reduce).T
      theirs = peer.distance_map(scaling=reduce)
      np.testing.assert_allclose(ours / ours.max(), theirs, rtol=1e-6)


def test_agrees_with_xpysom():
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    xpysom = pytest.importorskip('xpysom')
  xs = draw(100, 4).astype(np.float32)
  peer = xpysom.XPySom(
    6, 5, 4, sigma=2.5, sigmaN=0.8, std_coeff=1.0, random_seed=0, xp=np
  )
  begin = peer.get_weights().copy()
  peer.train(xs, 4)
  # Its exponential schedule stops one step short of the end.
  end = 2.5 * (0.8 / 2.5) ** (3 / 4)
  got = som.fit(
    KEY,
    xs,
    grid=(5, 6),
    num_epochs=4,
    sigma=(2.5, end),
    init=begin.swapaxes(0, 1),
  )
  np.testing.assert_allclose(som.to_minisom(got), peer.get_weights(), atol=1e-4)
