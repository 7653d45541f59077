"""The site: the pages, and a walk over all of them in a real browser, at the width of a desk and of a phone.

The walk needs `pip install -e '.[docs]'`, Chromium and its driver (Debian: chromium, chromium-driver); it is skipped where one is missing. Screenshots
are kept in build/screenshots. `SITE=folder` walks a site that is built already."""

import fcntl,http.server,io,os,re,shutil,subprocess,sys,threading
from functools import partial
from pathlib import Path
from urllib.parse import unquote,urldefrag,urljoin
import pytest
import torch
import genopt
from genopt import fastai
from genopt.tools.cli import main

root = Path(__file__).parent.parent


# -- Pages by hand --

def cells(path):
    "The code in the last column of the tables of a page"
    for line in (root/path).read_text(encoding='utf-8').splitlines():
        if line.startswith('| ') and '|---' not in line:
            yield from re.findall(r'`([^`]+)`', line.rstrip(' |').rsplit(' | ', 1)[1])

def test_what_the_cheat_sheet_shows_runs():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    scope = vars(genopt) | {n: getattr(genopt.blocks, n) for n in genopt.blocks.__all__} | dict(genopt=genopt, model=model, ranger=fastai.ranger)
    def closure():
        model.zero_grad()
        loss = sum((p-1).square().sum() for p in model.parameters())
        loss.backward()
        return loss
    ran = 0
    for code in cells('docs/coming_from.md'):
        if not re.match(r'[A-Za-z_]+\(', code): continue                                            # a name, or what is called on an optimizer
        matrices = re.match(r'SOAP|Kron', code)
        made = eval(code, scope | dict(params=[model[0].weight] if matrices else [*model.parameters()]))
        if isinstance(made, torch.optim.Optimizer): made.step(closure)
        ran += 1
    assert ran>30

def test_code_about_checkpoints_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', (root/'docs/checkpoints.md').read_text(encoding='utf-8'), re.S)
    scope = {}
    for code in blocks: exec(compile(code, 'checkpoints.md', 'exec'), scope)
    assert scope['step']==100 and len(blocks)==4

def test_names_in_backticks_become_links():
    hook = pytest.importorskip('genopt.tools.site.hook', reason='needs the docs extra', exc_type=ImportError)
    def linked(text): return hook.with_links_of_names(text, 'choose.md')
    assert linked('`Adam`, `debias`, `zeros`')=='[`Adam`](catalogue/Adam.md), [`debias`](blocks/debias.md), `zeros`'
    same = '# `Adam`\n\n[`Adam`](x.md)\n\n```python\n`Adam`\n```\n\n    `Adam`\n'
    assert linked(same)==same and hook.with_links_of_names('`Adam`', 'catalogue/Adam.md')=='`Adam`'

def test_the_catalogue_is_one_file_and_two_pages():
    from genopt.tools.site.repository import Repository
    pages = Repository(root).made_pages()
    assert '| `Adam` |' in pages['catalogue/index.md'] and '| `adam_step` |' not in pages['catalogue/index.md']
    assert '| `adam_step` |' in pages['blocks/index.md'] and '[blocks](../blocks/index.md)' in pages['catalogue/index.md']


def test_math_is_mathml_and_its_font_has_what_it_needs():
    pytest.importorskip('latex2mathml')
    html = pytest.importorskip('genopt.tools.site.html', exc_type=ImportError)
    from fontTools.ttLib import TTFont
    res = html.math(r"\sqrt{\operatorname{newton\_schulz} u_t''} + \lVert \eta \rVert")
    assert '<msqrt>' in res and '<mtext>newton_schulz</mtext>' in res and res.count('stretchy="false"')==2
    with pytest.raises(ValueError, match='not converted'): html.math(r'\nosuchthing{x}')
    font = TTFont(io.BytesIO(html.font()))
    assert 'MATH' in font and {ord(c) for c in '√η'}<=font.getBestCmap().keys()

def test_row_of_the_trials_is_shown():
    pytest.importorskip('latex2mathml')
    from genopt.tools.site import trials
    of_one = {'SGD': dict(results=dict(ill=[dict(seeds='00000054'), dict(seeds='0000000')])), 'SGD(momentum=0.9)': dict(results=dict(gone=[dict(refused='no')])),
              'Lion': dict(results={})}
    tried  = dict(rates=[.001], seeds=5, needed=4, rows=of_one, tasks=dict(ill=dict(reason='scales', degrees=[1, 2]), gone=dict(reason='x', degrees=[1])))
    text   = '\n'.join(trials.rows_of('SGD', tried))
    assert '| ill | scales | 1 of 2 | 0.1 to 0.3 |' in text and '| gone | x | refused |  |' in text and '### SGD(momentum=0.9)' in text
    assert [*trials.rows_of('Adam', tried)]==[*trials.rows_of('Lion', tried)]==['It has not been tried yet.']

