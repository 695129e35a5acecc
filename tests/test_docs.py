"""The reference pages: whole, and of one mind with the code they speak of."""

import dataclasses
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

from experiments.lib import processes

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted((ROOT / 'docs').rglob('*.md'))
RESULTS, README = ROOT / 'RESULTS.md', ROOT / 'README.md'
INTERVAL = r'[-+]?[\d.]+ %? ?\[[-+\d., %]+\]'
# What is generated from results/*.json.
GENERATED = r'<!-- results\b[^>]*-->.*?<!-- end -->'


def words(path):
  """Text on one line: where it was broken does not matter."""
  return ' '.join(path.read_text().split())


def test_every_public_module_has_a_page():
  text = '\n'.join(page.read_text() for page in PAGES)
  shown = re.findall(r'(?m)^::: dmm_jax\.(\w+)$', text)
  paths = (ROOT / 'dmm_jax').iterdir()
  public = {p.stem for p in paths if not p.name.startswith(('_', '.', 'py.'))}
  assert len(public) > 20
  assert sorted(shown) == sorted(public)


def test_no_page_has_estimates_of_its_own():
  """They are generated, so that none outlives the run that it is of."""
  for page in (*PAGES, RESULTS, README):
    own = re.sub(GENERATED, '', words(page))
    assert re.findall(INTERVAL, own) == [], page
  text = words(RESULTS)
  blocks = re.findall(GENERATED, text)
  assert text.count('<!-- end -->') == len(blocks) > 20
  assert len(re.findall(INTERVAL, ' '.join(blocks))) > 500


def test_commands_name_what_experiments_have():
  pages = [*PAGES, RESULTS, README]
  text = '\n'.join(page.read_text() for page in pages).replace('\\\n', ' ')
  commands = re.findall(r'python -m experiments\.([a-z_.]+)(.*)', text)
  assert len(commands) > 15
  for name, rest in commands:
    module = importlib.import_module(f'experiments.{name}')
    known = {
      field.name
      for cls in (module.Config, processes.Processes)
      for field in dataclasses.fields(cls)
    }
    for flag, value in re.findall(r'--(\w+)=(\S+)', rest):
      assert flag in known, f'experiments.{name} has no --{flag}'
      value = value.rstrip('`,')
      presets = getattr(module, 'PRESETS', ('quick', 'default', 'full'))
      assert flag != 'preset' or value in presets, f'{name}: {value}'


def test_the_page_of_own_networks_says_what_takes_them_and_what_does_not():
  text = (ROOT / 'docs/own_networks.md').read_text()
  section = text.split('\n## In experiments\n')[1].split('\n## ')[0]
  table = [line for line in section.splitlines() if line.startswith('| `')]
  taking = set(re.findall(r'`([a-z_]+)`', ' '.join(row[:30] for row in table)))
  without = section.split('have no `--network`.')[1]
  for path in sorted((ROOT / 'experiments').glob('*.py')):
    if 'PRESETS = {' in path.read_text():
      module = importlib.import_module(f'experiments.{path.stem}')
      names = {field.name for field in dataclasses.fields(module.Config)}
      takes = 'network' in names
      assert (path.stem in taking) == takes, path.stem
      assert (f'`{path.stem}`' in without) == (not takes), path.stem
  # A list that breaks off.
  assert not re.findall(r',\n+(?:For|The|In|These|Those)\b', text)


def test_what_a_newcomer_stumbles_over_is_on_the_page_of_own_networks():
  text = words(ROOT / 'docs/own_networks.md')
  tables = text.split('## Tables out')[1]
  assert "'.[tables]'" in tables
  quick = importlib.import_module('experiments.boundary_distances').PRESETS
  assert quick['quick']['norms'] == (2.0,)
  for said in ('--norms=2,inf', '--nocertify', 'several times as slow'):
    assert said in text, said


def test_the_example_is_the_readmes():
  first = lambda path: path.read_text().split('```python')[1].split('```')[0]
  assert first(ROOT / 'docs/index.md') == first(README)


def test_the_readmes_python_gives_what_it_says(capsys):
  names = {}
  for block in re.findall(r'```python\n(.*?)```', README.read_text(), re.S):
    exec(block, names)
  printed = capsys.readouterr().out.split()
  said = re.findall(r'print\(.*\)  # (.*)', README.read_text())
  number = r'-?\d+\.?\d*(?:e[-+]?\d+)?'
  numbers = lambda text: [float(v) for v in re.findall(number, text)]
  assert numbers(' '.join(printed)) == pytest.approx(
    numbers(' '.join(said).replace('Status.FOUND', '')), abs=1e-3
  )
  assert float(names['s']) == pytest.approx(0.59, abs=0.005)
  assert len(README.read_text().splitlines()) <= 120


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
  pytest.importorskip('mkdocs', reason="pip install -e '.[docs]'")
  command = [sys.executable, '-m', 'mkdocs', 'build', '-d', str(tmp_path)]
  built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert built.returncode == 0, built.stderr
  assert 'nearest_point' in (tmp_path / 'api/boundary/index.html').read_text()
