"""Templates: one's own network for `--network=examples.NAME:network`.

Each has untrained weights for digits, 8 x 8 x 1: put your own there.
"""
