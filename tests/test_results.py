"""Runs that are read back, committed results, and pages made of them."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import runs

from dmm_jax import records
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import tables

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Runs, one of them inside another folder, and what is none."""
  folder = tmp_path_factory.mktemp('runs')
  first = runs.make(folder / 'zebra')
  runs.make(folder / 'deep' / 'er' / 'run', runs.claim('late'))
  runs.edit(folder / 'zebra/run.json', started='2020-01-01T00:00:00')
  for name, broken in (
    ('killed', lambda p: runs.edit(p / 'run.json', finished=...)),
    ('dateless', lambda p: runs.edit(p / 'run.json', started=7)),
    ('older', lambda p: os.remove(p / 'report.json')),
    ('cut', lambda p: (p / 'report.json').write_text('{"a": ')),
    ('list', lambda p: (p / 'report.json').write_text('[1]')),
    ('wordless', lambda p: runs.edit(p / 'report.json', answer=3)),
    ('claimless', lambda p: runs.edit(p / 'report.json', claims=...)),
    ('ragged', lambda p: shorten(p / 'report.json')),
    ('columns', lambda p: runs.edit(p / 'columns.json', results=['x'])),
    ('column', lambda p: runs.edit(p / 'columns.json', results={'x': 'y'})),
    ('captions', lambda p: (p / 'figures/captions.json').write_text('3')),
    ('digit', lambda p: change_digit(p / 'report.json')),
    ('binary', lambda p: (p / 'run.json').write_bytes(b'\xff\x00')),
    ('bare', lambda p: os.remove(p / 'run.json')),
    ('.hidden', lambda p: None),
  ):
    shutil.copytree(first, folder / name)
    broken(folder / name)
  (folder / 'photos').mkdir()
  (folder / 'photos' / 'loop').symlink_to(folder)
  shutil.copytree(first, folder / 'a' / 'b' / 'c' / 'd')
  (folder / 'log.txt').write_text('not a folder')
  return folder


def shorten(path):
  saved = json.loads(path.read_text())
  saved['tables'][0]['rows'][1].pop()
  runs.edit(path, **saved)


def change_digit(path):
  """Another number, in a file that still reads as JSON."""
  text = path.read_text()
  path.write_text(text.replace('2.5', '3.5', 1))
  assert path.read_text() != text


def test_runs_are_read_oldest_first_and_others_with_a_reason(folder):
  found, others = results.read(folder)
  assert [run.name for run in found] == ['zebra', 'deep/er/run']
  said = dict(others)
  for name, reason in {
    'killed': 'unfinished: the run did not reach its end',
    'dateless': 'run.json does not say when the run was started',
    'older': 'it has no report.json; started again with its flags, the run',
    'cut': f'{folder}/cut/report.json is damaged',
    'list': f'{folder}/list/report.json is damaged',
    'digit': f'{folder}/digit/report.json is damaged',
    'wordless': 'report.json is no report: TypeError',
    'claimless': "report.json is no report: KeyError('claims')",
    'ragged': 'report.json is no report: ValueError',
    'columns': 'columns.json describes no columns',
    'column': 'columns.json describes no columns',
    'captions': f'{folder}/captions/figures/captions.json is damaged',
    'binary': f'{folder}/binary/run.json is damaged',
    'bare': 'it has no run.json',
    'photos': 'not a run: it has neither run.json nor flags.txt',
    'a': 'not a run',  # a/b/c/d is too deep.
  }.items():
    assert said.pop(name).startswith(reason), name
  assert said == {}


def test_a_run_is_what_its_files_say(folder):
  run = results.read(folder)[0][0]
  assert run.path == folder / 'zebra' and run.experiment == 'gallery'
  assert run.record['flags']['preset'] == 'quick'
  assert run.raw['question'] == f'How {runs.EVIL}?'
  assert run.report == runs.report(
    runs.claim('one'), runs.claim('two', None), runs.claim('three', False)
  )._replace(claims=run.report.claims)
  verdicts = [claim.verdict for claim in run.report.claims]
  assert verdicts == ['supported', 'undecided', 'not supported']
  assert run.columns['other']['v']['shape'] == [3, 2]
  assert [*run.captions] == ['second', 'first_of_all']


