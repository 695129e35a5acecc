"""Imports run downwards only; every public module is an attribute."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
# Modules of each layer may import from the layers before it.
LAYERS = (
  ('frames',),
  (
    'programs',
    'norms',
    'margins',
    'records',
    'curves',
    'statistics',
    'data',
    'pooled_kernel',
    '_neural_tangents',
  ),
  ('_xla_cpu', 'checkpoints'),
  ('parallel', 'decompositions', 'synthetic'),
  ('normals', 'som'),
  ('boundary', 'models', 'nngp', 'train'),
  (
    'random_nets',
    'bit_strings',
    'plots',
    'certify',
    'interop',
    'ratios',
    'scaling',
    'manifold',
    'halfway',
  ),
  ('predictions', 'codes'),
)


# What experiments may share.
SHARED = (
  'gallery',
  'networks',
  'pairs',
  'training',
)


def imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module:
      for alias in node.names:
        yield f'{node.module}.{alias.name}'
    elif isinstance(node, ast.Import):
      for alias in node.names:
        yield alias.name


def layer(name):
  return next(i for i, names in enumerate(LAYERS) if name in names)


def test_library_imports_run_downwards():
  paths = [p for p in ROOT.glob('dmm_jax/**/*.py') if p.parent.name != 'tests']
  assert len(paths) > 10
  for path in paths:
    parts = path.relative_to(ROOT / 'dmm_jax').with_suffix('').parts
    if parts == ('__init__',):
      continue
    for name in imported(path):
      where = f'{path.name} imports {name}'
      assert not name.startswith(('experiments', 'absl.flags', 'tests')), where
      assert 'matplotlib' not in name or parts[0] == 'plots', where
      assert 'neural_tangents' not in name or parts[0] in (
        'nngp',
        '_neural_tangents',
      ), where
      if name.startswith('dmm_jax.'):
        other = name.split('.')[1]
        assert other == parts[0] or layer(other) < layer(parts[0]), where


def test_no_experiment_imports_another():
  for path in (ROOT / 'experiments').glob('*.py'):
    own = f'figures.{path.stem}'
    for name in imported(path):
      if name.startswith('experiments'):
        shared = name.removeprefix('experiments.')
        good = shared in SHARED or shared == own or shared.startswith('lib.')
        assert good, f'{path.name} imports {name}'


def test_the_frame_knows_no_experiment():
  for path in (ROOT / 'experiments/lib').glob('*.py'):
    for name in imported(path):
      if name.startswith('experiments'):
        assert name.startswith('experiments.lib.'), f'{path.name}: {name}'
  for path in (ROOT / 'experiments/figures').glob('*.py'):
    for name in imported(path):
      good = name.startswith('experiments.lib.')
      assert good or not name.startswith('experiments'), f'{path.name}: {name}'


def test_private_names_of_jax_stay_in_the_shim():
  for path in ROOT.glob('*/**/*.py'):
    if path.name != '_neural_tangents.py' and '.venv' not in path.parts:
      for name in imported(path):
        assert not name.startswith(('jax._src', 'jax.interpreters')), path


def public_modules():
  for path in (ROOT / 'dmm_jax').iterdir():
    if path.suffix == '.py' or (path / '__init__.py').exists():
      if not path.stem.startswith('_'):
        yield path.stem


def test_every_public_module_is_an_attribute_and_none_is_imported_at_once():
  names = sorted(public_modules())
  assert {'boundary', 'manifold', 'halfway', 'bit_strings', 'train'} < {*names}
  code = f"""
import sys
import dmm_jax
names = {names}
loaded = [n for n in sys.modules if n.startswith('dmm_jax.')]
assert not loaded, loaded
assert sorted(dmm_jax.__all__) == names, dmm_jax.__all__
assert not {{*names}} - {{*dir(dmm_jax)}}
assert not [n for n in sys.modules if n.startswith('dmm_jax.')]
for name in names:
  assert getattr(dmm_jax, name).__name__ == 'dmm_jax.' + name
assert dmm_jax.train.adversarial.Adversary and dmm_jax.train.losses.LOSSES
try: dmm_jax.recipes
except AttributeError as error: assert 'recipes' in str(error)
else: raise AssertionError
"""
  subprocess.run([sys.executable, '-c', code], check=True)
