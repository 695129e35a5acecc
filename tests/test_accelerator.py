"""The script for accelerators: at small sizes, and its figures on a page."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
SECTIONS = 'device', 'map', 'many', 'search', 'train', 'figure1', 'memory'


@pytest.mark.slow
def test_small_sizes_run_on_a_cpu_and_what_is_there_is_kept(tmp_path):
  out = tmp_path / 'small.json'
  command = [sys.executable, '-m', 'benchmarks.accelerator', '--small']
  subprocess.run([*command, f'--out={out}'], check=True, cwd=ROOT)
  found = json.loads(out.read_text())
  assert set(SECTIONS) <= set(found)
  for name in SECTIONS:
    assert found[name]['section_seconds'] > 0
  searches = {k: v for k, v in found['search'].items() if ' ' in k}
  assert set(searches) == {'mnist_cnn fast', 'mnist_cnn portfolio'}
  for search in searches.values():
    assert 0 < search['share_of_rate'] < 1
    assert 0 < search['median_distance'] < 1
  assert {row['norm'] for row in found['figure1']['rows']} >= {'1.0', '2.0'}
  # The last section is missing; the others are not measured again.
  out.write_text(json.dumps(found | {'map': {'kept': 1}, 'train': None}))
  only = '--sections=map,device'
  subprocess.run([*command, only, f'--out={out}'], check=True, cwd=ROOT)
  assert json.loads(out.read_text())['map'] == {'kept': 1}


def test_the_page_has_the_figures_of_the_file():
  found = json.loads((ROOT / 'results' / 'accelerator.json').read_text())
  page = (ROOT / 'SCALING.md').read_text()
  for name, search in found['search'].items():
    if name != 'section_seconds':
      cells = [
        *name.split(),
        f'{search["gradients"]:.0f}',
        f'{search["examples_per_second"]:,.0f}',
        f'{search["share_of_rate"]:.0%}',
        f'{search["seconds_with_compiling"] - search["seconds"]:.0f}',
      ]
      assert f'| {" | ".join(cells)} |' in page
  assert f'{found["map"]["seconds"]:.2f} s' in page
  assert f'{found["many"]["times_as_fast"]:.0f} times as fast' in page
  assert found['device']['device'] in page