def test_odd_records_become_plain_and_files_may_be_missing(tmp_path):
  path = runs.make(tmp_path / 'run')
  runs.edit(path / 'run.json', versions=[], devices=1, flags=None, seconds='x')
  runs.edit(path / 'report.json', experiment=...)
  os.remove(path / 'columns.json')
  os.remove(path / 'figures/captions.json')
  run = results.read_run('x', path)
  odd = [run.record[k] for k in ('versions', 'devices', 'flags', 'seconds')]
  assert [*odd, run.columns, run.captions] == 6 * [{}]
  assert run.experiment == 'None'


def test_a_run_lasts_as_long_as_its_last_start_or_its_parts(tmp_path):
  record = {
    'started': '2026-01-01T00:00:00+00:00',
    'finished': '2026-01-01T00:02:00+00:00',
  }
  assert results.seconds(tmp_path, record) == 120
  records.log(tmp_path, unit='a', seconds=100.5)
  records.log(tmp_path, unit='b', seconds=60)
  assert results.seconds(tmp_path, record) == 160.5
  assert results.seconds(tmp_path, {}) == 160.5
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('3\n{"seconds": "x"}\n{"seconds": NaN}\n{"a": 1}\n{"seconds": ')
  assert results.seconds(tmp_path, {}) == 160.5
  assert results.seconds(tmp_path, record | {'finished': 'today'}) == 160.5
  assert results.started({'started': '2026-01-01'}).tzinfo is not None


def test_commits_have_a_plus_where_files_were_changed():
  record = {'git': '0123456789abcdef', 'git_dirty': False}
  assert results.commit(record) == '0123456789ab'
  assert results.commit(record | {'git_dirty': True}) == '0123456789ab+'
  assert results.commit({'git': None}) == 'unknown'


def of_papers(name, *papers, experiment='e'):
  made = [runs.claim(f'{name}{i}', paper=p) for i, p in enumerate(papers)]
  saved = {'experiment': f'experiments.{experiment}'}
  report = runs.report(*made)
  return results.Run(name, pathlib.Path(name), {}, saved, report, {}, {})


def test_runs_are_in_the_order_of_papers():
  halfway, codes = of_papers('h', '2206.04463'), of_papers('c', '2205.10952')
  others = [of_papers('none'), of_papers('new', '2601.00001'), codes, halfway]
  first = of_papers('first', '2004.05923', '2206.04463')
  ordered = results.by_paper([*others, of_papers('own', ''), first])
  names = [run.name for run in ordered]
  assert names == ['first', 'h', 'c', 'own', 'new', 'none']


def test_claims_are_in_the_order_of_papers_and_experiments():
  b = of_papers('b', '2205.10952', '2004.05923', '2205.10952', experiment='b')
  a = of_papers('a', '2205.10952', experiment='a')
  # Another run of the same experiment: the same claims, beside each other.
  again = b._replace(name='again')
  pairs = results.claims_by_paper([b, a, again])
  assert [(c.name, run.name) for c, run in pairs] == [
    ('b1', 'b'),
    ('b1', 'again'),
    ('a0', 'a'),
    ('b0', 'b'),
    ('b0', 'again'),
    ('b2', 'b'),
    ('b2', 'again'),
  ]


# --- Committed results -------------------------------------------------------


@pytest.fixture
def root(tmp_path):
  """A repository of pages and results."""
  (tmp_path / 'docs/papers').mkdir(parents=True)
  (tmp_path / 'results').mkdir()
  (tmp_path / 'results/speed.json').write_text('{"seconds": 3}')
  (tmp_path / 'docs/papers/random.md').write_text('# Random\n')
  page = '# Results\n\n<!-- results -->\nold\n<!-- end -->\n\nProse.\n'
  (tmp_path / 'RESULTS.md').write_text(page)
  return tmp_path


def add(root, name='a', *made, **more):
  path = runs.make(root / 'runs' / name, *made, **more)
  record = {'git': 40 * 'a', 'git_dirty': True, 'python': '3.11.7'}
  record['started'] = '2026-11-27T10:00:00+00:00'
  versions = {'jax': '0.10.2', 'numpy': '2.4.6'}
  runs.edit(path / 'run.json', **record, versions=versions)
  results.run(results.Config(add=str(path), name=name), root)
  return json.loads((root / 'results' / f'{name}.json').read_text())