def test_site_is_built_in_a_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['site'])==2 and 'run the command in a clone' in capsys.readouterr().err

def test_links_of_the_repository_lead_to_pages():
    from genopt.tools.site.repository import Repository
    repo = Repository(root)
    def turned(text): return repo.rehome(text, 'CONTRIBUTING.md')
    assert turned('[page](docs/catalogue.md#the-blocks)')=='[page](blocks/index.md)' and turned('[a](docs/catalogue.md#Adam)')=='[a](catalogue/Adam.md)'
    assert turned('[b](nbs/02_contract.ipynb#Coming-from-fastai)')=='[b](tutorials/02_contract.ipynb#coming-from-fastai)'
    assert turned('[goals.py](benchmarks/goals.py)')=='`goals.py`' and turned('[x](https://a.org/b)')=='[x](https://a.org/b)'
    assert turned('![g](benchmarks/gpu.png), [G](benchmarks/GPU.md#goals)')=='![g](images/gpu.png), [G](gpu.md#goals)'
    assert turned('![p](nbs/images/compare.png)')=='![p](images/compare.png)' and turned('[up](README.md)')=='[up](index.md)'
    assert repo.rehome('[a](catalogue.md#the-blocks), [b](blocks/adam_step.md)', 'docs/choose.md')=='[a](blocks/index.md), [b](blocks/adam_step.md)'


# -- The site --

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site; processes of pytest-xdist build it once"
    if 'SITE' in os.environ: return Path(os.environ['SITE'])
    for module in ('mkdocs', 'mkdocs_jupyter', 'mkdocstrings', 'latex2mathml', 'ziamath'): pytest.importorskip(module)
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    with open(base/'site.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base/'built').exists():
            res = subprocess.run([sys.executable, '-m', 'genopt', 'site', '--out', base/'site'], cwd=root, capture_output=True, text=True)
            (base/'built').write_text(res.stdout+res.stderr if res.returncode else '')
    assert not (base/'built').read_text(), (base/'built').read_text()
    return base/'site'

def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if p.name!='404.html')

@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    "to a page that is there, and to an anchor that it has; nothing is loaded from another host"
    text = {p: (site/p).read_text(encoding='utf-8') for p in pages(site)}
    ids  = {p: {*re.findall(r'\bid="?([^"\s>]+)', t)} for p,t in text.items()}
    assert len(text)>220
    broken,foreign = [],[]
    for p,t in text.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="?([^"\s>]+)', t) + re.findall(r'<link\b[^>]*?rel="?(?:stylesheet|icon)[^>]*?href="?([^"\s>]+)', t)
        foreign += [(p, u) for u in loaded if re.match(r'(https?:)?//', u)]
        for link in {*loaded, *re.findall(r'<a\b[^>]*?\bhref="?([^"\s>]+)', t)}:
            if re.match(r'[a-z]+:|//', link): continue
            target,anchor = urldefrag(urljoin('/'+p, unquote(link)))
            target = target.lstrip('/') + ('index.html' if target.endswith('/') else '')
            if not (site/target).is_file() or anchor and target in ids and anchor not in ids[target] and anchor!='__codelineno': broken.append((p, link))
    assert not foreign
    assert not broken

@pytest.mark.slow
def test_llms_txt_names_pages_that_are_there(site):
    lines = [line for line in (site/'llms.txt').read_text().splitlines() if line.startswith('- ')]
    links = [re.fullmatch(r'- \[([^\]]+)\]\(([^)]+)\): (.{10,})', line) for line in lines]
    assert len(links)>220 and all(links) and all((site/link[2]/'index.html').is_file() for link in links)
    assert not [link[0] for link in links if re.search(r'\.md|\.ipynb|\]\(', link[1]+link[3])]


# -- In a browser --

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address(site):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def browser():
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium,driver = (shutil.which(n) for n in ('chromium', 'chromedriver'))
    if not chromium or not driver: pytest.skip('needs Chromium and its driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--hide-scrollbars', '--force-device-scale-factor=1',
                 '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'): options.add_argument(flag)      # another host is an error
    options.set_capability('goog:loggingPrefs', dict(browser='ALL'))
    options.page_load_strategy = 'normal'
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome: yield chrome

look = """
const found = [], width = window.innerWidth, content = document.querySelector('.md-content') || document.body;
for (const img of content.querySelectorAll('img')) if (!img.complete || !img.naturalWidth) found.push('missing picture ' + img.src);
if (document.documentElement.scrollWidth > width + 1) {
  const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1 && getComputedStyle(e).position != 'fixed');
  found.push('wider than the window: ' + document.documentElement.scrollWidth + ' ' + wide.slice(0, 3).map(e => e.tagName + '.' + e.className).join(', '));
}
const scrolls = e => { for (; e && e != document.body; e = e.parentElement) if (/auto|scroll/.test(getComputedStyle(e).overflowX)) return true; return false; };
for (const t of content.querySelectorAll('table, pre, math[display=block]'))
  if (t.getBoundingClientRect().right > width + 1 && !scrolls(t)) found.push('overflows: ' + t.tagName + ' ' + t.textContent.slice(0, 60));
for (const m of content.querySelectorAll('math')) {
  const box = m.getBoundingClientRect();
  if (m.checkVisibility() && (box.width < 1 || box.height < 1)) found.push('empty formula ' + m.textContent);
  if (m.querySelector('merror') || /\\\\/.test(m.textContent)) found.push('not converted: ' + m.textContent);
}
const walker = document.createTreeWalker(content, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode;
  if (text.parentElement.closest('pre, code, script, style, math, annotation')) continue;
  if (/\\\\(frac|beta|left|text|sqrt)|\\$\\$|\\\\\\(|\\[\\[\\w+\\]\\]|\\{\\{/.test(text.data)) found.push('raw: ' + text.data.slice(0, 80));
}
return found;
"""

sizes = {'desk': (1280, 900, False), 'phone': (390, 844, True)}
shown_dark = 'index.html', 'catalogue/index.html', 'catalogue/AdamW/index.html', 'tutorials/01_adam_and_friends/index.html', 'blocks/adam_step/index.html', 'choose/index.html'

def resize(browser, size, height=None):
    width,usual,mobile = sizes[size]
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=height or usual, deviceScaleFactor=1, mobile=mobile))

