"""What is distributed can be built, and holds the whole library."""

import pathlib
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def test_a_wheel_of_the_source_distribution_holds_every_module(tmp_path):
  pytest.importorskip('setuptools', reason='setuptools builds it')
  copy = tmp_path / 'copy'
  names = 'setup.py', 'pyproject.toml', 'requirements.txt', 'README.md'
  shutil.copytree(ROOT / 'dmm_jax', copy / 'dmm_jax')
  for name in (*names, 'MANIFEST.in', 'LICENSE'):
    shutil.copy(ROOT / name, copy)
  build = lambda folder, kind: subprocess.run(
    [sys.executable, 'setup.py', '-q', kind, '--dist-dir', tmp_path / kind],
    cwd=folder,
    check=True,
    capture_output=True,
  )
  build(copy, 'sdist')
  (source,) = (tmp_path / 'sdist').iterdir()
  with tarfile.open(source) as archive:
    archive.extractall(tmp_path, filter='data')
  build(tmp_path / source.name.removesuffix('.tar.gz'), 'bdist_wheel')
  (wheel,) = (tmp_path / 'bdist_wheel').iterdir()
  found = {name for name in zipfile.ZipFile(wheel).namelist()}
  modules = (copy / 'dmm_jax').rglob('*.py')
  assert {str(path.relative_to(copy)) for path in modules} <= found
  assert 'dmm_jax/py.typed' in found