def test_a_finished_run_is_copied(root, capsys):
  saved = add(root, 'a', data_dir='/home/me')
  report = json.loads((root / 'runs/a/report.json').read_text())
  run = saved.pop('run')
  report['command'] = report['command'].replace('=/home/me', '=DIR')
  assert saved == {'name': 'a', **report}
  assert run['started'] == '2026-11-27T10:00:00+00:00'
  assert run['git'] == 'aaaaaaaaaaaa+'
  assert run['versions'] == {
    'python': '3.11.7',
    'jax': '0.10.2',
    'numpy': '2.4.6',
  }
  assert run['devices']['kind'] == 'cpu' and run['devices']['count'] == 2
  assert {'measure', 'analyse', 'draw'} <= run['seconds'].keys()
  assert [*run] == ['started', 'devices', 'versions', 'git', 'seconds']
  out = capsys.readouterr().out
  assert 'results/a.json\n' in out and f'{root}/RESULTS.md\n' in out
  # The same again: not a byte is new.
  path = root / 'results/a.json'
  before = path.read_bytes()
  assert results.add(str(root / 'runs/a'), 'a', root) == 'a'
  assert path.read_bytes() == before and before.endswith(b'\n}\n')
  assert b'\n "name": "a",\n' in before
  (found,) = results.committed(root)
  assert (found.name, found.record, found.path) == (
    'a',
    run | {'flags': {}},
    path,
  )
  assert len(found.report.claims) == 3 and found.raw['question']


def test_the_name_is_that_of_the_experiment_unless_it_is_given(root):
  path = runs.make(root / 'runs/x', experiment='experiments.law_of_2')
  assert results.add(str(path), root=root) == 'law_of_2'
  assert (root / 'results/law_of_2.json').exists()


def test_a_run_that_serves_its_tables_alone_has_no_claims(root):
  path = str(runs.make(root / 'runs/x'))
  results.run(results.Config(add=path, name='a'), root)
  results.run(results.Config(add=path, name='b', claims=False), root)
  one, other = results.committed(root)
  assert len(one.report.claims) == 3 and other.report.claims == []
  assert one.raw['tables'] == other.raw['tables']


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('../x', r'--name=../x has to match \[a-z0-9_\]\+'),
    ('Ab', '--name=Ab has to match'),
    ('speed', '--name=speed: .*speed.json is not the result of a run'),
  ],
)
def test_names_that_cannot_be_are_refused(root, name, message):
  path = runs.make(root / 'runs/x')
  with pytest.raises(flags.FlagError, match=message):
    results.add(str(path), name, root)
  assert [*(root / 'results').iterdir()] == [root / 'results/speed.json']


def test_what_is_no_finished_run_is_refused(root):
  with pytest.raises(flags.FlagError, match=r'--add=nowhere: not a run: it'):
    results.add('nowhere', root=root)
  path = runs.make(root / 'runs/x')
  runs.edit(path / 'run.json', finished=None)
  with pytest.raises(flags.FlagError, match=r'--add=.*/x: unfinished'):
    results.add(str(path), root=root)


# --- Pages -------------------------------------------------------------------


def block(text):
  (inner,) = re.findall('(?s)-->\n(.*?)<!-- end -->', text)
  return inner


def test_the_summary_leads_to_claims_on_the_same_page(root):
  add(root, 'a')
  add(root, 'b')
  found = results.committed(root)
  blocks = (
    '<!-- results -->\n<!-- end -->\n<!-- results: a {} -->\n<!-- end -->'
  )
  text = results.render(blocks.format('run claims'), found)
  assert ' ([a](#a): 1 supported' in text and ' (b: 1 supported' in text
  assert text.count('<a id="a"></a>\n\n| claim |') == 1
  assert '](#a)' not in results.render(blocks.format('tables'), found)
  assert '](#a)' in results.render(blocks.format(''), found)


