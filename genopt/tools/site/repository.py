"""Files of the repository as pages: README, the catalogue, CONTRIBUTING, CHANGELOG, the notebooks. Their links are turned to the pages of the site. A
link to a file that has no page becomes its name in the text."""

import json,posixpath,re
from functools import cached_property
from pathlib import Path

__all__ = ['Repository']

# a file of the repository -> its page
text_pages = {
    'README.md':            'index.md',
    'CONTRIBUTING.md':      'inside.md',
    'CHANGELOG.md':         'changelog.md',
    'benchmarks/README.md': 'benchmarks.md',
    'benchmarks/GPU.md':    'gpu.md',
}
wide = '---\nhide: [navigation, toc]\n---\n'                         # the first page has room for lines of code
catalogue,of_blocks = 'docs/catalogue.md','# The blocks\n'          # the site cuts this file in two pages, at this heading


class Repository:
    "The clone in the folder `root`. Each of its dicts goes from a file of the repository to its place in the site"
    text_pages = text_pages
    def __init__(self, root: Path): self.root = root

    @cached_property
    def notebooks(self):
        found = sorted(self.relative(p) for p in (self.root/'nbs').rglob('*.ipynb') if 'checkpoints' not in str(p))
        return {p: ('' if '/loops/' in p else 'tutorials/') + p.removeprefix('nbs/') for p in found}

    @cached_property
    def pictures(self):
        return {self.relative(p): f'images/{p.name}' for folder in ('nbs/images', 'benchmarks') for p in (self.root/folder).glob('*.png')}

    @cached_property
    def pages(self):
        "All that has a place"
        docs = [self.relative(p) for p in (self.root/'docs').rglob('*') if p.suffix in ('.md', '.png', '.json')]
        own  = {p: p.removeprefix('docs/') for p in docs}
        return own | text_pages | self.notebooks | self.pictures | {catalogue: 'catalogue/index.md'}

    def relative(self, path): return path.relative_to(self.root).as_posix()

    def text(self, origin):
        "The Markdown of the file `origin`, for its page"
        return self.rehome((self.root/origin).read_text(encoding='utf-8'), origin)

    def source(self, place):
        "The Markdown from which the page `place` is made; of a notebook its text"
        if place in (made := self.made_pages()): return made[place]
        origin = next(o for o,p in self.pages.items() if p==place)
        text   = (self.root/origin).read_text(encoding='utf-8')
        if not origin.endswith('.ipynb'): return text
        return '\n\n'.join(''.join(cell['source']) for cell in json.loads(text)['cells'] if cell['cell_type']=='markdown')

    def made_pages(self):
        "The pages that are made of files: place -> Markdown"
        algorithms,blocks = self.text(catalogue).split(f'\n{of_blocks}')
        pages = {place: self.text(origin) for origin,place in text_pages.items()}
        pages['index.md'] = wide + pages['index.md']
        return pages | {'catalogue/index.md': algorithms, 'blocks/index.md': of_blocks+blocks}

    def place_of(self, link, origin):
        "Where in the site `link`, in the file `origin`, leads: page and anchor. None where it has no place"
        path,_,anchor = link.partition('#')
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
        place  = self.pages.get(target)
        if place=='catalogue/index.md' and anchor: return ('blocks/index.md', '') if anchor=='the-blocks' else (f'catalogue/{anchor}.md', '')
        return (place, anchor.lower()) if place else None

    def rehome(self, text, origin):
        "The Markdown `text` of the file `origin` with its links turned to the pages of the site"
        here = posixpath.dirname(self.pages[origin])
        def turned(m):
            mark,title,link = m.groups()
            if re.match(r'[a-z]+:', link): return m[0]
            if not (place := self.place_of(link, origin)):
                if not (self.root/posixpath.dirname(origin)/link).exists(): return m[0]         # to a page that is made, perhaps; mkdocs checks
                return title if '`' in title or '.' not in title else f'`{title}`'
            path = posixpath.relpath(place[0], here or '.')
            return f"{mark}[{title}]({path}{'#'+place[1] if place[1] else ''})"
        return re.sub(r'(!?)\[((?:[^\]\\]|\\.)*)\]\(([^)\s]+)\)', turned, text)
