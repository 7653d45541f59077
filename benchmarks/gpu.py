"""`python -m benchmarks.gpu` writes the page `benchmarks/GPU.md`, its picture, and the rows of a GPU in README.md. They come from `gpu.json`, which
has what was measured on a card, and from the kernels of every algorithm, which are compiled here. `--host` measures what the host does in a step,
with a pretended driver of CUDA that launches nothing."""

import contextlib,sys,time
from pathlib import Path
from unittest.mock import patch
import torch
import genopt
from genopt.lower.decide import programs
from genopt.optim.tables import table
from genopt.run import choose,triton_runtime
from genopt.run.triton_launch import kernel_for
from genopt.run.triton_offline import compile_for,targets
from genopt.tools.bench import algorithms,one_thread,shapes,version
from genopt.tools.cli import call
from . import card,goals,measured,plot
from .results import load,save

page   = Path(__file__).with_name('GPU.md')
readme = page.parent.parent/'README.md'
cards  = {'A100 80 GB': 2.04e12, 'H100 SXM': 3.35e12, 'H200': 4.8e12}      # bytes a second, from their data sheets


# -- Kernels --

def program(name, dtype=torch.float32):
    "The program of an algorithm as a GPU would run it, with the settings that are measured; None if it is called around launches, or asks the model"
    p = torch.ones(6, 5, dtype=dtype).requires_grad_()
    chain,numbers,params = getattr(genopt, name)([p], **algorithms[name]).explain().chains[0]
    made = choose.program_on_gpu(chain, numbers, params[0])
    return made if made.one_call and not made.falls_back and not made.prefix and not made.why else None

def tried(name):
    "`program`, or None for an algorithm that cannot be made so simply"
    try: return program(name)
    except (ValueError, RuntimeError, TypeError): return None

def kernels(made, target):
    "The compiled kernels of a program, each with its bytes for each element"
    kernel = kernel_for(made)
    return [(c, kernel.bytes_of(c.call)) for stage in kernel.stages() for c in compile_for(kernel, target, stage)]

def row(name, results):
    "A row of the table of algorithms"
    found  = kernels(program(name), 'sm_90')
    n      = sum(b for _,b in found)
    widest = sum(c.accesses.get(128, 0) for c,_ in found)
    return [name, str(len(found)), str(n), str(max(c.registers for c,_ in found)), str(max(c.spills for c,_ in found)), str(widest),
            'none' if not any(c.doubles for c,_ in found) else 'some', *times(name, n, results)]

def times(name, n_bytes, results):
    "The last cells of a row: predicted milliseconds on each card, measured ones, these over the predicted ones, and over those of a memory copy"
    predicted = {c: 1e3*n_bytes*shapes['gpt2'].numel/speed for c,speed in cards.items()}
    found = next((r for r in results if (r['case'], r['algorithm'])==('catalogue', name)), {})
    ours  = goals.find([found], 'catalogue', name, 'gpt2', 'genopt fused') if found else {}
    told  = ['-']*3
    if 'ms' in ours:
        here = next((t for c,t in predicted.items() if c.split()[0] in found['machine']['device']), None)
        told = [f"{ours['ms']:.2f}{measured.star(ours)}", f"{ours['ms']/here:.2f}" if here else '-', f"{ours['ratio']:.2f}"]
    return [*(f'{t:.2f}' for t in predicted.values()), *told]

def by_target(names=('Adam', 'LAMB', 'Prodigy'), dtypes=(torch.float32, torch.bfloat16)):
    "Rows of a table of GPUs"
    for name in names:
        for dtype in dtypes:
            for target in targets:
                found = [c for c,_ in kernels(program(name, dtype), target)]
                told  = zip(*((c.registers, c.spills, c.accesses.get(128, 0)) for c in found))
                yield [name, str(dtype).removeprefix('torch.'), target, *(', '.join(map(str, x)) for x in told)]


# -- The host --

