"""Every small wrong change of a Python file, as edits of its text.

What is changed: comparisons, arithmetic, booleans, numbers, the order of
arguments, statements and checks (dropped), keyword arguments (dropped), the
best for the first, keys for another's, options (ignored), a function for its
opposite. Not changed: docstrings, annotations, messages, `__all__`, and what
`zip` checks of the code itself.
"""

import ast
import itertools
import re
from typing import NamedTuple

COMPARED = {
  ast.Lt: ('<', '<='), ast.LtE: ('<=', '<'), ast.Gt: ('>', '>='),
  ast.GtE: ('>=', '>'), ast.Eq: ('==', '!='), ast.NotEq: ('!=', '=='),
  ast.Is: ('is', 'is not'), ast.IsNot: ('is not', 'is'),
  ast.In: ('in', 'not in'), ast.NotIn: ('not in', 'in'),
}  # fmt: skip
COMBINED = {
  ast.Add: ('+', '-'), ast.Sub: ('-', '+'), ast.Mult: ('*', '/'),
  ast.Div: ('/', '*'), ast.FloorDiv: ('//', '*'), ast.Mod: ('%', '*'),
  ast.Pow: ('**', '*'), ast.BitAnd: ('&', '|'), ast.BitOr: ('|', '&'),
  ast.MatMult: ('@', '*'), ast.And: ('and', 'or'), ast.Or: ('or', 'and'),
}  # fmt: skip
PAIRS = (
  'min max', 'minimum maximum', 'argmin argmax', 'any all', 'sum mean',
  'floor ceil', 'zeros ones', 'zeros_like ones_like', 'sin cos', 'exp log',
  'logical_and logical_or', 'nanmin nanmax', 'median mean', 'fmin fmax',
  'cumsum sort', 'sign abs', 'append insert', 'normal uniform',
)  # fmt: skip
OPPOSITE = {a: b for v in PAIRS for a, b in [v.split(), v.split()[::-1]]}
# A sum for a mean is told by all that a mean for a median is.
OPPOSITE['mean'] = 'sum'
BEST = ('argmin', 'argmax', 'argsort')
# Of whose arguments either may come first.
SYMMETRIC = {'min', 'max', 'minimum', 'maximum', 'logical_and', 'logical_or'}
SYMMETRIC |= {'array_equal', 'hypot', 'gcd', 'add', 'multiply'}


class Mutant(NamedTuple):
  """A small wrong change.

  Attributes:
    file: within the library.
    lines: first and last one of the code whose tests may notice; none for what
      runs as the file is imported.
    kind: of the change, in a word or two.
    place: bytes of the file that are replaced, from and to.
    new: what stands there instead.
  """

  file: str
  lines: tuple[int, int] | None
  kind: str
  place: tuple[int, int]
  new: str

  def apply(self, text: bytes) -> bytes:
    """Returns the file with the change."""
    low, high = self.place
    return text[:low] + self.new.encode() + text[high:]

  def sides(self, text: bytes) -> tuple[str, str]:
    """Returns the lines that change, before and after, white space as one."""
    low = text.rfind(b'\n', 0, self.place[0]) + 1
    high = text.find(b'\n', self.place[1])
    rest = len(text) - (high if high >= 0 else len(text))
    changed = self.apply(text)
    both = text[low : len(text) - rest], changed[low : len(changed) - rest]
    old, new = (' '.join(v.decode().split()) for v in both)
    return old, new


def mutants(file: str, text: bytes) -> list[Mutant]:
  """Returns all mutants of a file that can be compiled, in its order."""
  finder = _Finder(file, text)
  finder.walk(ast.parse(text), None)
  return [m for m in finder.found if _compiles(m.apply(text))]


def _compiles(text: bytes) -> bool:
  try:
    compile(text, 'mutant', 'exec')
  except SyntaxError:
    return False
  return True


