"""Plain tables, as benchmarks print them."""

from experiments import common


def test_tables_are_printed_with_their_names_to_the_left(capsys):
  common.print_table(['a', 'bb', 'c'], [['xx', '1', 'y'], ['z', '22', 'long']])
  assert capsys.readouterr().out == (
    'a   bb  c\n--  --  ----\nxx   1  y\nz   22  long\n'
  )
