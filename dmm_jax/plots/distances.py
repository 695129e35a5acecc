"""Figures of `experiments.boundary_distances`."""

import pathlib

import numpy as np

from dmm_jax import records
from dmm_jax import statistics
from dmm_jax.plots import canvas

_LOOKS = {
  'trained': dict(color='#0b3c5d', linestyle='-', linewidth=1.8),
  'fresh': dict(color='#d9822b', linestyle='--', linewidth=1.5),
}
_NAMES = {'trained': 'trained', 'fresh': 'untrained, own labels'}
_PICTURES = 6


def boundary_distances(run_dir: pathlib.Path) -> list[pathlib.Path]:
  """Draws every figure of `experiments.boundary_distances`.

  Returns:
    Their paths. The sheets of pictures are left out where the inputs are not
    images or no point was found.
  """
  run_dir = pathlib.Path(run_dir)
  results = records.load_columns(run_dir / 'results.npz')
  points = records.load_columns(run_dir / 'points.npz')
  figures = {
    'robust_accuracy': _robust_accuracy(results),
    'histogram': _histogram(results),
  }
  network = results['network'][0]
  for norm in np.unique(points['norm']):
    keep = (points['norm'] == norm) & (points['network'] == network)
    keep &= (points['draw'] == 0) & (points['target'] >= 0)
    keep &= np.isfinite(points['distance']) & (points['distance'] > 0)
    if points['x'].ndim == 4 and keep.any():
      chosen = {name: column[keep] for name, column in points.items()}
      figures[f'points_l{norm:g}'] = _pictures(chosen, norm, network)
  return [
    canvas.save(f, run_dir / 'figures' / name) for name, f in figures.items()
  ]


def _axes(results):
  norms = np.unique(results['norm'])
  # Legend and title need the width of two.
  width = max(3.6, 6.4 / len(norms))
  figure, axes = canvas.grid(1, len(norms), width=width, height=3.8)
  for norm, ax in zip(norms, axes[0], strict=True):
    ax.set_title(f'${canvas.NORMS[str(norm)]}$')
    ax.margins(x=0)
  return figure, dict(zip(norms, axes[0], strict=True))


def _networks(results):
  return [name for name in _LOOKS if name in results['network']]


def _farthest(results, norm):
  """Where the axis ends: nearly all of what was found lies before."""
  distance = results['distance'][results['norm'] == norm]
  finite = distance[np.isfinite(distance)]
  end = np.quantile(finite, 0.995) if finite.size else 0.0
  return float(end) or 1.0


def _robust_accuracy(results):
  """Share of examples farther than eps from the boundary, against eps."""
  figure, axes = _axes(results)
  for norm, ax in axes.items():
    end = _farthest(results, norm)
    eps = np.linspace(0, end, 400)
    for network in _networks(results):
      found = records.select(results, norm=norm, network=network)
      # Draws share their examples: the band counts examples once.
      examples = len(np.unique(found['index']))
      look = _LOOKS[network]
      share = np.mean(found['distance'] > eps[:, None], axis=1)
      low, high = statistics.wilson(share, examples)
      ax.fill_between(eps, low, high, color=look['color'], alpha=0.18, lw=0)
      ax.plot(eps, share, **look, label=f'{_NAMES[network]}: nearest found')
      if np.isfinite(found['lower']).any():
        share = np.mean(found['lower'] > eps[:, None], axis=1)
        ax.plot(
          eps,
          share,
          color=look['color'],
          linestyle=':' if network == 'trained' else (0, (1, 3)),
          linewidth=1.6,
          label=f'{_NAMES[network]}: certified',
        )
    ax.set(ylim=(0, 1.02), xlabel=r'$\epsilon$ (input units)')
  first = next(iter(axes.values()))
  first.set_ylabel(r'share of examples with distance > $\epsilon$')
  figure.suptitle(
    'Robust accuracy as found, an upper bound; 95 % bands over examples',
    fontsize=10,
  )
  canvas.legend(figure, first, ncols=2)
  return figure


def _histogram(results):
  """Distances of the examples that are right and were found."""
  figure, axes = _axes(results)
  for norm, ax in axes.items():
    edges = np.linspace(0, _farthest(results, norm), 31)
    lines = []
    for network in _networks(results):
      distance = records.select(results, norm=norm, network=network)['distance']
      kept = distance[(distance > 0) & np.isfinite(distance)]
      # Of all examples, so that bars and what is left out add up to one.
      weights = np.full(len(kept), 1 / len(distance))
      look = _LOOKS[network]
      ax.hist(
        kept,
        edges,
        weights=weights,
        histtype='stepfilled',
        color=look['color'],
        alpha=0.25,
      )
      ax.hist(
        kept,
        edges,
        weights=weights,
        histtype='step',
        label=_NAMES[network],
        **look,
      )
      lines.append(
        f'{_NAMES[network].split(",")[0]}: '
        f'{np.mean(distance == 0):.1%} misclassified, '
        f'{np.mean(np.isinf(distance)):.1%} not found'
      )
    ax.set_title(
      f'${canvas.NORMS[str(norm)]}$\n' + '\n'.join(lines), fontsize=8
    )
    ax.set_xlabel('distance to the boundary (input units)')
  first = next(iter(axes.values()))
  first.set_ylabel('share of examples')
  canvas.legend(figure, first, ncols=2)
  return figure


def _pictures(points, norm, network):
  """Image, change and boundary image of a few examples, one a column."""
  columns = min(_PICTURES, len(points['x']))
  figure, axes = canvas.grid(3, columns, width=1.55, height=1.75)
  change = points['point'] - points['x']
  for j in range(columns):
    scale = float(np.abs(change[j]).max())
    canvas.image(axes[0, j], points['x'][j])
    canvas.change(axes[1, j], change[j], scale)
    canvas.image(axes[2, j], points['point'][j])
    axes[0, j].set_title(
      rf'{points["label"][j]} $\rightarrow$ {points["target"][j]}'
      f'\nat {points["distance"][j]:.3g}',
      fontsize=9,
    )
    axes[1, j].set_title(rf'$\pm${scale:.2g}', fontsize=8)
  for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
  for ax, text in zip(axes[:, 0], ('image', 'change', 'boundary'), strict=True):
    ax.set_ylabel(text, fontsize=9)
  figure.suptitle(
    f'Nearest boundary points in ${canvas.NORMS[str(norm)]}$, '
    f'{_NAMES[network]}: class $\\rightarrow$ class beyond, distance\n'
    'change: dark takes away, bright adds, up to the scale above it',
    fontsize=9,
  )
  return figure
