"""Every notebook is stripped, short, and runs."""

import json
import pathlib
import sys
from unittest import mock

import pytest

COLABS = sorted(
  (pathlib.Path(__file__).parent.parent / 'colabs').glob('*.ipynb')
)
TOYS = {
  'dimples': "{'steps': 20, 'num_seeds': 1, 'widths': '8', 'num_examples': 5}",
  'manifold_split': (
    "{'dataset': 'digits', 'epochs': 1, 'latent': 4, 'ks': (4,), "
    "'num_examples': 10, 'max_gradients': 20, 'kinds': ('decoder', 'random')}"
  ),
  'halfway_transfer': (
    "{'models': ('mlp', 'linear'), 'num_steps': 5, 'num_networks': 3, "
    "'num_images': 20, 'num_pairs': 30, 'num_train': 1000}"
  ),
  'boundary_distances': (
    "{'num_examples': 10, 'width': 32, 'depth': 1, 'num_fresh': 1, "
    "'certify': False}"
  ),
  'random_scaling': (
    "{'num_networks': 6, 'sizes': (4, 6), 'width': 8, 'infinite_draws': 0, "
    "'num_predicted': 1}"
  ),
}


# As matplotlib sees it outside a notebook.
IPYTHON = mock.MagicMock(version_info=(9, 0), get_ipython=lambda: None)
# What their experiments' own tests run too.
SLOW = (
  'boundary_distances',
  'halfway_transfer',
  'manifold_split',
  'random_scaling',
)


def cells(path, kind):
  notebook = json.loads(path.read_text())
  return [c for c in notebook['cells'] if c['cell_type'] == kind]


@pytest.mark.parametrize('path', COLABS, ids=lambda p: p.stem)
def test_colab_is_stripped_and_short(path):
  code, text = cells(path, 'code'), cells(path, 'markdown')
  assert len(code) + len(text) <= 15
  assert not any(c['outputs'] or c['execution_count'] for c in code)
  assert any('pip install' in line for line in code[0]['source'])


@pytest.mark.parametrize(
  'path',
  [
    pytest.param(p, id=p.stem, marks=[pytest.mark.slow] * (p.stem in SLOW))
    for p in COLABS
  ],
)
def test_colab_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'IPython', IPYTHON)
  space = {}
  for cell in cells(path, 'code'):
    lines = [v for v in cell['source'] if not v.startswith(('!', '%'))]
    source = ''.join(lines).replace('FLAGS = {}', f'FLAGS = {TOYS[path.stem]}')
    exec(compile(source, path.name, 'exec'), space)
  assert (tmp_path / space['RUN_DIR'] / 'summary.json').exists()
