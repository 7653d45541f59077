"""The error of one encode and decode, for each code of states, beside bitsandbytes' and torchao's:

    python -m benchmarks.codes                   # prints the table
    python -m benchmarks.codes docs/memory.md    # writes it there, between the lines that mark it
    python -m benchmarks.codes --quality         # trains with codes, five seeds each, and prints the losses

`pip install bitsandbytes torchao` gives the rows of both; without them their rows are left out."""

import importlib,re,sys
from pathlib import Path
import torch
import torch.nn.functional as F
from genopt import AdamW,Code
from genopt.contract.codes import codes

__all__ = ['errors', 'four_bits', 'table']

# 16 codes for squares, without zero. It has a byte of memory for each, so it shows an error and saves nothing over int8
four_bits = Code('four_bits', lambda x: x.amax(-1), lambda x,scale: ((x/scale)**.25*16-1).clamp(0, 15), lambda code,scale: ((code+1)/16)**4*scale,
                 block=128, signed=False, error=.2)

# -- What is stored --

def of_a_run():
    "AdamW's states after 300 steps of a small network on scikit-learn's digits: averages, and averages of squares"
    from sklearn.datasets import load_digits
    x,y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
    opt   = AdamW(model.parameters(), lr=1e-3)
    for _ in range(300):
        at = torch.randint(len(x), (64,))
        F.cross_entropy(model(x[at].float()/16), y[at]).backward()
        opt.step()
        opt.zero_grad()
    return [torch.cat([s[n].flatten() for p,s in opt.state.items() if p.ndim>1]) for n in ('grad_avg','sqr_avg')]

def tensors():
    "The name of each kind of tensor, and the tensor"
    torch.manual_seed(0)
    normal,heavy = torch.randn(2**18),torch.distributions.StudentT(2.).sample((2**18,))
    average,squares = (x[:len(x)//2048*2048] for x in of_a_run())
    return {'normal': normal, 'heavy tails': heavy, 'a run': average,
            'normal, squared': normal**2, 'heavy tails, squared': heavy**2, 'a run, squares': squares}

# -- Codes --

def ours(code): return lambda x: code.seen(*code.stored(x))

def by_bitsandbytes(x):
    "The dynamic map, in blocks of 256"
    bnb  = importlib.import_module('bitsandbytes.functional')
    code = bnb.create_dynamic_map(signed=bool((x<0).any()))
    return bnb.dequantize_blockwise(*bnb.quantize_blockwise(x, code=code, blocksize=256))

def by_torchao(module, name, block):
    def run(x):
        cls   = getattr(importlib.import_module(f'torchao.optim.{module}'), name)
        signs = () if name.endswith('Fp8') else (bool((x<0).any()),)
        state = cls.zeros(x.shape, *signs, block)
        state.copy_(x)
        return state.dequantize()
    return run

contenders = {'`int8`': ours(codes['int8']), 'bitsandbytes, dynamic map': by_bitsandbytes,
              'torchao, 8 bits': by_torchao('subclass_8bit', 'OptimState8bit', 256),
              '`fp8`': ours(codes['fp8']), 'torchao, fp8': by_torchao('subclass_fp8', 'OptimStateFp8', 256),
              '`four_bits`, below': ours(four_bits), 'torchao, 4 bits': by_torchao('subclass_4bit', 'OptimState4bit', 128),
              '`bfloat16`': lambda x: x.bfloat16().float()}

# -- Errors --

def errors(x, y):
    """Of what came back as `y`: the root mean square of the error, as a part of that of `x`; the median error of an element, as a part of the
    element; the part of the elements that are lost: they became zero, or less than half, or more than twice what they were"""
    rms   = lambda x: x.square().mean().sqrt()
    there = x!=0
    x,y   = x[there].double(),y[there].double()
    return (rms(y-x)/rms(x)).item(),((y-x)/x).abs().median().item(),((y/x<.5)|(y/x>2)).double().mean().item()

def table():
    "The lines of the table in Markdown"
    kinds = tensors()
    yield f"| root mean square, element, lost | {' | '.join(kinds)} |"
    yield '|---'*(len(kinds)+1) + '|'
    for name,f in contenders.items():
        squares_only = 'four_bits' in name
        try: cells = ['' if squares_only and (x<0).any() else cell(*errors(x, f(x))) for x in kinds.values()]
        except ImportError: continue
        yield f"| {name} | {' | '.join(cells)} |"

def cell(rms, element, lost): return f"{rms:.2%}, {element:.2%}, {lost:.1%}"

def write(path, lines):
    "Put `lines` between the marks of the page"
    page = re.sub('(?s)(<!-- benchmarks.codes -->\n).*?(<!-- end -->)', lambda m: m[1] + '\n'.join([*lines, '']) + m[2], path.read_text())
    path.write_text(page)

# -- Quality --

linear_4 = Code('linear_4', lambda x: x.amax(-1), lambda x,scale: (x/scale*16 - 1).clamp(0, 15),
                lambda code,scale: (code+1)/16*scale, block=128, signed=False)

def all_in(how, rounding=None): return dict(dtype=how, rounding=rounding, smallest=0)
policies = {'float32': None, '`int8`': {'*': all_in('int8')}, '`fp8`': {'*': all_in('fp8')},
            '`int8`, `four_bits` at random': {'sqr_avg': all_in(four_bits), '*': all_in('int8')},
            '`int8`, `four_bits` to the nearest': {'sqr_avg': all_in(four_bits, 'nearest'), '*': all_in('int8')},
            'float32, linear 4 bits to the nearest': {'sqr_avg': all_in(linear_4, 'nearest')}}

def trained(store, seed, lr, epochs, size=64, n=1400):
    "The loss of an MLP on the digits that it was trained on"
    from sklearn.datasets import load_digits
    x,y = (torch.tensor(a) for a in load_digits(return_X_y=True))
    at  = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]
    x,y = x[at].float()/16,y[at]
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    opt   = AdamW(model.parameters(), lr=lr, weight_decay=.01, store=store, foreach=True)
    steps = n//size+1
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=epochs*steps+1, cycle_momentum=False)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(n, generator=order).split(size):
            opt.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            opt.step()
            sched.step()
    with torch.no_grad(): return F.cross_entropy(model(x), y).item()

def quality():
    "The lines of the table of losses"
    yield '| averages, squares | lr 3e-3, 15 epochs | lr 1e-3, 40 epochs |'
    yield '|---|---|---|'
    for name,store in policies.items():
        cells = []
        for lr,epochs in ((3e-3, 15), (1e-3, 40)):
            losses = torch.tensor([trained(store, seed, lr, epochs) for seed in range(5)])
            cells.append(f'{losses.mean():.4f} ± {losses.std():.4f}')
        yield f"| {name} | {' | '.join(cells)} |"

if __name__=='__main__':
    lines = [*(quality() if '--quality' in sys.argv else table())]
    print('\n'.join(lines))
    if pages := [a for a in sys.argv[1:] if a!='--quality']: write(Path(pages[0]), lines)
