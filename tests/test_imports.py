"""Arrows of import run downwards only."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
# Each may import from the rooms to its left.
ROOMS = (
  (
    'norms',
    'margins',
    'records',
    'statistics',
    'data',
    'checkpoints',
    'pooled_kernel',
    '_neural_tangents',
  ),
  ('parallel', 'decompositions', 'losses', 'adversarial', 'synthetic'),
  ('normals', 'som'),
  ('boundary', 'models', 'nngp', 'train'),
  (
    'random_nets',
    'bit_strings',
    'plots',
    'certify',
    'scaling',
    'distances',
    'manifold',
    'halfway',
  ),
  ('predictions', 'codes'),
)


# What experiments may share.
SHARED = (
  'common',
  'gallery',