class _Finder:
  """Walks a syntax tree; `lines` are those of the statement it is in."""

  def __init__(self, file: str, text: bytes):
    self.file, self.text, self.found = file, text, []
    ends = [0]
    for line in text.splitlines(keepends=True):
      ends.append(ends[-1] + len(line))
    self.offset = lambda line, column: ends[line - 1] + column

  def place(self, node):
    return (
      self.offset(node.lineno, node.col_offset),
      self.offset(node.end_lineno, node.end_col_offset),
    )

  def source(self, node):
    low, high = self.place(node)
    return self.text[low:high].decode()

  def add(self, kind, place, new, lines):
    self.found.append(Mutant(self.file, lines, kind, place, new))

  def between(self, kind, left, right, symbols, lines):
    """Replaces the operator between two expressions."""
    low, high = self.place(left)[1], self.place(right)[0]
    old, new = symbols
    words = r'\s+'.join(map(re.escape, old.split()))
    place = re.search(words, self.text[low:high].decode())
    if place:
      found = low + place.start(), low + place.end()
      self.add(kind, found, new, lines)

  def walk(self, node, lines):
    if isinstance(node, ast.Raise | ast.JoinedStr):
      return
    if isinstance(node, ast.Assign) and self.source(node).startswith('__all__'):
      return
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
      body = node.body[_documented(node) :] or node.body
      # Defaults and options show in whatever runs the body.
      self.options(node, (body[0].lineno, node.end_lineno))
      for v in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
        self.walk(v, (body[0].lineno, node.end_lineno))
      for v in node.decorator_list:
        self.walk(v, (body[0].lineno, node.end_lineno))
      self.statements(body, node.args, inside=True)
      return
    if isinstance(node, ast.ClassDef | ast.Module):
      self.statements(node.body[_documented(node) :], None, inside=False)
      return
    if isinstance(node, ast.AnnAssign):
      if node.value is not None:
        self.walk(node.value, lines)
      return
    if isinstance(node, ast.keyword) and node.arg == 'strict':
      return
    method = getattr(self, f'on_{type(node).__name__}', None)
    if method:
      method(node, lines)
    for child in ast.iter_child_nodes(node):
      self.walk(child, lines)

  def statements(self, body, arguments, inside):
    """Walks statements; `arguments` of the function that they are in."""
    known = set()
    if arguments is not None:
      every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
      known = {v.arg for v in every}
    for v in body:
      self.statement(v, known, inside)

  def statement(self, node, known, inside):
    lines = (node.lineno, node.end_lineno) if inside else None
    if inside:
      self.dropped(node, known, lines)
    blocks = [
      block
      for name in ('body', 'orelse', 'finalbody')
      if isinstance(block := getattr(node, name, None), list)
    ]
    if not blocks or isinstance(node, ast.FunctionDef | ast.ClassDef):
      self.walk(node, lines)
      return
    head = (node.lineno, node.body[0].lineno) if inside else None
    if isinstance(node, ast.If):
      self.condition(node.test, head)
    for name, value in ast.iter_fields(node):
      if name not in ('body', 'orelse', 'finalbody', 'handlers'):
        for v in value if isinstance(value, list) else [value]:
          if isinstance(v, ast.AST):
            self.walk(v, head)
    for block in (*blocks, *(h.body for h in getattr(node, 'handlers', ()))):
      for v in block:
        self.statement(v, known, inside)

  def dropped(self, node, known, lines):
    """Leaves out a statement without which the function still runs."""
    kind = None
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
      kind = 'statement dropped'
    elif isinstance(node, ast.AugAssign):
      kind = 'statement dropped'
    elif isinstance(node, ast.Assign):
      names = {
        v.id
        for target in node.targets
        for v in ast.walk(target)
        if isinstance(v, ast.Name) and isinstance(v.ctx, ast.Store)
      }
      kind = 'statement dropped' if names <= known else None
      known |= names
    elif isinstance(node, ast.If) and not node.orelse:
      last = node.body[-1]
      if isinstance(last, ast.Raise | ast.Return | ast.Continue | ast.Break):
        kind = 'check dropped'
    if kind:
      self.add(kind, self.place(node), 'pass', lines)

  def options(self, node, lines):
    """Ignores an argument that has a default."""
    args = node.args
    plain = (*args.posonlyargs, *args.args)
    defaulted = [*plain[len(plain) - len(args.defaults) :], *args.kwonlyargs]
    defaults = [*args.defaults, *args.kw_defaults]
    given = zip(defaulted, defaults, strict=True)
    first = (node.body[_documented(node) :] or node.body)[0]
    start = self.place(first)[0]
    for name, default in given:
      if default is not None and name.arg != 'self':
        indent = '\n' + ' ' * first.col_offset
        new = f'{name.arg} = {self.source(default)}{indent}'
        self.add('option ignored', (start, start), new, lines)

  def condition(self, test, lines):
    if not isinstance(test, ast.Compare | ast.UnaryOp):
      new = f'not ({self.source(test)})'
      self.add('boolean', self.place(test), new, lines)

  def on_IfExp(self, node, lines):
    self.condition(node.test, lines)

  def on_Compare(self, node, lines):
    sides = [node.left, *node.comparators]
    for op, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
      self.between('comparison', left, right, COMPARED[type(op)], lines)

  def on_BinOp(self, node, lines):
    if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):
      return
    symbols = COMBINED.get(type(node.op))
    if symbols:
      self.between('arithmetic', node.left, node.right, symbols, lines)

  def on_AugAssign(self, node, lines):
    symbols = COMBINED.get(type(node.op))
    if symbols:
      self.between('arithmetic', node.target, node.value, symbols, lines)

  def on_BoolOp(self, node, lines):
    for left, right in itertools.pairwise(node.values):
      self.between('boolean', left, right, COMBINED[type(node.op)], lines)

  def on_UnaryOp(self, node, lines):
    kind = 'boolean' if isinstance(node.op, ast.Not) else 'arithmetic'
    self.add(kind, self.place(node), f'({self.source(node.operand)})', lines)

  def on_Constant(self, node, lines):
    value = node.value
    if isinstance(value, bool):
      self.add('boolean', self.place(node), repr(not value), lines)
    elif isinstance(value, int):
      self.add('number', self.place(node), repr(value + 1), lines)
    elif isinstance(value, float):
      # 95 % becomes 90 %; other numbers double.
      new = 1 - 2 * (1 - value) if 0.5 < value < 1 else 2 * value or 1.0
      self.add('number', self.place(node), repr(round(new, 12)), lines)

  def on_Call(self, node, lines):
    place, text = self.place(node), self.source(node)
    name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
    self.arguments(node, name, lines)
    if name in OPPOSITE:
      end = self.place(node.func)[1]
      new = OPPOSITE[name]
      self.add('opposite', (end - len(name), end), new, lines)
    if name in BEST:
      self.add('first for best', place, f'(0 * {text})', lines)
    if name == 'fold_in' and node.args:
      self.add('key reused', place, self.source(node.args[0]), lines)
    if name == 'split' and 'random' in self.source(node.func):
      same = "__import__('jax').numpy.broadcast_to(v[0], v.shape)"
      self.add('key reused', place, f'(lambda v: {same})({text})', lines)

  def arguments(self, node, name, lines):
    """Swaps two arguments of a call, and leaves out one by keyword."""
    args = node.args
    pair = args[1:3] if name == 'where' and len(args) == 3 else args[:2]
    starred = any(isinstance(v, ast.Starred) for v in pair)
    if len(pair) == 2 and not starred and name not in SYMMETRIC:
      low, high = map(self.place, pair)
      both = [self.source(v) for v in pair]
      middle = self.text[low[1] : high[0]].decode()
      if both[0] != both[1]:
        place = low[0], high[1]
        self.add('argument order', place, both[1] + middle + both[0], lines)
    for v in node.keywords:
      if v.arg and v.arg != 'strict':
        low, high = self.place(v)
        comma = re.match(rb'\s*,\s*', self.text[high:])
        high += comma.end() if comma else 0
        self.add('keyword dropped', (low, high), '', lines)


def _documented(node) -> int:
  """Returns 1 where a body begins with a docstring, else 0."""
  return int(ast.get_docstring(node, clean=False) is not None)
