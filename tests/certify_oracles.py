"""Small ReLU networks, and their distances by enumeration of linear regions."""

import itertools

import numpy as np
from scipy import optimize


def network(widths, seed):
  """Dense layers with weights of He's size and small biases."""
  rng = np.random.default_rng(seed)
  return [
    (rng.normal(size=(m, n)) * (2 / m) ** 0.5, 0.3 * rng.normal(size=n))
    for m, n in itertools.pairwise(widths)
  ]


def logits(layers, xs):
  for w, b in layers[:-1]:
    xs = np.maximum(xs @ w + b, 0.0)
  return xs @ layers[-1][0] + layers[-1][1]


def predicted(layers, xs):
  return logits(layers, xs).argmax(-1)


def shortest(rows, limits, low, high, p):
  """The least l^p norm of v with `rows @ v <= limits`, low <= v <= high.

  For l1 and linf a linear program, for l2 by SLSQP from its solution; inf where
  there is no such v.
  """
  n = rows.shape[1]
  eye, slack = np.eye(n), np.eye(n) if p == 1 else np.ones((n, 1))
  m = slack.shape[1]
  found = optimize.linprog(
    np.append(np.zeros(n), np.ones(m)),
    np.block([[eye, -slack], [-eye, -slack], [rows, np.zeros((len(rows), m))]]),
    np.concatenate([np.zeros(2 * n), limits]),
    bounds=[*zip(low, high, strict=True)] + [(0, None)] * m,
  )
  if found.status != 0 or p != 2:
    return found.fun if found.status == 0 else np.inf
  best = optimize.minimize(
    lambda v: v @ v,
    found.x[:n],
    jac=lambda v: 2 * v,
    method='SLSQP',
    bounds=[*zip(low, high, strict=True)],
    constraints={
      'type': 'ineq',
      'fun': lambda v: limits - rows @ v,
      'jac': lambda v: -rows,
    },
    options={'ftol': 1e-15, 'maxiter': 500},
  )
  return np.linalg.norm(best.x)


def regions(layers, x):
  """All linear regions: `(rows, limits)` of steps from x, and the logits there.

  Logits are `(slopes [n, k], values [k])`.
  """
  widths = [len(b) for _, b in layers[:-1]]
  for signs in itertools.product((-1.0, 1.0), repeat=sum(widths)):
    rest, slope, value = np.array(signs), np.eye(len(x)), x
    rows, limits = np.zeros((0, len(x))), np.zeros(0)
    for w, b in layers[:-1]:
      sign, rest = rest[: len(b)], rest[len(b) :]
      slope, value = slope @ w, value @ w + b
      rows = np.vstack([rows, -(slope * sign).T])
      limits = np.append(limits, value * sign)
      slope, value = slope * (sign > 0), value * (sign > 0)
    w, b = layers[-1]
    yield rows, limits, slope @ w, value @ w + b


def distances(layers, x, label, p, low=-np.inf, high=np.inf):
  """Exact distances `[k]` at which each class first has the label's logit."""
  low, high = (np.broadcast_to(v, x.shape) - x for v in (low, high))
  found = np.full(len(layers[-1][1]), np.inf)
  for rows, limits, slope, value in regions(layers, x):
    for k in np.delete(np.arange(len(found)), label):
      row = slope[:, label] - slope[:, k]
      among = np.vstack([rows, row]), np.append(limits, value[k] - value[label])
      # No l2 norm is below the linf norm.
      if p == 2 and shortest(*among, low, high, np.inf) >= found[k]:
        continue
      found[k] = min(found[k], shortest(*among, low, high, p))
  return found


def distance(layers, x, label, p, low=-np.inf, high=np.inf):
  """The exact distance of the decision boundary."""
  return distances(layers, x, label, p, low, high).min()
