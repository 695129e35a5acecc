"""What the layers of a network make of its inputs, and how to measure it.

Layers' codes as vectors, their spectra and diversity; how units of a map (or
clusters of another kind) go with classes; what perturbations do to them beside
noise; which inputs a unit stands for; controls. Each measure belongs beside the
same of an untrained network.
"""

from dmm_jax.codes.attacks import Attacked
from dmm_jax.codes.attacks import attacked
from dmm_jax.codes.classes import accuracy
from dmm_jax.codes.classes import dispersion
from dmm_jax.codes.classes import majorities
from dmm_jax.codes.classes import nmi
from dmm_jax.codes.classes import purity
from dmm_jax.codes.controls import kmeans
from dmm_jax.codes.controls import random_bits
from dmm_jax.codes.features import reencoded
from dmm_jax.codes.features import synthesize
from dmm_jax.codes.features import top_inputs
from dmm_jax.codes.features import unit_inputs
from dmm_jax.codes.layers import POOLINGS
from dmm_jax.codes.layers import of_network
from dmm_jax.codes.layers import pool
from dmm_jax.codes.layers import standardize
from dmm_jax.codes.maps import LayerMaps
from dmm_jax.codes.maps import class_dispersion
from dmm_jax.codes.maps import class_uncertainty
from dmm_jax.codes.maps import fit_maps
from dmm_jax.codes.maps import map_statistics
from dmm_jax.codes.maps import place
from dmm_jax.codes.maps import scale
from dmm_jax.codes.maps import unit_codes
from dmm_jax.codes.maps import unit_distance
from dmm_jax.codes.measures import Telescope
from dmm_jax.codes.measures import diversity
from dmm_jax.codes.measures import entropy
from dmm_jax.codes.measures import most_components
from dmm_jax.codes.measures import num_components
from dmm_jax.codes.measures import occupancy
from dmm_jax.codes.measures import participation_ratio
from dmm_jax.codes.measures import spectrum
from dmm_jax.codes.measures import telescope
from dmm_jax.codes.perturbed import agreement
from dmm_jax.codes.perturbed import attack_statistics
from dmm_jax.codes.perturbed import class_separation
from dmm_jax.codes.perturbed import crowding
from dmm_jax.codes.shifts import Shift
from dmm_jax.codes.shifts import matched_noise
from dmm_jax.codes.shifts import nearest_other_class
from dmm_jax.codes.shifts import unit_shift

__all__ = (
  'POOLINGS',
  'Attacked',
  'LayerMaps',
  'Shift',
  'Telescope',
  'accuracy',
  'agreement',
  'attack_statistics',
  'attacked',
  'class_dispersion',
  'class_separation',
  'class_uncertainty',
  'crowding',
  'dispersion',
  'diversity',
  'entropy',
  'fit_maps',
  'kmeans',
  'majorities',
  'map_statistics',
  'matched_noise',
  'most_components',
  'nearest_other_class',
  'nmi',
  'num_components',
  'occupancy',
  'of_network',
  'participation_ratio',
  'place',
  'pool',
  'purity',
  'random_bits',
  'reencoded',
  'scale',
  'spectrum',
  'standardize',
  'synthesize',
  'telescope',
  'top_inputs',
  'unit_codes',
  'unit_distance',
  'unit_inputs',
  'unit_shift',
)
