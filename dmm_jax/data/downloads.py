"""Files from the network: continued where they broke off, and checked.

Libraries that check sums (pooch, scikit-learn's fetchers, torchvision) begin a
broken download again, and tensorflow-datasets needs TensorFlow for its own.
"""

import hashlib
import pathlib
from typing import NamedTuple

import requests
import tqdm
import urllib3

# Seconds that a host has to answer in, and to go on sending in.
TIMEOUT = 5.0, 30.0
RETRIES = 1  # Attempts without a new byte after which a host counts as silent.
_BLOCK = 1 << 18  # Most bytes that are written at a time.
_FAILURES = requests.RequestException, urllib3.exceptions.HTTPError


class Source(NamedTuple):
  """Where a file is, and what it is.

  Attributes:
    url: http or https.
    size: in bytes.
    checksum: SHA-256, hexadecimal.
  """

  url: str
  size: int
  checksum: str


def fetch(
  source: Source,
  path: pathlib.Path,
  *,
  timeout: tuple[float, float] = TIMEOUT,
  progress: bool = True,
) -> None:
  """Downloads a file, unless it is there.

  What a broken download has left, `path` with `.part`, is continued; where the
  host cannot do that, or where the whole has another checksum, it begins anew.

  Args:
    source: of the file.
    path: to write; its folder exists.
    timeout: seconds to connect, and between two answers.
    progress: whether to show a progress bar.

  Raises:
    ConnectionError: if the host does not answer, twice in a row, or refuses.
    ValueError: for a whole file with another size or checksum; nothing is kept.
  """
  if path.exists() and digest(path) == source.checksum:
    return
  part = path.with_name(f'{path.name}.part')
  resumed = _size(part) > 0
  good = _complete(source, part, timeout, progress)
  if not good and resumed:  # A rest of something else.
    part.unlink()
    good = _complete(source, part, timeout, progress)
  if not good:
    found = digest(part)
    part.unlink()
    raise ValueError(
      f'{source.url} is another file than expected: its SHA-256 is {found}, '
      f'not {source.checksum}'
    )
  part.replace(path)


def digest(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _size(path):
  return path.stat().st_size if path.exists() else 0


def _complete(source, part, timeout, progress):
  """Downloads what is missing; returns whether the whole is as expected."""
  idle = 0
  while (had := _size(part)) < source.size:
    failure = 'the connection was closed'
    try:
      _append(source, part, timeout, progress)
    except _FAILURES as error:
      failure = _reason(error)
      status = getattr(getattr(error, 'response', None), 'status_code', 500)
      if 400 <= status < 500:
        raise ConnectionError(f'{source.url}: {failure}') from error
    idle = 0 if _size(part) > had else idle + 1
    if idle > RETRIES:
      raise ConnectionError(f'{source.url}: {failure}')
  return _size(part) == source.size and digest(part) == source.checksum


def _append(source, part, timeout, progress):
  """One request for the bytes from the end of `part` on."""
  # Compressed for the way, a file would have other bytes.
  headers = {'Accept-Encoding': 'identity'}
  if start := _size(part):
    headers['Range'] = f'bytes={start}-'
  with requests.get(
    source.url, headers=headers, stream=True, timeout=timeout
  ) as response:
    response.raise_for_status()
    if response.status_code != requests.codes.partial_content:
      start = 0
    with (
      open(part, 'ab' if start else 'wb') as file,
      tqdm.tqdm(
        desc=part.stem,
        total=source.size,
        initial=start,
        unit='B',
        unit_scale=True,
        disable=not progress,
      ) as bar,
    ):
      # What has arrived, or a silent host would take it along.
      while block := response.raw.read1(_BLOCK, decode_content=False):
        file.write(block)
        bar.update(len(block))


def _reason(error):
  """What failed, in a line."""
  if isinstance(error, requests.HTTPError):
    return f'{error.response.status_code} {error.response.reason}'
  if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
    return 'no answer in time'
  if isinstance(error, requests.ConnectionError):
    return 'no connection'
  return f'{type(error).__name__}: {error}'[:200]
