"""Packaging; requirements.txt is the one list of dependencies."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r"__version__ = '(.+)'", (ROOT / 'dmm_jax/__init__.py').read_text()
).group(1)

setuptools.setup(
  name='dmm_jax',
  version=VERSION,
  description="The geometry of neural networks' decision boundaries, in JAX",
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  packages=setuptools.find_packages(include=['dmm_jax', 'dmm_jax.*']),
  package_data={'dmm_jax': ['py.typed']},
  python_requires='>=3.11',
  install_requires=(ROOT / 'requirements.txt').read_text().split(),
  extras_require={
    'docs': ['mkdocs-material>=9.6', 'mkdocstrings[python]>=1', 'ruff>=0.12'],
    'interop': [
      'equinox>=0.13',
      'foolbox>=3.3',
      'torch>=2.13',
      'torchax>=0.0.14.dev20260814',
    ],
    'stream': ['grain>=0.2.13'],
    'tables': ['pandas>=2.2', 'pyarrow>=18'],
    'test': [
      'grain>=0.2.13',
      'hypothesis>=6.130',
      'mypy>=2',
      'pandas>=2.2',
      'pyarrow>=18',
      'pytest>=8',
      'pytest-cov>=6',
      'pytest-xdist>=3.6',
      'ruff>=0.12',
    ],
  },
)
