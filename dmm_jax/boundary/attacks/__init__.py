"""Published minimum-norm attacks, one a file.

Each is `search(problem, budget, key) -> Segment`.
"""
