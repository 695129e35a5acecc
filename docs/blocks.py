"""Formulas in docstrings, two spaces further in, become blocks of code."""

import re

import griffe


class Blocks(griffe.Extension):
  """Indents them by the four spaces that Markdown asks for."""

  def on_instance(self, *, obj, **kwargs) -> None:
    del kwargs
    if obj.docstring:
      parts = re.split(r'\n\s*\n', obj.docstring.value)
      obj.docstring.value = '\n\n'.join(
        re.sub('(?m)^', '  ', part) if part.startswith('  ') else part
        for part in parts
      )
