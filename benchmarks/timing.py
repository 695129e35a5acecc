"""Timings of several functions in one run, by turns."""

from collections.abc import Callable
import time

import jax


def best_times(sides: dict, repeats: int, first: int = 1) -> dict:
  """Seconds of each function's fastest call.

  Args:
    sides: functions without arguments, by name.
    repeats: calls that are timed, of all by turns.
    first: calls before these, which compile.
  """
  best = {}
  for repeat in range(first + repeats):
    for name, fn in sides.items():
      seconds = timed(fn)[1]
      if repeat >= first:
        best[name] = min(best.get(name, seconds), seconds)
  return best


def timed(fn: Callable) -> tuple:
  """What a function returns, once it is ready, and the seconds it took."""
  start = time.perf_counter()
  out = jax.block_until_ready(fn())
  return out, time.perf_counter() - start
