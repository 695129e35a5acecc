"""Ends an experiment at a chosen moment, as a kill or a loss of power would.

  python tests/interrupted.py HOW EVENT DELAY WORKDIR MODULE --flag=...

HOW is `count`, `kill` or `power`. Events are what the process does to files of
WORKDIR: it opens one to write, renames, deletes or makes one. DELAY seconds
after the EVENT-th, of files that may be half written by then, the process
kills itself; for `power`, the ext4 file system of WORKDIR drops first what it
has not put on the disk. `count` prints the number of events at the end.
"""

import atexit
import fcntl
import os
import runpy
import signal
import struct
import sys
import threading

MADE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# Of linux/fs/ext4: _IOR('X', 125, __u32), and to drop the journal with it.
SHUTDOWN, NOLOGFLUSH = 2 << 30 | 4 << 16 | ord('X') << 8 | 125, 2


def main(how, event, delay, workdir, module):
  counted = [0]
  place = os.open(os.path.dirname(workdir), os.O_RDONLY)

  def end():
    if how == 'power':
      fcntl.ioctl(place, SHUTDOWN, struct.pack('I', NOLOGFLUSH))
    os.kill(os.getpid(), signal.SIGKILL)

  def hook(name, given):
    if name == 'open':
      changes = isinstance(given[2], int) and given[2] & MADE
    else:
      changes = name in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir')
    if changes and str(given[0]).startswith(workdir):
      counted[0] += 1
      if how != 'count' and counted[0] == int(event):
        threading.Timer(float(delay), end).start()

  sys.addaudithook(hook)
  if how == 'count':
    atexit.register(lambda: print('events:', counted[0]))
  runpy.run_module(module, run_name='__main__')


if __name__ == '__main__':
  sys.path[0] = os.getcwd()
  given, sys.argv = sys.argv[1:6], [sys.argv[5], *sys.argv[6:]]
  main(*given)
