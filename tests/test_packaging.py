"""What a wheel holds."""

import pathlib
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_a_wheel_holds_the_library_alone(tmp_path):
  # A copy: building leaves files beside the sources, and takes up old ones.
  left_out = shutil.ignore_patterns('.*', '*.egg-info', 'build', 'runs', 'site')
  source = shutil.copytree(ROOT, tmp_path / 'source', ignore=left_out)
  command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-q']
  subprocess.run(
    [*command, '-w', str(tmp_path), str(source)], check=True, timeout=300
  )
  (wheel,) = tmp_path.glob('*.whl')
  names = zipfile.ZipFile(wheel).namelist()
  tops = {name.split('/')[0] for name in names}
  assert {t for t in tops if not t.endswith('.dist-info')} == {'dmm_jax'}
  held = {name for name in names if name.startswith('dmm_jax/')}
  there = {str(p.relative_to(ROOT)) for p in (ROOT / 'dmm_jax').rglob('*.py')}
  assert held == there | {'dmm_jax/py.typed'}