def test_equal_statements_are_told_apart_by_their_names(root):
  equal = [
    runs.claim(name)._replace(statement='One.') for name in ('first', 'second')
  ]
  add(root, 'a', *equal, runs.claim('other'))
  (found,) = results.committed(root)
  for words in ('', ': a claims'):
    text = results.render(f'<!-- results{words} -->\n<!-- end -->', [found])
    assert text.count('One. (first) |') == text.count('One. (second) |') == 1
    assert 'Claim other. |' in text


def test_the_summary_names_up_to_five_claims_that_are_not_supported(root):
  refuted = [runs.claim(f'c{i}', False, p=1.0) for i in range(6)]
  add(root, 'a', runs.claim('kept'), *refuted[:5])
  add(root, 'b', *refuted)
  text = block((root / 'RESULTS.md').read_text())
  assert ' (a: 1 supported, 5 not supported: c0; c1; c2; c3; c4)\n' in text
  assert ' (b: 6 not supported)\n' in text


def test_the_summary_has_every_claim_and_holms_correction(root):
  add(
    root,
    'b',
    runs.claim('weak', p=0.02),
    runs.claim('strong', p=0.001),
    runs.claim('null', False, p=1.0),
    runs.claim('big', not_tested='needs a GPU'),
    answer='Yes, *mostly*.',
  )
  add(root, 'a', runs.claim('weak', p=0.02), runs.claim('own', paper=''))
  text = (root / 'RESULTS.md').read_text()
  assert text.startswith('# Results\n\n<!-- results -->\n\n### In short\n\n')
  assert text.endswith('\n<!-- end -->\n\nProse.\n')
  short, *rest = block(text).split('### Random networks, ')
  question, *answers = short.splitlines()[3:]
  assert question == f'**{tables.escape(f"How {runs.EVIL}?")}**'
  assert answers == [
    '',
    '- It depends. (a: 2 supported)',
    r'- Yes, \*mostly\*. (b: 2 supported, 1 not tested, 1 not supported: null)',
    '',
  ]
  lines = ['', *('### Random networks, ' + rest[0]).splitlines()]
  head = '[2004.05923](https://arxiv.org/abs/2004.05923)'
  assert lines[1] == f'### Random networks, {head}'
  assert lines[3] == '| experiment | claim | a | b |'
  assert lines[5:9] == [
    '| gallery | Claim weak. | supported † | supported † |',
    '|  | Claim strong. |  | supported |',
    '|  | Claim null. |  | not supported |',
    '|  | Claim big. |  | not tested |',
  ]
  assert lines[10] == '### Ours'
  assert lines[14] == '| gallery | Claim own. | supported |'
  assert lines[16] == '### Runs'
  made = '27 November 2026, aaaaaaaaaaaa+, Python 3.11.7, JAX 0.10.2, 2 x cpu'
  assert lines[18:] == [
    '| run | made |',
    '|---|---|',
    f'| a | {made} |',
    f'| b | {made} |',
    '',
  ]


def test_papers_are_called_by_name_and_number():
  call = lambda text: results._paper(text)
  assert call('2601.00001') == '[2601.00001](https://arxiv.org/abs/2601.00001)'
  assert call('a *thesis*') == r'a \*thesis\*'
  assert call('') == 'Ours'
  assert call('2206.04463').startswith('Halfway, [2206.04463](https://')


def test_parts_of_a_result_stand_where_they_are_wanted(root):
  saved = add(root, 'a', data_dir='/home/me')
  assert '/home/me' not in json.dumps(saved)  # It says nothing to others.
  (found,) = results.committed(root)
  page = lambda words: block(
    results.render(f'<!-- results: {words} -->\n<!-- end -->', [found])
  )
  assert page('a answer') == '\n**It depends.**\n\n'
  claims = page('a claims').splitlines()
  assert claims[1] == '<a id="a"></a>' and len(claims) == 9
  assert claims[3] == '| claim | verdict | why |'
  assert claims[6].startswith('| Claim two. | undecided | open: two None')
  tables = page('a tables')
  assert tables.startswith('\n**Sizes**\n\n| network | size | n |\n')
  assert '| plain | 2.50 [2.00, 3.00] | 10 |\n' in tables
  assert '*size*: how large; in s; 95 % interval, n = 10 networks.\n' in tables
  assert '\n*network*: &lt;script>alert' in tables and '. *size*' in tables
  run = page('a run').splitlines()
  command = 'python -m experiments.gallery --preset=quick --data_dir=DIR'
  assert run[1] == f'    {command}'
  assert run[3].startswith('27 November 2026, aaaaaaaaaaaa+, Python 3.11.7, ')
  assert run[3].endswith('2 x cpu.')
  assert page('a run answer') == page('a run') + page('a answer')[1:]
  whole = [page(f'a {part}') for part in ('answer', 'claims', 'tables', 'run')]
  assert page('a') == ''.join([whole[0], *(part[1:] for part in whole[1:])])


