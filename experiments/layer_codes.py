"""What one network's layers make of a data set, in numbers: rows of a table."""

import functools
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn import metrics

from dmm_jax import boundary
from dmm_jax import codes
from dmm_jax import parallel
from dmm_jax import programs
from dmm_jax import som
from experiments import populations

NEAREST = 'nearest'


class Seen(NamedTuple):
  """A network's look at the images, by name of what was done to them.

  Attributes:
    train, test: `{layer: [n, d]}` of all images.
    moved, noise: of the perturbed ones, of noise of their size; attacks come
      first, `{layer: [a, n, d]}`.
  """

  train: dict
  test: dict
  moved: dict
  noise: dict


def attack_names(radii) -> list[str]:
  """Of the attacks, in order; the first ones are projected gradient, linf."""
  return [*(f'linf {r:g}' for r in radii), NEAREST]


def attack_image(
  x, label, number, radii, params, stats, *, forward, steps, max_gradients
):
  """Perturbed copies `[a, ...]` of an image, noise likewise, and how far.

  The last is the nearest point of the boundary, l2; its noise is a random
  direction, that of the others random signs.
  """
  logits_fn = populations.logits_of(forward, params, stats)
  keys = jax.random.split(jax.random.key(number), 3)
  ascended = jax.vmap(
    lambda r: populations.ascend(keys[0], logits_fn, x, label, r, steps)
  )(radii)
  found = boundary.nearest_point(
    logits_fn,
    x,
    label,
    bounds=(0.0, 1.0),
    method='projection',
    max_gradients=max_gradients,
    with_normal=False,
  )
  like = functools.partial(codes.matched_noise, bounds=(0.0, 1.0))
  signs = jax.vmap(lambda v: like(keys[1], x, v))(ascended)
  other = like(keys[2], x, found.point, norm=2)
  logits = jnp.sort(logits_fn(x))
  return {
    'moved': jnp.concatenate([ascended, found.point[None]]),
    'noise': jnp.concatenate([signs, other[None]]),
    'distance': found.distance,
    'margin': logits[-1] - logits[-2],
  }


def logits_and_codes(x, params, stats, *, forward):
  """Logits and codes of one image and one network of many."""
  return forward(params, stats, x, None, False)[0]


def encode(forward, network, sets, tried, pooling, layers, batch_size) -> Seen:
  """Codes of all images under one pooling."""
  encode_all = functools.partial(
    codes.of_network,
    programs.bind(logits_and_codes, forward=forward),
    shared=network,
    pooling=pooling,
    layers=layers,
    batch_size=batch_size,
  )
  plain = [encode_all(sets[split][0]) for split in ('train', 'test')]
  found = []
  for kind in ('moved', 'noise'):
    images = np.moveaxis(tried[kind], 1, 0)
    rows = encode_all(images.reshape(-1, *images.shape[2:]))
    shape = images.shape[:2]
    found.append({k: v.reshape(*shape, -1) for k, v in rows.items()})
  return Seen(*plain, *found)


def _fit_map(seed, given, **options):
  """A map of codes, of one seed."""
  return som.fit(jax.random.key(seed), given, divide=False, **options)


def fit_maps(config, given) -> list[som.Map]:
  """Maps of codes, one for each seed; the devices share the seeds."""
  fit = programs.bind(
    _fit_map,
    grid=(config.side,) * 2,
    num_epochs=config.num_epochs,
    topology=config.topology,
    periodic=config.periodic,
  )
  stack = parallel.map_examples(
    fit, (np.arange(config.num_maps),), shared=(np.asarray(given),)
  )
  return [
    jax.tree.map(lambda v, i=i: jnp.asarray(v[i]), stack)
    for i in range(config.num_maps)
  ]


