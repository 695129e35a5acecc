"""Every notebook is stripped, short, and runs."""

import json
import pathlib

import pytest

COLABS = sorted(
  (pathlib.Path(__file__).parent.parent / 'colabs').glob('*.ipynb')
)
TOYS = {
  'boundary_distances': (
    "{'num_examples': 10, 'width': 32, 'depth': 1, 'num_fresh': 1, "
    "'certify': False}"
  ),
  'random_scaling': (
    "{'num_networks': 6, 'sizes': (4, 6), 'width': 8, 'infinite_draws': 0, "
    "'num_predicted': 1}"
  ),
}


def cells(path, kind):
  notebook = json.loads(path.read_text())
  return [c for c in notebook['cells'] if c['cell_type'] == kind]


@pytest.mark.parametrize('path', COLABS, ids=lambda p: p.stem)
def test_colab_is_stripped_and_short(path):
  code, text = cells(path, 'code'), cells(path, 'markdown')
  assert len(code) + len(text) <= 15
  assert not any(c['outputs'] or c['execution_count'] for c in code)
  assert any('pip install' in line for line in code[0]['source'])


@pytest.mark.parametrize('path', COLABS, ids=lambda p: p.stem)
def test_colab_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  space = {}
  for cell in cells(path, 'code'):
    lines = [v for v in cell['source'] if not v.startswith(('!', '%'))]
    source = ''.join(lines).replace('FLAGS = {}', f'FLAGS = {TOYS[path.stem]}')
    exec(compile(source, path.name, 'exec'), space)
  assert (tmp_path / space['RUN_DIR'] / 'summary.json').exists()
