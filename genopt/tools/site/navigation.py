"""The navigation of the site, and `llms.txt`, which tells it to programs that read."""

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
        {'Which one?': [{'Which optimizer?': 'choose.md'}, *there('Trials', 'trials'), *there('Compared', 'compare')]},
        {'Catalogue': ['catalogue/index.md', *(section(catalogue.family_name(m), 'catalogue', m.__all__) for m in catalogue.families())]},
        {'Blocks': ['blocks/index.md', *(section(catalogue.module_of(m), 'blocks', m.__all__) for m in blocks.modules if m.__all__)]},
        {'Training loops': [{title: f'loops/{name}.ipynb'} for name,title in loops.items()]},
        {'Reference': [{'API': 'api.md'}, {'Inside, and contributing': 'inside.md'}, {'Benchmarks': 'benchmarks.md'}, {'On a GPU': 'gpu.md'},
                       {'Changelog': 'changelog.md'}]},
    ]

def llms(nav):
    "The pages as `llms.txt` (https://llmstxt.org): a line for each page, with what it is about"
    about = ("A PyTorch optimizer that runs a list of callbacks. Write an update rule once, for one parameter: genopt checks it, and runs it like a "
             "fused kernel.")
    return '\n'.join(['# genopt', '', f'> {about}', '', *entries(nav)]) + '\n'

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
