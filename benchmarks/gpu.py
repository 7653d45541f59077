"""What can be said of a GPU's kernels without a GPU: `python -m benchmarks.gpu` writes `benchmarks/GPU.md`. It compiles the kernels of every
algorithm, and measures what the host does in a step, with a pretended driver of CUDA that launches nothing."""

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
from genopt.tools.bench import machine,one_thread

page  = Path(__file__).with_name('GPU.md')
cards = {'A100 80 GB': 2.04e12, 'H100 SXM': 3.35e12}                       # bytes a second, from their data sheets
sizes = {'ResNet-50': 25_557_032, 'GPT-2': 124_439_808}                    # elements


# -- Kernels --

def program(name, dtype=torch.float32):
    "The program of an algorithm at its default settings, as a GPU would run it; None if it is called around launches, or asks the model"
    p = torch.ones(6, 5, dtype=dtype).requires_grad_()
    chain,numbers,params = getattr(genopt, name)([p]).explain().chains[0]
    made = choose.program_on_gpu(chain, numbers, params[0])
    return made if made.one_call and not made.falls_back and not made.prefix and not made.why else None

def kernels(made, target):
    "The compiled kernels of a program, each with its bytes for each element"
    kernel = kernel_for(made)
    return [(c, kernel.bytes_of(c.call)) for stage in kernel.stages() for c in compile_for(kernel, target, stage)]

def row(name, made):
    "A row of the table of algorithms"
    found  = kernels(made, 'sm_90')
    n      = sum(b for _,b in found)
    times  = [f'{1e3*n*elements/speed:.2f}' for elements in sizes.values() for speed in cards.values()]
    widest = sum(c.accesses.get(128, 0) for c,_ in found)
    return [name, str(len(found)), str(n), str(max(c.registers for c,_ in found)), str(max(c.spills for c,_ in found)), str(widest),
            'none' if not any(c.doubles for c,_ in found) else 'some', *times]

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

def host_rows():
    "Rows of the table of host time"
    for what,n in {'ResNet-50, 161 tensors': 161, '1000 tensors': 1000}.items():
        cells = []
        for moves in (False, True):
            with pretended(): cells.append(host_times(n, moves))
        cells.append(host_times(n, False, make=torch.optim.Adam, fused=True))
        yield [what, *(f'{1e6*min(t):.0f}' for t in cells)]


# -- The page --

text = """# Launches on a GPU: what is known without one

**Nothing on this page was measured on a card.** The command `python -m benchmarks.gpu` has written it on a machine without one. Registers,
spills and widths are what the offline compilers say of the kernels that genopt generates. The times are predictions: bytes over the bandwidth
of the data sheet. A kernel that reads and writes each tensor once cannot be quicker; how near it comes is not known.

## What has been tried, and what has not

The tests run every pointwise and norm algorithm under Triton's interpreter, on CPU tensors, and compare it with the reference. They compile
kernels for sm_80, sm_90, sm_100 and gfx942. They launch through Triton's own launcher down to the driver, which they replace.

What this cannot show, and nobody has tried:

- **time** of any kernel, and the time of a launch in the driver;
- **races and the order of writes**: kernels hand values to later kernels through memory, and parts of one kernel are a barrier apart;
- **pinned copies** of scalars and addresses, for which the host does not wait. Each copy has pinned memory of its own from torch's allocator,
  which lends it to nobody else before the copy is done;
- **several streams**, and **several GPUs**: a launch is on the current stream of its tensors' device;
- **capture** in a CUDA graph: `capturable=True` runs as `foreach=True`;
- ROCm and XPU beyond compiling for gfx942.

`nonfinite='skip'` and `'raise'` look at all gradients in one launch, and wait for the device once a step. GradScaler unscales gradients in a
pass of its own, as for any optimizer that does not take part in its protocol.

So on a GPU only `fused=True` launches. The default stays `foreach=True` until the gpu tests have passed on a card.

## Algorithms

Float32, default settings, sm_90. Columns:

- **launches** of a step, however many tensors there are;
- **bytes** that these move for each element;
- **registers** of a thread, and bytes **spilt**, of the kernel that has most;
- **wide**: how many loads and stores of 128 bits the code for full tiles has;
- **f64**: instructions that compute in float64;
- predicted milliseconds at {bandwidths}.

Algorithms with callbacks that need a shape are not here: launches lie around these calls.

```
{algorithms}
```

## GPUs

Of each kernel of a step: registers, bytes spilt, accesses of 128 bits.

```
{gpus}
```

## Host time

Microseconds of a step of Adam on the host, the least of 200 steps, because the machine had other work too. The driver is left out: Triton binds
the arguments, and the launch itself does nothing. **stays**: gradients lie where they lay; **moves**: they lie elsewhere in each step. Beside it
torch's fused Adam, with its kernels on the CPU, for scale.
{machine}

```
{host}
```
"""

def main():
    names = [n for n in genopt.list_algorithms() if n not in ('SparseAdam',)]
    rows  = [row(n, made) for n in names if (made := tried(n))]
    heads = [f'{s} {c}' for s in sizes for c in cards]
    speeds = ', '.join(f'{v/1e12:.2f} TB/s ({c})' for c,v in cards.items())
    with one_thread(): host = [*host_rows()]
    about = ', '.join(f'{k} {v}' for k,v in machine('cpu').items() if k!='versions')
    page.write_text(text.format(
        bandwidths=speeds, machine=f'The machine: {about}.',
        algorithms=table(['algorithm', 'launches', 'bytes', 'registers', 'spilt', 'wide', 'f64', *heads], rows, range(1, 7+len(heads))),
        gpus=table(['algorithm', 'dtype', 'GPU', 'registers', 'spilt', 'wide'], [*by_target()]),
        host=table(['', 'stays', 'moves', 'torch fused'], host, (1, 2, 3))))
    print(f'page: {page}')

def tried(name):
    "`program`, or None for an algorithm that cannot be made so simply"
    try: return program(name)
    except (ValueError, RuntimeError, TypeError): return None

if __name__=='__main__': sys.exit(main())