class Laid(NamedTuple):
  """A layer's codes, laid out on maps.

  Attributes:
    scale: codes as they are -> as maps have them.
    train, test: scaled codes `[n, d]`.
    maps, validation: maps of the codes of either, one a seed.
    numbers: measures that need no map, or are of all.
  """

  scale: Any
  train: np.ndarray
  test: np.ndarray
  maps: list[som.Map]
  validation: list[som.Map]
  numbers: dict


def lay(config, raw, raw_test, labels, *, controls: bool) -> Laid:
  """Maps of a layer, and measures of its codes.

  Args:
    config: flags.
    raw, raw_test: codes `[n, d]`.
    labels: of the first.
    controls: whether k-means and random bits are held against the maps.
  """
  plain = config.scaling == 'raw'
  scale = lambda v: v if plain else codes.standardize(v, raw)
  train, test = scale(raw), scale(raw_test)
  maps = fit_maps(config, train)
  variances = codes.spectrum(train)
  numbers = {
    'dimensions': int(np.sum(np.ptp(raw, axis=0) > 0)),
    'k90': codes.num_components(variances),
    'participation': codes.participation_ratio(variances),
    'diversity': codes.diversity(raw),
    'diversity_standardized': codes.diversity(train),
    'diversity_units': np.mean([_diversity(config, m, raw) for m in maps]),
    'nmi_kmeans': np.nan,
    'nmi_bits': np.nan,
  }
  if controls:
    num = config.side**2
    clusters = codes.kmeans(0, train, num, n_init=1)
    units = np.asarray(som.best_matching_units(clusters, train))[:, 1]
    numbers['nmi_kmeans'] = codes.nmi(units, labels)
    bits = codes.random_bits(jax.random.key(0), train, int(np.log2(num)))
    numbers['nmi_bits'] = codes.nmi(bits, labels)
  return Laid(scale, train, test, maps, fit_maps(config, test), numbers)


def _diversity(config, trained, raw):
  """Of the units' codes, in units of codes as they are."""
  units = np.asarray(trained.units)
  if config.scaling != 'raw':
    units = units * raw.std(axis=0) + raw.mean(axis=0)
  return codes.diversity(units)


class Placed(NamedTuple):
  """Where codes lie on a map, and what its units stand for.

  A unit is a number; that of a code which has none is -1, which finds the last
  entry of `classes` and `doubt`.

  Attributes:
    trained: the map.
    train, test: units of all codes `[n]`.
    classes: the commonest class of each unit, then -1 `[units + 1]`.
    doubt: the share of each unit's codes that are not of a class, then 1
      `[units + 1, classes]`.
  """

  trained: som.Map
  train: np.ndarray
  test: np.ndarray
  classes: np.ndarray
  doubt: np.ndarray


def flat(trained: som.Map, given: np.ndarray) -> np.ndarray:
  """Numbers of codes' units `[n]`, -1 for none."""
  units = som.flat(trained, som.best_matching_units(trained, given))
  return np.maximum(units, -1)


def place(trained: som.Map, laid: Laid, facts: dict) -> Placed:
  """Lays a layer's codes on one of its maps."""
  train, test = flat(trained, laid.train), flat(trained, laid.test)
  num_units = len(trained.units)
  counts = som.label_counts(
    trained, laid.train, jnp.asarray(facts['train']), facts['num_classes']
  )
  counts = np.asarray(counts).reshape(num_units, -1)
  doubt = 1 - counts / np.maximum(counts.sum(1, keepdims=True), 1)
  classes = codes.majorities(train, facts['train'], num_units)
  return Placed(
    trained,
    train,
    test,
    np.append(classes, -1),
    np.concatenate([doubt, np.ones_like(doubt[:1])]),
  )


def describe(laid: Laid, seen: Seen, layer: str, facts: dict) -> dict:
  """Columns of one layer, one row a map.

  Args:
    laid: its maps.
    seen, layer: the codes of perturbed images are taken of these.
    facts: as of `facts_of`.
  """
  moved, noise = (laid.scale(v[layer]) for v in (seen.moved, seen.noise))
  start = laid.test[: moved.shape[1]]
  same = laid.numbers | {'room': _room(start, noise, laid.train, facts)}
  rows = []
  for trained, validation in zip(laid.maps, laid.validation, strict=True):
    placed = place(trained, laid, facts)
    rows.append(
      same
      | of_map(placed, laid, facts)
      | shifts(placed, (start, moved, noise), facts)
      | crossed(trained, validation, laid, facts)
    )
  return {k: np.array([row[k] for row in rows]) for k in rows[0]}