def show(browser, address, page, dark=False, sizes=sizes):
    "Open a page, look at it in these sizes, keep screenshots, and return what is wrong with it"
    found = []
    resize(browser, 'desk')
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')]))
    browser.execute_cdp_cmd('Storage.clearDataForOrigin', dict(origin=address, storageTypes='all'))      # the theme remembers light and dark
    browser.get(address+page)
    for size in sizes:
        resize(browser, size)
        found += [f'{page}, {size}: {f}' for f in browser.execute_script(look)]
        name = 'home' if page=='index.html' else page.removesuffix('.html').removesuffix('/index').replace('/', '-')
        shot = root/'build'/'screenshots'/f"{size}{'-dark' if dark else ''}"/f"{name}.png"
        shot.parent.mkdir(parents=True, exist_ok=True)
        resize(browser, size, min(browser.execute_script('return document.documentElement.scrollHeight'), 6000))
        browser.save_screenshot(str(shot))
    return found + [f"{page}: {e['message']}" for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]

@pytest.mark.slow
def test_every_page_in_a_browser(site, address, browser):
    found = [f for page in pages(site) for f in show(browser, address, page)]
    assert not found, '\n'.join(found)

@pytest.mark.slow
@pytest.mark.parametrize('page', shown_dark)
def test_pages_in_the_dark(address, browser, page):
    assert not show(browser, address, page, dark=True)
    def color(what, of): return browser.execute_script(f"return getComputedStyle(document.querySelector('{of}')).{what}.match(/\\d+/g).map(Number)")
    assert sum(color('backgroundColor', 'body')[:3])<200 and sum(color('color', '.md-content h1')[:3])>350

@pytest.mark.slow
def test_search_finds(address, browser):
    browser.get(address)
    index = browser.execute_async_script("const done = arguments[0]; fetch('search/search_index.json').then(r => r.json()).then(j => done(j.docs.map(d => d.title)))")
    assert {'AdamW', 'newton_schulz', 'The catalogue'}<={*index}

@pytest.mark.slow
def test_the_walk_sees_faults(tmp_path, browser):
    "A page with one fault of each kind"
    (tmp_path/'faults.html').write_text("<body><div class='md-content'><img src='no.png'><table><tr><td style='min-width:3000px'>wide</td></tr></table>"
                                       r"<p>\frac{a}{b}</p><math><mi>\foo</mi></math><script>console.error('told'); missing()</script></div>")
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = '\n'.join(show(browser, f'http://127.0.0.1:{server.server_port}/', 'faults.html'))
    server.shutdown()
    for fault in ('missing picture', 'wider than the window', 'overflows', 'raw', 'not converted', 'told', 'missing is not defined', '404'): assert fault in found, fault
