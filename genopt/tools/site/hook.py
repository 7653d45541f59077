"""The hook of mkdocs: `mkdocs.yml` names this file, and mkdocs calls its functions `on_...` while it builds the site."""

import posixpath,re
from pathlib import Path
from bs4 import BeautifulSoup,NavigableString
from mkdocs.plugins import CombinedEvent,event_priority
from mkdocs.structure.files import File
from mkdocs.utils import get_relative_url
from genopt.tools.site import algorithms,blocks,html,navigation
from genopt.tools.site.repository import Repository

styles = {}                                                # CSS of notebooks, which each would bring along -> the place of its one copy


# -- What there is --

def clone(config): return Repository(Path(config.config_file_path).parent)

def on_config(config):
    config.nav = navigation.nav(clone(config))
    return config

@event_priority(100)                                       # before the plugin for notebooks, which takes its files from here
def add(files, config):
    def put(place, **what): files.append(File.generated(config, place, **what))
    repo = clone(config)
    for place,content in repo.made_pages().items():               put(place, content=content)
    for origin,place in (repo.notebooks | repo.pictures).items(): put(place, abs_src_path=str(repo.root/origin))
    for module in (algorithms, blocks):
        for place,content in module.made(Path(config.docs_dir), repo.root/'build'):
            put(place, content=content)
    put('llms.txt', content=navigation.llms(repo, config.nav))
    return files

@event_priority(-100)                                      # behind it: what it wraps a file in does not pass on where the file lies
def locate(files, config):
    for f in files:
        if isinstance(getattr(f, 'file', None), File): f.abs_src_path = f.file.abs_src_path
    return files

on_files = CombinedEvent(add, locate)


# -- Markdown --

def on_page_markdown(markdown, page, config, files):
    """A name of an algorithm or of a block in backticks becomes a link to its page. Links of pages that are read in the repository too are turned to
    the site's"""
    repo = clone(config)
    if (origin := f'docs/{page.file.src_uri}') in repo.pages: markdown = repo.rehome(markdown, origin)
    return with_links_of_names(markdown, page.file.src_uri)

def with_links_of_names(markdown, here):
    "The Markdown of the page `here` with a link for each name in backticks. Code in lines of its own, headings and links stay as they are"
    def link(m):
        place = html.page_of(m[2]) if m[2] else None
        return f"[`{m[2]}`]({posixpath.relpath(place, posixpath.dirname(here) or '.')})" if place and place!=here else m[0]
    return re.sub(r'(^```.*?^```|^#.*?$|^    .*?$|\[[^\]]*\]\()|`(\w+)`', link, markdown, flags=re.S|re.M)

# -- HTML --

def on_page_content(content, page, config, files):
    if not has_headings(page): page.meta['hide'] = [*page.meta.get('hide', ()), 'toc']       # the text takes the place of an empty table of contents
    is_notebook = page.file.src_uri.endswith('.ipynb')
    if is_notebook: content = without_styles_and_scripts(content, page)
    if not is_notebook and not re.search('arithmatex|<img|±', content): return content
    soup = BeautifulSoup(content, 'html.parser')
    for e in soup.select('.arithmatex'): e.replace_with(parsed(html.math(e.get_text().strip()[2:-2], e.name=='div')))
    if is_notebook: finish_notebook(soup, page, files, clone(config))
    else: finish_text(soup)
    return str(soup)

def has_headings(page): return any(heading.children for heading in page.toc) or len([*page.toc])>1

def finish_text(soup):
    "A picture leads to the picture alone, where a reader can enlarge it; a number and its spread stay on one line"
    for img in soup.find_all('img', src=True):
        if not img.find_parent('a'): img.wrap(soup.new_tag('a', href=img['src'], attrs={'class': 'picture'}))
    for cell in soup.find_all('td', string=re.compile(' ± ')): cell.string = cell.string.replace(' ± ', '\u00a0±\u00a0')

def parsed(text): return BeautifulSoup(text, 'html.parser')

def without_styles_and_scripts(content, page):
    "The content of a notebook's page with one link in place of half a megabyte of CSS, and without the script for formulas of another host"
    found = re.findall(r'<style.*?>(.*?)</style>', content, re.S)
    css   = '\n'.join(found)
    place = styles.setdefault(css, f'assets/notebook{len(styles) or ""}.css')
    content = re.sub(r'<style.*?</style>|<script\b(?![^>]*clipboard).*?</script>', '', content, flags=re.S)
    return f'<link rel="stylesheet" href="{get_relative_url(place, page.url)}">' + content

def finish_notebook(soup, page, files, repo):
    "Formulas between dollars become MathML, and links to files of the repository lead to pages"
    origin = next(o for o,place in repo.notebooks.items() if place==page.file.src_uri)
    for text in soup.find_all(string=re.compile(r'\$')):
        if text.find_parent(['pre', 'code', 'math']) or not text.find_parent(class_='jp-RenderedMarkdown'): continue
        new = re.sub(r'\$\$(.+?)\$\$', lambda m: html.math(m[1], True), str(text).replace('<', '&lt;'), flags=re.S)
        text.replace_with(parsed(re.sub(r'\$([^$]+)\$', lambda m: html.math(m[1]), new)))
    for t in soup.find_all('table', class_=True): t.wrap(soup.new_tag('div', attrs={'class': 'scroll'}))      # the theme makes the others scroll
    for a in soup.find_all('a', href=True):
        if re.match(r'[a-z]+:|#', a['href']): continue
        place = repo.place_of(a['href'], origin)
        target = place and files.get_file_from_path(place[0])
        if not target:
            a.replace_with(NavigableString(a.get_text()))
            continue
        a['href'] = get_relative_url(target.url, page.url) + ('#'+place[1] if place[1] else '')

def on_post_build(config):
    for css,place in styles.items(): (Path(config.site_dir)/place).write_text(css, encoding='utf-8')
    (Path(config.site_dir)/'assets'/'math.woff2').write_bytes(html.font())
