"""Flax modules: random networks, trained classifiers and auto-encoders.

A classifier maps one input to `(logits [k], codes)`. `codes` holds the
activations of every hidden layer by name, before any pooling; in an ordered
dict, since `jit` and `vmap` hand plain ones back sorted. What is not used costs
nothing under `jit`. Batching is `jax.vmap`:

  variables = module.init(key, x)
  logits_fn = lambda x: module.apply(variables, x)[0]
  logits = jax.vmap(logits_fn)(xs)

Batch norm follows this rule. By default it uses its running averages, and the
network is a plain function of one input. With `train=True` it needs the rest of
the batch, which it finds by the name of the mapped axis:

  def forward(x):
    return module.apply(variables, x, train=True, mutable=['batch_stats'])

  mapped = jax.vmap(forward, axis_name='batch', out_axes=(0, None))
  (logits, codes), stats = mapped(xs)
  variables = {**variables, **stats}

`out_axes` None hands the new averages back once: they are equal across the
batch. Without batch norm `stats` is empty and the recipe still holds. Outside
such a `vmap`, `train=True` raises an error that names the axis.

`dtype` is what layers compute in, jnp.bfloat16 for example; None follows the
input. Parameters stay float32, logits and latent codes are float32 or better;
the activations in `codes` keep `dtype`.

All of them deviate from what was published in this: no dropout, no
normalisation of pixels, and no bias where batch norm takes it out again.
"""

from dmm_jax.models.autoencoders import VAE
from dmm_jax.models.autoencoders import ConvAutoEncoder
from dmm_jax.models.autoencoders import DenseAutoEncoder
from dmm_jax.models.classifiers import CNN
from dmm_jax.models.classifiers import MLP
from dmm_jax.models.classifiers import VGG16
from dmm_jax.models.classifiers import DeepLinear
from dmm_jax.models.classifiers import LeNet5
from dmm_jax.models.classifiers import Linear
from dmm_jax.models.classifiers import PlaygroundCNN
from dmm_jax.models.layers import dense_layers
from dmm_jax.models.random import Convolutional
from dmm_jax.models.random import FullyConnected
from dmm_jax.models.random import LeNet
from dmm_jax.models.random import ResNet
from dmm_jax.models.random import conv
from dmm_jax.models.random import conv_by_patches
from dmm_jax.models.random import dense
from dmm_jax.models.random import glorot_uniform
from dmm_jax.models.random import he_normal
from dmm_jax.models.residual import Residual
from dmm_jax.models.residual import ResNet18
from dmm_jax.models.residual import ResNet20
from dmm_jax.models.segnet import SegNetAutoEncoder
from dmm_jax.models.transformer import ViT

# What flags call them.
CLASSIFIERS = {
  'linear': Linear,
  'deep_linear': DeepLinear,
  'mlp': MLP,
  'cnn': CNN,
  'lenet5': LeNet5,
  'playground': PlaygroundCNN,
  'vgg16': VGG16,
  'resnet18': ResNet18,
  'resnet20': ResNet20,
  'vit': ViT,
}
AUTOENCODERS = {
  'convolutional': ConvAutoEncoder,
  'segnet': SegNetAutoEncoder,
  'vae': VAE,
}

__all__ = (
  'AUTOENCODERS',
  'CLASSIFIERS',
  'CNN',
  'MLP',
  'VAE',
  'VGG16',
  'ConvAutoEncoder',
  'Convolutional',
  'DeepLinear',
  'DenseAutoEncoder',
  'FullyConnected',
  'LeNet',
  'LeNet5',
  'Linear',
  'PlaygroundCNN',
  'ResNet',
  'ResNet18',
  'ResNet20',
  'Residual',
  'SegNetAutoEncoder',
  'ViT',
  'conv',
  'conv_by_patches',
  'dense',
  'dense_layers',
  'glorot_uniform',
  'he_normal',
)
