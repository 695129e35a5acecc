"""Templates: one's own network for `--network=examples.NAME:network`.

Each has untrained weights for digits, 8 x 8 x 1: put your own there. Inputs and
distances are in the units of the data; normalisation belongs to the network, as
in `pytorch_cnn`.
"""
