"""Files of the repository as pages: README, CONTRIBUTING, CHANGELOG, the notebooks. Their links are turned to the pages of the site; a link to a file
that has no page becomes its name in the text."""

import posixpath,re
from pathlib import Path

__all__ = ['notebooks', 'pages', 'place_of', 'rehome', 'root', 'text_pages']

root = Path(__file__).parents[3]

# a file of the repository -> its page, and the title of that page
text_pages = {
    'README.md':            'start.md',
    'CONTRIBUTING.md':      'inside.md',
    'CHANGELOG.md':         'changelog.md',
    'benchmarks/README.md': 'benchmarks.md',
}

def notebooks():
    "The notebooks in the repository -> their page"
    found = sorted(p.relative_to(root).as_posix() for p in (root/'nbs').rglob('*.ipynb') if 'checkpoints' not in str(p))
    return {p: ('' if '/loops/' in p else 'tutorials/') + p.removeprefix('nbs/') for p in found}

def pictures():
    return {p.relative_to(root).as_posix(): f'images/{p.name}' for p in (root/'nbs'/'images').glob('*.png')}

def pages():
    "Every file of the repository that has a place in the site -> that place"
    docs = {p.relative_to(root).as_posix(): p.relative_to(root/'docs').as_posix() for p in (root/'docs').rglob('*') if p.suffix in ('.md', '.png')}
    return docs | text_pages | notebooks() | pictures() | {'docs/catalogue.md': 'catalogue/index.md'}

def place_of(link, origin):
    "The place in the site of what `link`, in the file `origin` of the repository, leads to: path and anchor. None where it has no place"
    path,_,anchor = link.partition('#')
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
    place  = pages().get(target)
    if place=='catalogue/index.md' and anchor: return ('blocks/index.md', '') if anchor=='the-blocks' else (f'catalogue/{anchor}.md', '')
    return (place, anchor.lower()) if place else None

def rehome(text, origin):
    "The Markdown `text` of the file `origin` with its links turned to the pages of the site"
    here = posixpath.dirname(text_pages[origin])
    def turned(m):
        mark,title,link = m.groups()
        if re.match(r'[a-z]+:', link): return m[0]
        if not (place := place_of(link, origin)): return title if '`' in title else f'`{title}`' if '.' in title else title
        path = posixpath.relpath(place[0], here or '.')
        return f"{mark}[{title}]({path}{'#'+place[1] if place[1] else ''})"
    return re.sub(r'(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)\s]+)\)', turned, text)
