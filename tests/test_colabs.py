"""Every notebook is stripped, short and of one form, and runs."""

import ast
import importlib.util
import json
import pathlib
import sys
from unittest import mock

from flax import nnx  # noqa: F401  It looks for IPython: before the one below.
import pytest

ROOT = pathlib.Path(__file__).parent.parent
COLABS = sorted((ROOT / 'colabs').glob('*.ipynb'))
# In the order in which they are meant to be read.
NAMES = (
  'start_here random_scaling your_own_network dimples on_off_manifold '
  'halfway_transfer maps'
).split()
# What makes a run short: a line of the notebook -> what stands in its place.
TOYS = {
  'start_here': {
    'EPOCHS = 40': 'EPOCHS = 2',
    'NUM_IMAGES = 100': 'NUM_IMAGES = 20',
  },
  'random_scaling': {
    'FLAGS = {}': "FLAGS = {'num_networks': 6, 'sizes': (4, 6), 'width': 8, "
    "'num_predicted': 1}"
  },
  'your_own_network': {
    'STEPS = 300': 'STEPS = 30',
    'NUM_IMAGES = 60': 'NUM_IMAGES = 20',
  },
  'dimples': {
    'FLAGS = {}': "FLAGS = {'steps': 20, 'num_networks': 2, 'widths': (8,), "
    "'num_images': 4}"
  },
  'on_off_manifold': {
    'FLAGS = {}': "FLAGS = {'num_classifiers': 2, 'num_autoencoders': 2, "
    "'epochs': 1, 'autoencoder_epochs': 1, 'latent': 4, 'widths': (4,), "
    "'num_examples': 10, 'method': 'ray'}"
  },
  'halfway_transfer': {
    'FLAGS = {}': "FLAGS = {'num_steps': 10, 'num_segments': 30}"
  },
  'maps': {
    'EPOCHS = 40': 'EPOCHS = 2',
    'NUM_IMAGES = 100': 'NUM_IMAGES = 20',
    'SIDE = 10': 'SIDE = 4',
  },
}
# What has to hold after a run that leaves no run directory.
LEFT = {
  'start_here': 'np.allclose(known.distance, exact, 1e-4) and min(scales) > 0',
  'your_own_network': 'np.all(lower <= found.distance * (1 + 1e-5)) and all('
  "np.allclose(d, distances['Flax Linen'], 1e-3) for d in distances.values())",
  'maps': 'len(ratios) == len(maps) == 6',
}
# As matplotlib sees it outside a notebook.
IPYTHON = mock.MagicMock(version_info=(9, 0), get_ipython=lambda: None)


def cells(path, kind):
  notebook = json.loads(path.read_text())
  return [c for c in notebook['cells'] if c['cell_type'] == kind]


def source(path, keep=lambda code: True):
  """The code of a notebook, without what is meant for the shell.

  Args:
    path: of the notebook.
    keep: whether a cell counts, of its code.
  """
  kept = [c for c in cells(path, 'code') if keep(''.join(c['source']))]
  lines = [v for cell in kept for v in [*cell['source'], '\n']]
  return ''.join(v for v in lines if not v.startswith(('!', '%')))


def top_names(path):
  """Names that a module defines or imports, without running it."""
  found = set()
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.Import | ast.ImportFrom):
      found |= {alias.asname or alias.name for alias in node.names}
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    elif isinstance(node, ast.Assign):
      found |= {v.id for v in node.targets if isinstance(v, ast.Name)}
  return found


def our_modules(tree):
  """Names under which a notebook imports modules of this repository: files."""
  found = {}
  for node in ast.walk(tree):
    package = getattr(node, 'module', None) or ''
    if package.split('.')[0] not in ('dmm_jax', 'experiments'):
      continue
    for alias in node.names:
      place = ROOT / package.replace('.', '/') / alias.name
      file = place.with_suffix('.py')
      file = file if file.exists() else place / '__init__.py'
      found[alias.asname or alias.name] = file
  return found


def test_all_colabs_are_there():
  assert sorted(NAMES) == [path.stem for path in COLABS]
  assert set(TOYS) == set(NAMES)


@pytest.mark.parametrize('path', COLABS, ids=lambda p: p.stem)
def test_colab_has_the_form_of_all(path):
  notebook = json.loads(path.read_text())
  code, text = cells(path, 'code'), cells(path, 'markdown')
  assert notebook['nbformat'] == 4
  assert len(notebook['cells']) == len(code) + len(text) <= 15
  assert not any(c['outputs'] or c['execution_count'] for c in code)
  first, second, *_, last = notebook['cells']
  _, where, clone, _, install = first['source']
  assert where.startswith("SOURCE = 'https://") and '{SOURCE}' in clone
  assert install.startswith('!pip install')
  assert second['source'][0].startswith('# ')
  assert last['source'][0] == '## Something to try\n'
  assert 2 <= sum(v.startswith('- ') for v in last['source']) <= 3
  place = '/blob/HEAD/experiments/'
  experiment = last['source'][-1].split(place)[1].split(')')[0]
  assert (ROOT / 'experiments' / experiment).exists()
  assert source(path).count("print('running on', jax.devices()") == 1
  assert all(source(path).count(line) == 1 for line in TOYS[path.stem])


@pytest.mark.parametrize('path', COLABS, ids=lambda p: p.stem)
def test_colab_names_only_what_exists(path):
  tree = ast.parse(source(path))
  modules = our_modules(tree)
  assert modules and all(file.exists() for file in modules.values())
  known = {name: top_names(file) for name, file in modules.items()}
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
      name = node.value.id
      assert node.attr in known.get(name, {node.attr}), f'{name}.{node.attr}'


def installed(code):
  """Whether the library that a cell imports first is here."""
  words = code.split()
  if words[:2] == ['import', 'keras'] and 'keras' in sys.modules:
    return sys.modules['keras'].backend.backend() == 'jax'
  if words[0] != 'import':
    return True
  return importlib.util.find_spec(words[1]) is not None


@pytest.mark.slow
@pytest.mark.parametrize('path', COLABS, ids=lambda path: path.stem)
def test_colab_runs(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, 'IPython', IPYTHON)
  monkeypatch.setenv('KERAS_BACKEND', 'jax')
  code, space = source(path, keep=installed), {}
  for line, short in TOYS[path.stem].items():
    code = code.replace(line, short)
  exec(compile(code, path.name, 'exec'), space)
  space['plt'].close('all')
  if path.stem in LEFT:
    assert eval(LEFT[path.stem], space)
  else:
    assert (tmp_path / space['RUN_DIR'] / 'report.json').exists()
