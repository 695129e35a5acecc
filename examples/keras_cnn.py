"""A Keras 3 model, on JAX.

  KERAS_BACKEND=jax python -m experiments.boundary_distances \
    --network=examples.keras_cnn:network
"""

import keras

from dmm_jax import interop


def network():
  keras.utils.set_random_seed(0)
  # Or keras.saving.load_model(path).
  model = keras.Sequential(
    [
      keras.layers.Input((8, 8, 1)),
      keras.layers.Conv2D(16, 3, activation='relu'),
      keras.layers.Flatten(),
      keras.layers.Dense(10),  # Logits: no softmax.
    ]
  )
  return interop.from_keras(model)