class Pretended:
    "A driver of CUDA that launches nothing: Triton compiles for sm_90, binds arguments, and comes here. `launched`: the grids"
    def __init__(self):
        self.utils,self.launched = self,[]
    def get_current_target(self):
        from triton.backends.compiler import GPUTarget
        return GPUTarget(*targets['sm_90'])
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_device_properties(self, device): return dict(max_shared_mem=2**17)
    def load_binary(self, *args): return None,1,0,0,1024                    # None: there is no module to unload
    def launcher_cls(self, source, metadata): return lambda *args: self.launched.append((metadata.name, args[:3]))

@contextlib.contextmanager
def pretended():
    "Within this, CPU tensors are run as a GPU's would be, and launches go to a `Pretended` driver"
    from triton.runtime import driver
    before,driver._active = driver._active,(there := Pretended())
    try:
        with (patch.dict(choose.dialects, cpu='triton'), patch.object(triton_runtime, 'interprets', lambda device: False),
              patch.dict(programs, clear=True)): yield there                # the kernels of others may be interpreted
    finally: driver._active = before

def host_times(n, moves, rounds=200, make=genopt.Adam, **kw):
    "Seconds of each step for `n` tensors. `moves`: each step has gradients in other places"
    ps    = [torch.zeros(64, requires_grad=True) for _ in range(n)]
    grads = [[torch.zeros_like(p) for p in ps] for _ in range(2)]
    opt,times = make(ps, lr=1e-3, **kw),[]
    for i in range(rounds+3):
        for p,g in zip(ps, grads[i%2 if moves else 0]): p.grad = g
        start = time.perf_counter()
        opt.step()
        times.append(time.perf_counter()-start)
    return times[3:]

def host_table():
    "A table of host time: where gradients stay, where they lie elsewhere in each step, and torch's fused Adam with its kernels on the CPU"
    rows = []
    for what,n in {'ResNet-50, 161 tensors': 161, '1000 tensors': 1000}.items():
        cells = []
        for moves in (False, True):
            with pretended(): cells.append(host_times(n, moves))
        cells.append(host_times(n, False, make=torch.optim.Adam, fused=True))
        rows.append([what, *(f'{1e6*min(t):.0f}' for t in cells)])
    return table(['Adam, least us of 200 steps', 'stays', 'moves', 'torch fused'], rows, (1, 2, 3))


# -- The page --