def test_a_result_without_claims_has_no_table_of_them(root):
  saved = add(root, 'a')
  saved |= {'claims': [], 'tables': saved['tables'][:1]}
  saved['tables'][0]['columns'] = [{'name': 'c', 'unit': '', 'meaning': ''}]
  saved['tables'][0]['rows'] = [[1]]
  (root / 'results/a.json').write_text(json.dumps(saved))
  found = results.committed(root)
  text = results.render(
    '<!-- results: a claims tables -->\n<!-- end -->', found
  )
  assert block(text) == '\n**Sizes**\n\n| c |\n|--:|\n| 1 |\n\n'
  summary = results.render('<!-- results -->\n<!-- end -->', found)
  assert block(summary).startswith('\n### Runs\n\n| run |')


def test_pages_are_renewed_in_place_and_only_where_they_change(root, capsys):
  paper = root / 'docs/papers/random.md'
  text = 'A\n\n<!-- results: a answer -->\n<!-- end -->\n\nB\n<!-- x --> C\n'
  paper.write_text(text)
  add(root, 'a')
  answer = '<!-- results: a answer -->\n\n**It depends.**\n\n<!-- end -->'
  assert paper.read_text() == f'A\n\n{answer}\n\nB\n<!-- x --> C\n'
  assert set(results.pages(root)) == {paper, root / 'RESULTS.md'}
  before = os.stat(paper).st_mtime_ns
  capsys.readouterr()
  results.run(results.Config(), root)
  assert capsys.readouterr().out == '' and os.stat(paper).st_mtime_ns == before
  add(root, 'a', answer='No.')
  assert '**No.**' in paper.read_text() and 'depends' not in paper.read_text()


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('<!-- results: b -->\n<!-- end -->', r"results: b -->: .*one of \['a'\]"),
    ('<!-- results: a x -->\n<!-- end -->', r'a part of it one of .*claims'),
    ('<!-- results: a -->\n', 'needs an <!-- end --> of its own'),
    (
      '<!-- results: a -->\n<!-- results: a run -->\n<!-- end -->',
      'needs an <!-- end --> of its own',
    ),
    (
      '<!-- results: a -->\n<!-- from x -->\n<!-- end -->',
      'needs an <!-- end --> of its own',
    ),
  ],
)
def test_blocks_that_cannot_be_made_are_errors(root, text, message):
  add(root, 'a')
  with pytest.raises(ValueError, match=message):
    results.render(text, results.committed(root))


def test_a_page_that_cannot_be_made_is_one_line(root):
  (root / 'RESULTS.md').write_text('<!-- results: b -->\n<!-- end -->\n')
  with pytest.raises(flags.FlagError, match=r'the pages were not renewed: .*b'):
    results.run(results.Config(), root)


def test_without_results_the_summary_says_so(root):
  results.run(results.Config(), root)
  assert 'No run has been added yet.' in (root / 'RESULTS.md').read_text()


@pytest.mark.parametrize(
  ('module', 'flag'),
  [
    ('lib.results', 'add'),
    pytest.param('gallery', 'runs', marks=pytest.mark.slow),
    pytest.param('export', 'run', marks=pytest.mark.slow),
  ],
)
def test_scripts_tell_what_they_cannot_read(module, flag):
  command = [sys.executable, '-m', f'experiments.{module}', f'--{flag}=nowhere']
  ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert ended.returncode == 2
  assert ended.stderr.startswith(f'error: --{flag}=nowhere')


def test_the_pages_of_this_repository_are_those_of_its_results():
  stale = [
    str(path.relative_to(ROOT))
    for path, text in results.pages().items()
    if path.read_text() != text
  ]
  assert stale == [], 'run python -m experiments.lib.results'
