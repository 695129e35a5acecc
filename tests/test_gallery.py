"""The page of many runs: what it reads, that nothing breaks it, how it acts."""

import base64
import dataclasses
from html import parser
import json
import os
import re
import shutil
import subprocess

import matplotlib.pyplot as plt
import numpy as np
import pytest

from dmm_jax import records
from experiments import common
from experiments import findings
from experiments import gallery

EVIL = '<script>alert("x")</script> & \'"'
BROWSER = next(
  filter(None, map(shutil.which, ('chromium', 'google-chrome', 'chrome'))), None
)


@dataclasses.dataclass(frozen=True)
class Config:
  workdir: str = common.flag('', 'Run directory.')
  preset: str = common.flag('quick', 'Preset.')


def entry(value, low, high, **more):
  return {'value': value, 'interval': [low, high], **more}


ROWS = [
  {'network': 'plain', 'n': 10, 'size': entry(2.5, 2, 3), 'verdict': 'far'},
  {'network': EVIL, 'n': 9, 'size': entry(-1e-5, -2, 1), 'verdict': 'near'},
  {'network': 'other', 'n': 100, 'size': entry(0.5, 0, 1), 'verdict': 'near'},
]


def report(summary):
  print(f'\n{summary["dataset"]}: sizes of {EVIL}\n')
  rows = [
    [r['network'], str(r['n']), common.with_interval(r['size'], '.3g'), '-']
    for r in summary['rows']
  ]
  common.print_table(['network', 'n', 'size [95 %]', 'verdict'], rows)
  print('a line of text, right below')


def draw(run_dir):
  (run_dir / 'figures').mkdir()
  figure, axes = plt.subplots(figsize=(1, 1))
  axes.plot([0, 1])
  figure.savefig(run_dir / 'figures/curve_of_all.png', dpi=30)
  plt.close(figure)
  (run_dir / 'figures/curve_of_all.pdf').write_bytes(b'%PDF')
  return [run_dir / 'figures/curve_of_all.png']


def make(workdir, **more):
  """A run directory, by what makes all of them."""
  summary = {'question': f'How {EVIL}?', 'dataset': 'digits', 'rows': ROWS}
  common.conduct(
    Config(workdir=str(workdir)),
    'experiments.gallery',
    collect=lambda _, run_dir: records.save_columns(
      run_dir / 'results.npz', {'x': np.zeros(1)}
    ),
    summarize=lambda *_: summary | more,
    draw=draw,
    report=report,
  )
  return workdir


class Reader(parser.HTMLParser):
  """Holds tags to their ends, and keeps addresses and text."""

  def __init__(self):
    super().__init__()
    self.open, self.addresses, self.text, self.tags = [], [], [], []

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.addresses += [v for k, v in attrs if k in ('src', 'href')]
    assert not any(k.startswith('on') for k, _ in attrs), attrs
    if tag not in ('meta', 'img', 'input'):
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag, (tag, self.open)

  def handle_data(self, data):
    self.text.append(data)


