"""Plain tables, as benchmarks print them."""

from benchmarks import printing


def test_tables_are_printed_with_their_names_to_the_left(capsys):
  rows = [['xx', '1', 'y'], ['z', '22', 'long']]
  printing.print_table(['a', 'bb', 'c'], rows)
  assert capsys.readouterr().out == (
    'a   bb  c\n--  --  ----\nxx   1  y\nz   22  long\n'
  )
