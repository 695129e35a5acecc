"""Published minimum-norm attacks, one a file: `search(problem, budget, key)`."""
