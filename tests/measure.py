"""How well every algorithm agrees with its reference and with other libraries, measured and kept for the catalogue's page:

    PYTHONPATH=.:tests python tests/measure.py [Adam Lion ...]

writes `docs/parity.json`, of the algorithms named, or of all; then `genopt list --page docs/catalogue.md` writes the page."""

import importlib.metadata,json,sys
from pathlib import Path
import genopt,torch
from catalogue.given import given,library
from helpers import catalogue,difference

kept = Path(__file__).parent.parent/'docs'/'parity.json'


def version(name):
    "Of the package called `name`, perhaps with a remark behind a comma; '' if it is none"
    name = name.partition(',')[0].partition('.')[0]
    for n in (name, *importlib.metadata.packages_distributions().get(name, [])):
        try: return importlib.metadata.version(n).partition('+')[0]
        except importlib.metadata.PackageNotFoundError: pass
    return ''

def largest(a, ours, theirs, settings):
    "The largest relative difference of any parameter, over all settings. The reference is torch's loop, where it has one"
    each = [difference(a.ran(ours, kw, foreach=False)[0], a.ran(theirs, kw)[0]) for kw in settings]
    return torch.tensor(each, dtype=torch.float64).max().item()                                       # nan stays

def reference_name(a):
    if a.source=='torch.optim': return f'torch.optim.{library(a)[0].__name__}'
    return dict(paper="the paper's pseudocode").get(a.source, a.source)

def about(a, name, peer=None):
    "What the page says of another library beside the difference"
    return dict(name=name, version=version(name), given='' if name.startswith('the paper') else given(a, peer), patched=(peer or a).patched)

def measure(a):
    reference = about(a, reference_name(a)) | dict(difference=largest(a, a.cls, a.reference, [*(a.own or [{}]), *a.settings(8)]))
    peers = [about(a, p.name, p) | dict(why=p.why, difference=largest(a, p.ours or a.cls, p.make, p.settings(a))) for p in a.peers]
    return dict(steps=a.steps, reference=reference, peers=peers)

if __name__=='__main__':
    names  = sys.argv[1:]
    if bad := [n for n in names if n not in genopt.algorithms.__all__]: sys.exit(f'no algorithm {bad[0]!r}')
    parity = json.loads(kept.read_text()) if kept.exists() else {}
    for a in catalogue:
        if names and a.name not in names: continue
        parity[a.name] = measure(a)
        print(a.name, parity[a.name], flush=True)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps({n: parity[n] for n in genopt.algorithms.__all__ if n in parity}, indent=1, ensure_ascii=False) + '\n')
