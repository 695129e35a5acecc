"""Plain tables of text."""


def print_table(header: list[str], rows: list[list[str]]) -> None:
  """Prints columns; the first and the last are left-aligned."""
  lines = [header, *rows]
  widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
  for number, line in enumerate(lines):
    cells = [
      c.ljust(w) if i in (0, len(header) - 1) else c.rjust(w)
      for i, (c, w) in enumerate(zip(line, widths, strict=True))
    ]
    print('  '.join(cells).rstrip())
    if number == 0:
      print('  '.join('-' * w for w in widths))
