"""Names that have moved. For one release the old ones still work, and warn: `genopt.average_grad` is `genopt.blocks.average_grad`,
`genopt.core` is `genopt.contract`."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from .blocks._renamed import names as renamed

__all__ = ['attribute']

modules = {
    'core': 'contract', 'naming': 'contract.names', 'sharded': 'contract.sharded', 'loop': 'run.reference', 'store': 'run.store',
    'sparse': 'run.sparse', 'hypers': 'optim.hypers', 'model': 'optim.model', 'watch': 'optim.watch', 'recipe': 'optim.recipe',
    'modes': 'optim.modes', 'explain': 'optim.explain', 'learner': 'optim.learner', 'rules': 'optim.rules', 'optimizer': 'optim.optimizer',
    'check': 'optim.rehearsal', 'save': 'checkpoint', 'bench': 'tools.bench', 'catalogue': 'tools.catalogue', 'cli': 'tools.cli',
    'compare': 'tools.compare', 'data': 'tools.data', 'gallery': 'tools.gallery'}
renamed_all = renamed | {'single': 'scalar_tensor'}
places = 'blocks', 'contract', 'optim.hypers', 'optim.rules'                # where attributes of `genopt` have gone

def warn(old, new, level=3):
    warnings.warn(f"genopt.{old} has moved to genopt.{new}; the old name will go in the next release", DeprecationWarning, stacklevel=level)

def attribute(name):
    "What `genopt.name` was. Raises `AttributeError` for what never was"
    for place in places if not name.startswith('_') else ():
        module = importlib.import_module(f'genopt.{place}')
        if hasattr(module, new := renamed_all.get(name, name)):
            warn(name, new if new in sys.modules['genopt'].__all__ else f'{place}.{new}', level=4)
            return getattr(module, new)
    if name in modules: return importlib.import_module(f'genopt.{name}')
    raise AttributeError(f"module 'genopt' has no attribute {name!r}")


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    "Finds a module under its old name: it has the names of the new one"
    def find_spec(self, fullname, path=None, target=None):
        package,_,name = fullname.rpartition('.')
        return importlib.machinery.ModuleSpec(fullname, self) if package=='genopt' and name in modules else None
    def create_module(self, spec): return None
    def exec_module(self, module):
        name = module.__name__.rpartition('.')[2]
        new  = importlib.import_module(f'genopt.{modules[name]}')
        warn(name, modules[name])
        vars(module).update((n, v) for n,v in vars(new).items() if not n.startswith('__'))

sys.meta_path.append(MovedModules())
