"""The navigation of the site, and `llms.txt`, which tells it to programs that read."""

import genopt
from .. import catalogue
from ... import blocks
from . import repository

__all__ = ['llms', 'nav']

loops = {'01_pytorch': 'PyTorch', '02_fastai': 'fastai', '03_lightning': 'Lightning', '04_accelerate': 'Accelerate', '05_trainer': 'Hugging Face Trainer',
         '06_distributed': 'Several processes'}

def nav(docs):
    "The navigation. Pages that may be missing, such as the trials, are there if their file is"
    def there(title, name): return [{title: name}] if (docs/name).exists() else []
    tutorials = [place for origin,place in repository.notebooks().items() if '/loops/' not in origin]
    training  = [{title: f'loops/{name}.ipynb'} for name,title in loops.items()]
    return [
        {'genopt': 'index.md'},
        {'Start': [{'Start': 'start.md'}, *tutorials, *there('Coming from ...', 'coming_from.md'), *there('Your checkpoints', 'checkpoints.md')]},
        {'Which one?': [*there('Which optimizer?', 'choose.md'), *there('Trials', 'trials.md'), *there('Compared', 'compare.md')]},
        {'Catalogue': ['catalogue/index.md', *({catalogue.family_name(m).capitalize(): [{n: f'catalogue/{n}.md'} for n in m.__all__]} for m in catalogue.families())]},
        {'Blocks': ['blocks/index.md', *({catalogue.module_of(m).capitalize(): [{n: f'blocks/{n}.md'} for n in m.__all__]} for m in blocks.modules if m.__all__)]},
        {'Training loops': training},
        {'Reference': [*there('API', 'api.md'), {'How it works inside': 'inside.md'}, {'Benchmarks': 'benchmarks.md'}, {'Changelog': 'changelog.md'}]},
    ]

def llms(nav):
    "The pages as `llms.txt` (https://llmstxt.org): a line for each, with what it is about"
    return '\n'.join(['# genopt', '', '> ' + repository_line(), '', *entries(nav)]) + '\n'

def repository_line(): return "A PyTorch optimizer that runs a list of callbacks: write an update rule once, for one parameter, and it runs as fast as a fused kernel."

def entries(items, depth=2):
    for item in items:
        if isinstance(item, str): yield f'- [{item}]({url(item)})'
        else:
            for title,what in item.items():
                if isinstance(what, str): yield f'- [{title}]({url(what)}){about(what)}'
                else: yield from ('', f"{'#'*depth} {title}", '', *entries(what, depth+1))

def url(place):
    place = place.rsplit('.', 1)[0]
    return place.removesuffix('index') if place.endswith('index') else f'{place}/'

def about(place):
    name = place.rsplit('/', 1)[-1].removesuffix('.md')
    o = getattr(genopt if place.startswith('catalogue/') else blocks, name, None) if '/' in place else None
    return f': {catalogue.in_short(o)}' if o is not None else ''
