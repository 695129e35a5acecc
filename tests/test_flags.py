"""Flags of a config: types, limits, presets, and the command that repeats."""

import dataclasses

from absl import flags as absl_flags
import pytest

from experiments.lib import flags


@dataclasses.dataclass(frozen=True)
class Config:
  preset: str = flags.flag('default', 'Preset.')
  workdir: str = flags.flag('runs/x', 'Run directory.')
  count: int = flags.flag(3, 'How many.', least=1)
  rate: float = flags.flag(0.5, 'How fast.', least=0)
  on: bool = flags.flag(True, 'Whether.')
  kind: str = flags.flag('a', 'Which.', choices=('a', 'b'))
  norms: tuple[float, ...] = flags.flag(
    (1.0, float('inf')), 'Norms.', choices=(1.0, 2.0, float('inf'))
  )
  sizes: tuple[int, ...] = flags.flag((8, 16), 'Sizes.', least=2)
  names: tuple[str, ...] = flags.flag(('x',), 'Names.')


PRESETS = {'quick': dict(count=1, sizes=(4, 8)), 'default': {}}


@pytest.fixture
def parse(monkeypatch):
  """Parses arguments as a script does; returns what was given, and help."""
  values = absl_flags.FlagValues()
  monkeypatch.setattr(absl_flags, 'FLAGS', values)
  for name in ('DEFINE', 'DEFINE_boolean', 'DEFINE_enum'):
    define = getattr(absl_flags, name)
    monkeypatch.setattr(
      absl_flags,
      name,
      lambda *args, define=define, **options: define(
        *args, flag_values=values, **options
      ),
    )
  flags._define(Config, PRESETS)

  def parse(*argv):
    values(['script', *argv])
    return flags._given(Config)

  parse.values = values
  return parse


def test_what_is_given_has_the_type_of_its_field(parse):
  found = parse(
    '--count=7',
    '--rate=1e-3',
    '--noon',
    '--kind=b',
    '--norms=2,inf',
    '--sizes=4,5',
    '--names=p,q',
  )
  assert found == dict(
    count=7,
    rate=1e-3,
    on=False,
    kind='b',
    norms=(2.0, float('inf')),
    sizes=(4, 5),
    names=('p', 'q'),
  )
  assert [type(v) for v in found['norms']] == [float, float]
  assert parse.values['preset'].value == 'default'


def test_nothing_given_is_nothing(parse):
  assert parse() == {}
  assert parse.values['count'].value == 3
  assert parse.values['sizes'].value == (8, 16)


@pytest.mark.parametrize(
  'text, message',
  [
    ('--count=two', '--count=two'),
    ('--count=0', 'not a positive integer'),
    ('--rate=-1', 'lower bound|non-negative'),
    ('--kind=c', 'should be one of <a|b>'),
    ('--norms=1,3', 'one of 1.0 or 2.0 or inf'),
    ('--sizes=4,1', '--sizes=4,1'),
    ('--sizes=4,x', '--sizes=4,x'),
    ('--preset=huge', 'should be one of <quick|default>'),
    ('--unknown=1', 'unknown'),
  ],
)
def test_bad_values_are_named(parse, text, message):
  with pytest.raises(absl_flags.Error, match=message):
    parse(text)


def test_help_says_defaults_choices_and_presets(parse):
  text = ' '.join(parse.values.get_help().split())
  assert '--count: How many. (default: ' in text
  assert "(default: '8,16')" in text and '<a|b>' in text
  assert '1.0 or 2.0 or inf' in text and '--[no]on' in text
  assert 'quick: --count=1 --sizes=4,8; default: the defaults below.' in text


def test_presets_give_way_to_explicit_flags():
  found = flags.with_preset(Config, PRESETS, 'quick', count=9)
  assert (found.preset, found.count, found.sizes) == ('quick', 9, (4, 8))
  with pytest.raises(flags.FlagError, match=r'--preset=huge .* quick, default'):
    flags.with_preset(Config, PRESETS, 'huge')


def test_a_preset_adds_its_name_to_the_run_directory():
  make = lambda *given, **more: flags.with_preset(Config, *given, **more)
  assert make(PRESETS, 'quick').workdir == 'runs/x_quick'
  assert make(PRESETS, 'default').workdir == 'runs/x'
  assert make(PRESETS, 'quick', workdir='y').workdir == 'y'
  assert make({'far': dict(workdir='z')}, 'far').workdir == 'z'


def test_commands_name_what_differs_from_the_preset():
  say = lambda **more: flags.command('experiments.x', Config(**more), PRESETS)
  assert say() == 'python -m experiments.x'
  assert say(workdir='y') == 'python -m experiments.x'
  assert say(on=False) == 'python -m experiments.x --on=false'
  quick = flags.with_preset(Config, PRESETS, 'quick', kind='b')
  text = flags.command('experiments.x', quick, PRESETS)
  assert text == 'python -m experiments.x --preset=quick --kind=b'


@pytest.mark.parametrize(
  'more, message',
  [
    (dict(count=0), '--count=0 is too small; at least 1'),
    (dict(kind='c'), '--kind=c is unknown; it is one of a, b'),
    (dict(norms=()), '--norms is empty'),
    (dict(norms=(1.0, 1.0)), '--norms names a value twice'),
    (dict(sizes=(4, 1)), '--sizes=1 is too small'),
    (dict(rate=float('nan')), '--rate=nan is not finite'),
  ],
)
def test_configs_are_checked(more, message):
  flags.check(Config())
  with pytest.raises(flags.FlagError, match=message):
    flags.check(Config(**more))


def test_methods_are_those_of_the_library():
  flags.check_method('fast')
  with pytest.raises(flags.FlagError, match=r'--method=luck: .*portfolio'):
    flags.check_method('luck')