text = """# Launches on a GPU

Where Triton is installed, genopt's default on a GPU writes a list of callbacks as Triton kernels. A pointwise algorithm is one launch for all
parameters, and one with norms is three. This page has figures of two kinds:

- **Measured** on the card that the next chapter names: all times in that chapter, and the columns *measured*, *over predicted* and *over a copy*
  of the table of [all algorithms](#all-algorithms).
- **Predicted** without a card: in that table, milliseconds under *predicted* are bytes over the bandwidth of a card's data sheet. Registers, spills
  and widths are what the offline compilers say. No figure of {untried}, of sm_80, sm_100 or gfx942 comes from a card.

`python -m benchmarks.gpu` writes this page from the code and from [gpu.json](gpu.json), which `{command}` writes on a card.

{chapter}
## All algorithms

Float32, compiled for sm_90 with Triton {triton}. Settings are those that are measured: the defaults, but SGD has momentum. Columns:

- **launches** of a step, however many tensors there are;
- **bytes** that these move for each element;
- **registers** of a thread, and bytes **spilt**, of the kernel that has most;
- **wide**: how many loads and stores of 128 bits the code for full tiles has;
- **f64**: instructions that compute in float64;
- **predicted** milliseconds of a step on GPT-2 small, {elements:,} elements, at {bandwidths}.
  Another model's are in proportion to its elements;
- **measured**: milliseconds of the same step on the card, the device's time;
- **over predicted**: these divided by what is predicted for that card;
- **over a copy**: these divided by the time of a copy of as many bytes as `explain()` counts for the step. A kernel for norms reads a tensor once
  more, so a step with norms moves more bytes than these.

Algorithms with callbacks that need a shape are not here: launches lie around these calls.

{algorithms}

## What has been tried, and what has not

On an H100 the gpu tests of the kernels have passed. They hold every pointwise and norm algorithm against the reference, in float64, float32 and
bfloat16, and compare the bits of two runs. They take steps on another stream, behind a host that runs ahead, with scalars and addresses that change
at every step. They capture steps in a CUDA graph, and replay it with new gradients and learning rates.

Without a card, the tests run the kernels in Triton's interpreter, compile them for sm_80, sm_90, sm_100 and gfx942, and launch them through Triton's
own launcher down to the driver, which they replace.

The kernels of the table of all algorithms are those that were measured: their source is the same, line by line. What the host does in a step has
changed since, and its times are not measured anew. No card has run these yet: bfloat16 weights in 24 bits, states in int8 and fp8 as they are now,
rounding at random by the number of the step, normal numbers in float64 as they are now, and steps of SOAP, Shampoo and Kron that are left out without
a wait.

Nobody has tried:

- **several GPUs** in one process: a launch is on the current stream of its tensors' device;
- **ROCm and XPU**, beyond compiling for gfx942. They have the same default.

With `capturable=True` one small kernel computes scalars and counters on the device, before the kernels of the step. A replayed graph reads anew the
hyper-parameters that are tensors, and repeats those that are plain numbers. With `nonfinite='skip'`, and under a GradScaler, that kernel runs too: a
flag on the device decides whether the step is left out.

A graph reads gradients where they lay when it recorded the step, and cannot see that they have moved: leave them there, with
`zero_grad(set_to_none=False)`, or record `backward` too. It reads and writes the tables, states and counters of that step. If a later step is
planned anew, because other parameters have gradients or a state was loaded, the optimizer keeps the tables for the graph, and warns that the graph
now counts for itself.

A group whose callbacks are others is a launch of its own. `weight_decay=0` leaves a callback out, so AdamW is two launches if some groups have it.

## Other GPUs

What the compilers say of each kernel of a step: registers, bytes spilt, accesses of 128 bits. Nothing here was measured.

{gpus}
"""

def written(results):
    "The text of the page"
    rows   = [row(n, results) for n in card.launched()]
    heads  = ['algorithm', 'launches', 'bytes', 'registers', 'spilt', 'wide', 'f64', *(f'predicted, {c}' for c in cards), 'measured',
              'over predicted', 'over a copy']
    device = results[0]['machine']['device']
    speeds = [f'{v/1e12:.2f} TB/s ({c})' for c,v in cards.items()]
    return text.format(
        untried=' or '.join(f'an {c}' for c in cards if c.split()[0] not in device), command=measured.command, chapter=measured.chapter(results),
        triton=version('triton'), elements=shapes['gpt2'].numel, bandwidths=measured.listed(speeds),
        algorithms=measured.table(heads, rows, range(1, len(heads))),
        gpus=measured.table(['algorithm', 'dtype', 'GPU', 'registers', 'spilt', 'wide'], [*by_target()]))

def run(
    host:bool=False,           # Measure what the host does in a step, with a driver that launches nothing, and write nothing
):
    "Write benchmarks/GPU.md, benchmarks/gpu.png and the rows of a GPU in README.md, from benchmarks/gpu.json and the kernels"
    if host:
        with one_thread(): return print(host_table())
    results = load(card.file)
    if not results:
        raise ValueError(f"there is no {card.file}; `{measured.command}` writes it on a machine with a GPU")
    save(results, card.file)                                                # a file that is written otherwise is longer, and has more digits
    results = load(card.file)
    page.write_text(written(results))
    readme.write_text(measured.with_rows(readme.read_text(), results))
    plot.on_gpu(results, card.file.with_suffix('.png'))
    print(f"page: {page}\npicture: {card.file.with_suffix('.png')}\nrows: {readme}")

def main(argv=None):
    "Run the command line `argv`. Returns the exit status"
    try:
        return call(run, 'python -m benchmarks.gpu', argv) or 0
    except (ValueError, OSError) as e:
        print(f"benchmarks.gpu: {e}", file=sys.stderr)
    return 2

if __name__=='__main__': sys.exit(main())
