"""A plugin of pytest: each test as if it ran alone, and what it took.

Programs that an earlier test compiled are forgotten, so that coverage shows the
lines that a test traces. Writes `{test: [seconds, names of fixtures]}` to the
file that $TIMES names.
"""

import json
import os
import pathlib

import jax
import pytest

_times: dict[str, list] = {}


@pytest.fixture(autouse=True)
def alone():
  yield
  jax.clear_caches()


def pytest_collection_modifyitems(items):
  for item in items:
    _times[item.nodeid] = [0.0, sorted(item.fixturenames)]


def pytest_runtest_logreport(report):
  _times[report.nodeid][0] += report.duration


def pytest_sessionfinish():
  pathlib.Path(os.environ['TIMES']).write_text(json.dumps(_times))
