"""Self-organising maps of several libraries behind one function each.

Each is imported only in the process that runs it. `fit(xs, begin, sigmas)`
trains from the codebook `begin` `[side, side, d]`, with the width `sigmas[t]`
in epoch t, and returns a codebook of that shape.
"""

import functools

import numpy as np


def ours(xs, begin, sigmas):
  import jax

  from dmm_jax import som

  trained = som.fit(
    jax.random.key(0),
    xs,
    grid=begin.shape[:2],
    num_epochs=len(sigmas),
    sigma=(sigmas[0], sigmas[-1]),
    init=begin,
  )
  return np.asarray(trained.codebook)


def fastersom(xs, begin, sigmas):
  import fastersom as peer

  side, num = len(begin), len(sigmas)
  # Its schedule would meet the end one epoch later.
  ratio = (sigmas[-1] / sigmas[0]) ** (1 / max(num - 1, 1))
  trained = peer.SOM(
    side,
    side,
    num,
    sigma_initial=sigmas[0],
    sigma_final=sigmas[0] * ratio**num,
    init=begin,
    device='cpu',
  ).fit(xs)
  return trained.weights_.reshape(begin.shape)


def xpysom(xs, begin, sigmas):
  import xpysom as peer

  side, num = len(begin), len(sigmas)
  ratio = (sigmas[-1] / sigmas[0]) ** (1 / max(num - 1, 1))
  trained = peer.XPySom(
    side,
    side,
    xs.shape[1],
    sigma=sigmas[0],
    sigmaN=sigmas[0] * ratio**num,
    std_coeff=1.0,
    xp=np,
  )
  trained._weights = begin.copy()
  trained.train(xs, num)
  return trained.get_weights()


def minisom(xs, begin, sigmas, method='train'):
  import minisom as peer

  side, num = len(begin), len(sigmas)
  trained = peer.MiniSom(
    side, side, xs.shape[1], sigma=sigmas[0], learning_rate=0.5, random_seed=0
  )
  trained._weights = begin.astype(float)
  # It has no exponential schedule; its learning rate is its own.
  trained._sigma_decay_function = lambda sigma, t, total: sigmas[t]
  if method == 'train':
    trained.train(xs, num, random_order=True, use_epochs=True)
  else:
    trained._learning_rate_decay_function = lambda rate, t, total: 1.0
    trained.train_batch_offline(xs, num)
  return trained.get_weights()


def torchsom(xs, begin, sigmas, batch_size=32):
  import torch
  import torchsom as peer

  side, num = len(begin), len(sigmas)
  trained = peer.SOM(
    side,
    side,
    xs.shape[1],
    epochs=num,
    batch_size=batch_size,
    sigma=float(sigmas[0]),
    learning_rate=0.95,
    search_backend='torch',
    device='cpu',
  )
  trained.weights.data = torch.tensor(begin)
  trained.sigma_schedule = torch.tensor(np.asarray(sigmas, np.float32))
  trained.fit(torch.tensor(xs), verbose=False)
  return trained.weights.data.numpy()


SIDES = {
  'ours': ours,
  'fastersom': fastersom,
  'minisom': minisom,
  'minisom_batch': functools.partial(minisom, method='batch'),
  'xpysom': xpysom,
  'torchsom': torchsom,
}
# Those whose time is that of one code times codes times epochs.
ONLINE = ('minisom', 'minisom_batch', 'torchsom')


def serve(pipe, name, threads, clock='wall'):
  """Answers requests in a process of its own until one is None.

  By `clock`, seconds are of the wall, or of processors at work.
  """
  import os
  import time

  os.environ['OMP_NUM_THREADS'] = str(threads)
  try:
    if name in ('fastersom', 'torchsom'):
      import torch

      torch.set_num_threads(threads)
    if name == 'ours':
      import jax

      # A device a core, as experiments have.
      jax.config.update('jax_num_cpu_devices', threads)
    __import__('dmm_jax.som' if name == 'ours' else name.split('_')[0])
  except ImportError as error:
    pipe.send(str(error))
    return
  pipe.send(None)
  now = time.process_time if clock == 'processors' else time.perf_counter
  while (job := pipe.recv()) is not None:
    start = now()
    codebook = SIDES[name](*job)
    pipe.send((now() - start, codebook))
