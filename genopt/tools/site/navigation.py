"""The navigation of the site, and `llms.txt`, which tells it to programs that read."""

import re
import genopt
from .. import catalogue
from ... import blocks

__all__ = ['llms', 'nav']

loops = {'01_pytorch': 'PyTorch', '02_fastai': 'fastai', '03_lightning': 'Lightning', '04_accelerate': 'Accelerate',
         '05_trainer': 'Hugging Face Trainer', '06_distributed': 'Several processes'}

def nav(repo):
    "The navigation of the site of the clone `repo`. Pages that may be missing, such as the trials, are there if their file is"
    def there(title, name):
        page = repo.root/'docs'/f'{name}.md'
        more = [{p.stem.capitalize(): f'{name}/{p.name}'} for p in sorted((repo.root/'docs'/name).glob('*.md'))]
        return [{title: [f'{name}.md', *more] if more else f'{name}.md'}] if page.exists() else []
    def section(title, folder, names): return {title.capitalize(): [{n: f'{folder}/{n}.md'} for n in names]}
    return [
        {'genopt': 'index.md'},
        {'Start': [*(place for origin,place in repo.notebooks.items() if '/loops/' not in origin),
                   {'Coming from ...': 'coming_from.md'}, {'Your checkpoints': 'checkpoints.md'}, {'Memory': 'memory.md'},
                   {'Limits': 'limits.md'}]},
        {'Which one?': [{'Which optimizer?': 'choose.md'}, *there('Trials', 'trials'), *there('Compare', 'compare')]},
        {'Catalogue': ['catalogue/index.md', *(section(catalogue.family_name(m), 'catalogue', m.__all__) for m in catalogue.families())]},
        {'Blocks': ['blocks/index.md', *(section(catalogue.module_of(m), 'blocks', m.__all__) for m in blocks.modules if m.__all__)]},
        {'Training loops': [{title: f'loops/{name}.ipynb'} for name,title in loops.items()]},
        {'Reference': [{'API': 'api.md'}, {'Inside, and contributing': 'inside.md'}, {'Benchmarks': 'benchmarks.md'}, {'On a GPU': 'gpu.md'},
                       {'Changelog': 'changelog.md'}]},
    ]

def llms(repo, nav):
    "The pages of the clone `repo` as `llms.txt` (https://llmstxt.org): for each its title and what it is about"
    summary = ("A PyTorch optimizer that runs a list of callbacks. Write an update rule once, for one parameter: genopt checks it, and runs it like "
             "a fused kernel.")
    return '\n'.join(['# genopt', '', f'> {summary}', '', *entries(repo, nav)]) + '\n'

def entries(repo, items, depth=2):
    for item in items:
        if isinstance(item, str): yield entry(repo, item)
        else:
            for title,what in item.items():
                if isinstance(what, str): yield entry(repo, what)
                else: yield from ('', f"{'#'*depth} {title}", '', *entries(repo, what, depth+1))

def entry(repo, place):
    title,about = of_object(place) or of_text(repo.source(place))
    return f'- [{title}]({url(place)}): {about}'

def url(place):
    place = place.rsplit('.', 1)[0]
    return f"./{place.removesuffix('index')}" if place.endswith('index') else f'{place}/'

def of_object(place):
    "Title and summary of the page of an algorithm or a block, or None"
    name = place.rsplit('/', 1)[-1].removesuffix('.md')
    o = getattr(genopt if place.startswith('catalogue/') else blocks, name, None) if '/' in place else None
    return (name, catalogue.in_short(o)) if o is not None else None

def of_text(text):
    "Title of a page in Markdown, and the first sentences of its text, without marks"
    title,_,rest = re.search(r'(?ms)^# (.*)', text)[1].partition('\n')
    first = next(part for part in re.split(r'\n\s*\n', rest) if re.match(r'\s*[\w`*>]', part))
    plain = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', ' '.join(re.sub(r'(?m)^> ?|\*\*', '', first).split()))
    about = ''
    for sentence in re.split(r'(?<=[.?!])\s', plain):
        about = f'{about} {sentence}'.strip()
        if len(about)>60: break
    return title,about