def _room(start, noise, train, facts):
  """How far each image's code is from one of another class, by noise `[n]`.

  Other than its label's, so that all networks are asked the same; in units of
  the mean displacement by noise of the smallest radius.
  """
  away, _ = codes.nearest_other_class(
    *(jnp.asarray(v) for v in (start, facts['test'][: len(start)])),
    *(jnp.asarray(v) for v in (train, facts['train'])),
  )
  return _by_noise(away, start, noise)


def of_map(placed, laid, facts) -> dict:
  """Measures of one map: its errors, and how its units go with classes."""
  trained, units, num_units = (
    placed.trained,
    placed.train,
    len(placed.doubt) - 1,
  )
  size = np.sqrt(np.mean(np.sum(np.square(laid.train), axis=1)))
  history = np.asarray(trained.history) / size
  wrong = facts['said'] != facts['test']
  doubt = placed.doubt[placed.test, facts['said']]
  classes = placed.classes[placed.test]
  return {
    'quantization': float(som.quantization_error(trained, laid.train)) / size,
    'topographic': float(som.topographic_error(trained, laid.train)),
    'occupancy': codes.occupancy(units, num_units),
    'entropy': codes.entropy(units, num_units),
    'purity': codes.purity(units, facts['train']),
    'nmi': codes.nmi(units, facts['train']),
    'accuracy': np.mean(classes == facts['test']),
    'agreement': np.mean(classes == facts['said']),
    'history': history.astype(np.float32),
    # The first epoch from which on the error is within 5 % of the last one's.
    'settled': int(
      np.max(np.flatnonzero(history > 1.05 * history[-1]), initial=-1)
    )
    + 1,
    # Of wrongly classified images: which of the two their unit is for.
    'wrong_said': _mean(classes == facts['said'], wrong),
    'wrong_true': _mean(classes == facts['test'], wrong),
    'auroc_error': _auroc(doubt[wrong], doubt[~wrong]),
  }


def shifts(placed, given, facts) -> dict:
  """What attacks and noise do on one map; names end in the attack's place.

  'adopted' and 'auroc' are of the images that an attack fools, and so are their
  nulls: whether noise brings these to a unit of the class that the attack leads
  to, and whether doubt of the class tells their noisy copies from clean images.
  """
  start, moved, noise = given
  said = facts['said'][: len(start)]
  doubt = lambda units, classes: placed.doubt[units, classes]
  clean = doubt(placed.test[: len(start)], said)
  row = {'unit_room': _unit_room(placed, start, noise, facts)}
  shift = lambda after: codes.unit_shift(
    placed.trained, *map(jnp.asarray, (start, after))
  )
  for number, (here, there) in enumerate(zip(moved, noise, strict=True)):
    far, still = shift(here), shift(there)
    now, noisy = (facts[k][number] for k in ('said_moved', 'said_noise'))
    fooled = now != said
    at, beside = (flat(placed.trained, v) for v in (here, there))
    row |= {
      f'shift{number}': float(np.nanmean(far.grid)),
      f'still{number}': float(np.nanmean(still.grid)),
      f'changed{number}': float(np.mean(far.changed)),
      f'adopted{number}': _mean(placed.classes[at] == now, fooled),
      f'adopted_noise{number}': _mean(placed.classes[beside] == now, fooled),
      f'auroc{number}': _auroc(doubt(at, now)[fooled], clean),
      f'auroc_noise{number}': _auroc(doubt(beside, noisy)[fooled], clean),
    }
  return row


