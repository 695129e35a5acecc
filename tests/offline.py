"""Sets of tensorflow-datasets without a network, or TensorFlow."""

import tensorflow_datasets as tfds

from dmm_jax.data import reading


def refuse_downloads(patch):
  """Lets no test download anything, whatever is installed here."""

  def refuse(*_, **__):
    raise ConnectionError('tests download nothing')

  patch.setattr(tfds.core.DatasetBuilder, '_make_download_manager', refuse)
  # What is prepared here writes no images, and does without.
  patch.setattr(reading, 'has_tensorflow', lambda: True)
  patch.setattr(reading, '_answers', lambda url: True)