def read(path):
  page = Reader()
  page.feed(path.read_text())
  assert not page.open
  return page, ''.join(page.text)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Two runs, one of them inside another folder, and what is none."""
  folder = tmp_path_factory.mktemp('runs')
  first = make(folder / 'first')
  make(
    folder / 'more' / EVIL.replace('/', '-'),
    verdicts={'R1': {'verdict': 'not supported', 'why': EVIL}},
  )
  for name, broken in (
    ('killed', lambda p: os.remove(p / 'summary.json')),
    ('begun_again', lambda p: edit(p / 'run.json', finished=None)),
    ('dateless', lambda p: edit(p / 'run.json', started=7)),
    ('cut', lambda p: (p / 'summary.json').write_text('{"a": ')),
    ('list', lambda p: (p / 'summary.json').write_text('[1]')),
    ('binary', lambda p: (p / 'run.json').write_bytes(b'\xff\x00')),
    ('bare', lambda p: os.remove(p / 'run.json')),
  ):
    shutil.copytree(first, folder / name)
    broken(folder / name)
  (folder / 'photos').mkdir()
  (folder / 'photos' / 'loop').symlink_to(folder)
  (folder / 'log.txt').write_text('not a folder')
  return folder


def edit(path, **changes):
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_page_holds_everything_and_needs_nothing(folder, capsys):
  out = gallery.run(gallery.Config(runs=str(folder)))
  assert out == folder / 'gallery.html'
  assert '2 runs, 8 other folders' in capsys.readouterr().out
  page, text = read(out)
  # Nothing from a file became a tag; no address leads out of the page.
  assert page.tags.count('script') == 1 and text.count(EVIL) > 6
  pictures = [a for a in page.addresses if a.startswith('data:image/png')]
  others = {a for a in page.addresses if not a.startswith('data:')}
  assert others == {'#run0', '#run1'} and len(pictures) == 2
  data = base64.b64decode(pictures[0].split(',')[1])
  assert data == (folder / 'first/figures/curve_of_all.png').read_bytes()
  assert 'url(' not in out.read_text() and '@import' not in out.read_text()
  for said in (
    'python -m experiments.gallery',
    '2.5 [2, 3]',
    'R1 not supported',
    'numpy 2.',
    '--preset=quick',
    'a line of text, right below',
    'preset quick',
    'data: digits',
    'It takes seconds.',  # Of the docstring.
  ):
    assert said in text, said
  for name, reason in (
    ('killed', 'unfinished: it has no summary.json'),
    ('begun_again', 'unfinished: it was begun'),
    ('dateless', 'run.json does not say when'),
    ('cut', 'summary.json cannot be read'),
    ('list', 'summary.json is no JSON object'),
    ('binary', 'run.json cannot be read'),
    ('bare', 'run.json cannot be read'),
    ('photos', 'not a run'),
  ):
    assert f'{name} {reason}' in text, name


def test_an_empty_folder_has_a_page_and_a_missing_one_is_named(tmp_path):
  read(gallery.run(gallery.Config(runs=str(tmp_path))))
  with pytest.raises(common.FlagError, match=r'--runs=.*none is not a dir'):
    gallery.run(gallery.Config(runs=str(tmp_path / 'none')))
  with pytest.raises(common.FlagError, match=r'--out=.* cannot be written'):
    gallery.run(gallery.Config(runs=str(tmp_path), out=str(tmp_path)))


def test_odd_files_of_a_finished_run_do_not_break_the_page(tmp_path):
  path = make(tmp_path / 'odd')
  edit(path / 'run.json', command='x', versions=[], devices=1, flags=None)
  edit(
    path / 'summary.json',
    rows=[{'interval': None, 'value': {}}, 3, {'interval': [1, 2]}],
    verdict=['a'],
    question={'b': None},
    deep=[[[]], {}, entry('text', None, 2)],
  )
  (path / 'report.txt').unlink()
  (path / 'metrics.jsonl').write_text('3\n{"seconds": "x"}\n{"seconds": NaN}\n')
  (path / 'figures' / 'folder.png').mkdir()
  make(tmp_path / 'other')
  edit(path / 'run.json', started='2026-01-01', finished='tomorrow')
  page = gallery.run(gallery.Config(runs=str(tmp_path)))
  assert '2 runs' in read(page)[1]


def test_tables_are_read_as_they_were_printed(capsys):
  rng = np.random.default_rng(0)
  words = ['', '-', 'a', 'law holds', '0.5 [0.1, 0.9]', '99.1%', '1,234', 'é x']
  for _ in range(50):
    shape = rng.integers(1, 6), rng.integers(2, 6)
    rows = [[str(w) for w in row] for row in rng.choice(words, shape)]
    for row in rows:
      row[0] = row[0] or 'name'
      row[1] = row[1] or '-'
    header = [f'column {i}' for i in range(shape[1])]
    print('\nsome text: 3 of 4\n\nmore')
    common.print_table(header, rows)
    print('text right below the table, longer than any of its columns is wide')
    got = list(findings.blocks(capsys.readouterr().out))
    assert got[0] == 'some text: 3 of 4\n\nmore'
    assert got[1] == [header, *rows]
    assert got[2].startswith('text right below') and len(got) == 3
  assert list(findings.blocks('')) == ['']


@pytest.mark.parametrize(
  'summary, want',
  [
    ({'verdict': 'learned', 'n': 3}, [('', 'learned', '')]),
    (  # Those at the top stand for all.
      {'verdicts': ['a: 0 of 9'], 'rows': ROWS},
      [('', 'a: 0 of 9', '')],
    ),
    (
      {'verdicts': {'R1': {'verdict': 'supported', 'why': 'as'}}},
      [('R1', 'supported', 'as')],
    ),
    (
      {'rows': [{'arm': a, 'radius': r, 'n': 3, 'verdict': 'v'} for a, r in (
        ('on', 1.0), ('on', 2.5), ('off', 1.0))]},
      [('on, radius 1', 'v', ''), ('on, radius 2.5', 'v', ''),
       ('off, radius 1', 'v', '')],
    ),
    (
      {'slopes': [
        {'side': 'off', 'factors': [0.5, 7.0], 'value': 1, 'verdict': 'g'},
        {'side': 'off', 'factors': [3.0, 7.0], 'value': 2, 'verdict': 'p'},
      ]},
      [('slopes, factors 0.5 to 7', 'g', ''),
       ('slopes, factors 3 to 7', 'p', '')],
    ),
    (
      {'rows': [{'network': 'x'}, {'network': 'PGD', 'verdicts': ['a', 'b']}],
       'fit': {'verdicts': ['c']}, 'random_share': {'verdict': 'd'}},
      [('PGD', 'a; b', ''), ('fit', 'c', ''), ('random share', 'd', '')],
    ),
    (  # The fewest texts: `kind` says no more than `about`.
      {'rows': [
        {'set': a, 'kind': b, 'about': f'c {b}', 'mean': i, 'verdict': 'v'}
        for i, (a, b) in enumerate([('x', 's'), ('x', 't'), ('y', 's')])]},
      [('x, s', 'v', ''), ('x, t', 'v', ''), ('y, s', 'v', '')],
    ),
    (
      {'compared': [{'norm': '2.0', 'verdict': 'nearer'}]},
      [('compared, norm 2', 'nearer', '')],
    ),
    ({'question': 'none'}, []),
  ],
)  # fmt: skip
def test_verdicts_are_found_wherever_they_are(summary, want):
  assert [tuple(v) for v in findings.verdicts(summary)] == want


def test_many_verdicts_are_counted():
  of = lambda *said: [
    findings.Verdict(f'n{i}', s, '') for i, s in enumerate(said)
  ]
  assert findings.condensed(of('a')) == 'a'
  assert findings.condensed(of('a', 'b')) == 'n0: a; n1: b'
  many = of('a', 'b by +0.10', 'b by -0.20', 'a', 'a', 'c', 'd')
  assert findings.condensed(many) == '3 x a | 2 x b | 1 x c | 1 others'


def test_every_number_keeps_its_interval_and_its_place():
  summary = {'k': 8, 'curve': [1, 2], 'q': True, 'rows': ROWS[:1], 'a_b': {
    '50': entry(1.0, 0, 2, n=4, null=0.5)}}  # fmt: skip
  assert list(findings.numbers(summary)) == [
    ('k', 8, None, None),
    ('plain / n', 10, None, None),
    ('plain / size', 2.5, [2, 3], None),
    ('a b / 50', 1.0, [0, 2], 4),
    ('a b / 50 / null', 0.5, None, None),
  ]


def test_a_run_lasts_as_long_as_its_last_start_or_its_parts(tmp_path):
  record = {
    'started': '2026-01-01T00:00:00+00:00',
    'finished': '2026-01-01T00:02:00+00:00',
  }
  assert findings.seconds(tmp_path, record) == 120
  records.log(tmp_path, unit='a', seconds=100.5)
  records.log(tmp_path, unit='b', seconds=60)
  assert findings.seconds(tmp_path, record) == 160.5
  assert findings.seconds(tmp_path, {}) == 160.5
  said = [gallery.lasting(s) for s in (0.2, 99, 100, 5000, 9000)]
  assert said == ['0 s', '99 s', '2 min', '83 min', '2.5 h']


def test_older_runs_are_told_by_todays_code_or_by_numbers(tmp_path):
  path = make(tmp_path / 'run')
  (path / 'report.txt').unlink()
  edit(path / 'run.json', experiment='experiments.train_classifier')
  summary = dict(model='mlp', dataset='digits', parameters=1234, steps=7)
  summary |= dict(loss=0.5, train_accuracy=0.9, largest_class=0.1)
  summary |= dict(test_accuracy=entry(0.75, 0.7, 0.8, n=360), verdict='learned')
  (path / 'summary.json').write_text(json.dumps(summary))
  told = findings.read_run('run', path).report
  assert '1,234 parameters' in told and '75.00% [70.00%, 80.00%]' in told
  edit(path / 'summary.json', loss='none')
  one = findings.read_run('run', path)
  assert one.report == ''
  assert '0.75 [0.7, 0.8]' in re.sub('<.*?>', '', gallery.article(0, one))
  # Only scripts of this package are asked.
  for name in (
    'os',
    'experiments.no_such',
    'experiments..os',
    '../x',
    'antigravity',
  ):
    assert findings.located(name) is None


ACTS = """<script>
  const said = {};
  const cells = (t, i) =>
    [...t.tBodies[0].rows].map((r) => r.cells[i].innerText);
  const shown = () =>
    all('#runs > article').filter((r) => r.offsetHeight).length;
  const type = (text) => {
    search.value = text; search.dispatchEvent(new Event('input')); };
  addEventListener('load', async () => {
    try {
      const images = all('.figures img');
      images.forEach((i) => { i.loading = 'eager'; });
      await Promise.all(images.map((i) => i.decode()));
      said.widths = images.map((i) => i.naturalWidth);
      const table = document.querySelector('article table');
      const sizes = table.tHead.querySelectorAll('button')[2];
      sizes.click(); said.up = cells(table, 1);
      sizes.click(); said.down = cells(table, 1);
      said.aria = table.tHead.rows[0].cells[2].getAttribute('aria-sort');
      const names = byId('index').tHead.querySelector('button');
      names.click(); names.click();
      said.order = all('#runs > article').map((r) => r.id);
      said.before = shown();
      type('R1 SUPPORTED'); said.found = shown();
      said.count = byId('count').textContent;
      type('nowhere'); said.none = shown(); type('');
      const paper = () => getComputedStyle(document.body).backgroundColor;
      const light = paper(); toggle.click(); said.dark = [light, paper()];
      document.querySelector('.enlarge').click();
      said.large = large.open && large.firstElementChild.src.length > 100;
      large.click(); said.closed = !large.open;
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
def test_the_page_acts_in_a_browser(folder, tmp_path):
  page = gallery.run(
    gallery.Config(runs=str(folder), out=str(tmp_path / 'page.html'))
  )
  text = page.read_text().replace('<script>', WATCH + '<script>', 1)
  page.write_text(text.replace('</body>', ACTS + '</body>'))
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
      page.as_uri(),
    ],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  ).stdout
  said = json.loads(re.search('id="said">(.*?)</pre>', out).group(1))
  assert said.pop('errors') == []
  assert said['widths'] == [30, 30] and said['wide']
  assert said['up'] == ['9', '100', '10'] and said['down'] == ['10', '100', '9']
  assert said['aria'] == 'descending'
  assert said['order'] == ['run1', 'run0']  # more/... after first, backwards.
  assert (said['before'], said['found'], said['none']) == (2, 1, 0)
  assert said['count'] == '1 of 2 runs'
  light, dark = (sum(map(int, re.findall(r'\d+', c))) for c in said['dark'])
  assert light > 600 > 150 > dark
  assert said['large'] and said['closed']


def test_columns_of_numbers_are_told_from_others():
  good = (
    '3',
    '-',
    '',
    '99.1%',
    '-0.5 [-1, inf]',
    '3/20',
    '1e-05',
    '1,234',
    'inf',
  )
  for text in (*good, '1.0 1.00 0.98', '0.0%/0.5%', 'nan', '+0.5 [nan, nan]'):
    assert gallery._NUMBER.fullmatch(text), text
  for text in (
    'mlp',
    '19.01 times: farther',
    'l2 x1.5',
    '3 networks',
    50 * '1' + 'a',
  ):
    assert not gallery._NUMBER.fullmatch(text), text