def _mean(values, where):
  """NaN where there is none."""
  return float(np.mean(values[where])) if where.any() else np.nan


def _unit_room(placed, start, noise, facts):
  """As `_room`, of the code of each image's unit among the map's units."""
  units, at = placed.trained.units, placed.test[: len(start)]
  away, _ = codes.nearest_other_class(
    units[at],
    jnp.asarray(facts['test'][: len(start)]),
    units,
    jnp.asarray(placed.classes[:-1]),
  )
  return np.where(at < 0, np.nan, _by_noise(away, start, noise))


def _by_noise(away, start, noise):
  """NaN where noise moves no code: a layer that has died."""
  size = np.linalg.norm(noise[0] - start, axis=1).mean()
  return np.asarray(away, np.float32) / (size if size > 0 else np.nan)


def _auroc(yes, no):
  """Of a detector whose values are larger for `yes`; NaN where one is empty."""
  if not len(yes) or not len(no):
    return np.nan
  truth = np.r_[np.ones(len(yes)), np.zeros(len(no))]
  return float(metrics.roc_auc_score(truth, np.r_[yes, no]))


def crossed(trained, validation, laid, facts) -> dict:
  """Class dispersion of maps of training and of test codes, on both."""
  given_on = {'train': laid.train, 'test': laid.test}
  return {
    f'dispersion_{of}_{on}': codes.dispersion(
      one, np.asarray(som.best_matching_units(one, given)), facts[on]
    )
    for of, one in (('train', trained), ('test', validation))
    for on, given in given_on.items()
  }


def facts_of(sets, seen: Seen) -> dict:
  """Labels, and the network's classes of what it sees; as of `describe`."""
  labels = {split: sets[split][1] for split in ('train', 'test')}
  return labels | {
    'said': seen.test['logits'].argmax(-1),
    'said_moved': seen.moved['logits'].argmax(-1),
    'said_noise': seen.noise['logits'].argmax(-1),
    'num_classes': int(labels['train'].max()) + 1,
  }


def _synthesize(
  number, target, start, shift, slope, params, stats, *, forward, layer, pooling
):
  """An input whose code is that of a unit."""

  def code(x):
    _, hidden = logits_and_codes(x, params, stats, forward=forward)
    return shift + slope * codes.pool(hidden[layer], pooling)

  return codes.synthesize(
    jax.random.key(number), code, target, start, roughness=0.01
  )


def features(laid, seen, layer, pooling, xs, forward, network, num=12):
  """Columns of the units that most codes have, one row a unit.

  Their mean input, the one nearest to them, a synthesized one, and whether that
  one's unit is theirs; synthesis starts from grey.
  """
  raw, trained = seen.train[layer], laid.maps[0]
  units = flat(trained, laid.train)
  hits = np.bincount(units, minlength=len(trained.units))
  chosen = np.argsort(-hits, kind='stable')[:num]
  # The scale as a function of one code, for gradients.
  shift, unit = laid.scale(np.stack([0 * raw[0], 0 * raw[0] + 1]))
  drawn = parallel.map_examples(
    programs.bind(_synthesize, forward=forward, layer=layer, pooling=pooling),
    (chosen, np.asarray(trained.units)[chosen]),
    shared=(np.full_like(xs[0], 0.5), shift, unit - shift, *network),
  )
  again = codes.of_network(
    programs.bind(logits_and_codes, forward=forward),
    drawn,
    shared=network,
    pooling=pooling,
    layers=(layer,),
  )[layer]
  place = np.stack(np.unravel_index(chosen, trained.grid), axis=1)
  nearest = codes.top_inputs(trained, laid.train, 1)
  return {
    'unit': place,
    'hits': hits[chosen],
    'mean': np.stack([xs[units == u].mean(axis=0) for u in chosen]),
    'nearest': xs[nearest[place[:, 0], place[:, 1], 0]],
    'synthesized': drawn,
    'reencoded': codes.reencoded(trained, laid.scale(again), place),
  }
