"""What Triton's compiler makes of kernels, on any machine: no GPU is needed to compile for one.

`compile_for` gives a `Compiled` for each kernel of a program: machine code, and what that tells:
registers, spills, the widths of accesses to memory. It tells nothing of time. `report` has this in
words, with the source."""

import functools
import os
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from . import triton_runtime as runtime
from .triton import arguments, header
from .triton_launch import kernel_for

__all__ = ['Compiled', 'compile_for', 'report', 'targets']

# Names of GPUs, as their makers write them
targets = {
    'sm_80': ('cuda', 80, 32),
    'sm_90': ('cuda', 90, 32),
    'sm_100': ('cuda', 100, 32),
    'gfx942': ('hip', 'gfx942', 64),
}


@dataclass(frozen=True)
class Compiled:
    """A kernel for one GPU. `call`: its `KernelCall`. `assembly`: PTX, or AMD's. `registers`, and
    bytes of `spills`, of a thread. `accesses`: how many loads and stores there are in the code, by
    their width in bits: wide ones for tiles that are full and aligned, narrow ones for the others
    and for tables. `doubles`: the instructions that compute in float64"""

    call: object
    assembly: str
    registers: int
    spills: int
    accesses: dict
    doubles: tuple

    def __str__(self):
        widths = ', '.join(f'{n} of {w} bits' for w, n in sorted(self.accesses.items()))
        spilt = f'{self.spills} bytes spilt' if self.spills else 'no spills'
        return f'{self.registers} registers, {spilt}; accesses to memory: {widths}'


def compile_for(kernel, target, stage=-1):
    """The kernels of `kernel`, a `TritonKernel`, compiled for the GPU `target`, one of `targets`.
    Raises `ValueError` for another, `RuntimeError` without Triton, or with an old one"""
    if target not in targets:
        known = ', '.join(targets)
        raise ValueError(f"kernel: unknown target {target!r}; choose from {known}")
    if runtime.installed() < runtime.oldest:
        raise RuntimeError(f"kernel: {runtime.missing()}")
    source, calls = kernel.source(stage)
    found = runtime.functions(source, [c.name for c in calls])
    single = kernel.names.d.single
    return [compiled(f, c, single, target) for f, c in zip(found, calls)]


programs = dict(
    tiles='a program for each tile of {block:,} elements',
    segments='a program for each segment, which is a run of tiles of one parameter',
    chunks='a program for {lanes:,} segments',
    lanes='a program for {lanes:,} parameters',
    one='one program',
)


def report(program, target):
    "The kernels of `program` on the GPU `target`: source that can be run, and comments on it"
    kernel, lines = kernel_for(program), []
    sizes = vars(runtime.compiled_sizes)
    n_launches = total = 0
    for stage in kernel.stages():
        for c in compile_for(kernel, target, stage):
            n, call = kernel.bytes_of(c.call), c.call
            n_launches, total = n_launches + 1, total + n
            told = f'# {call.name}: {programs[call.grid].format(**sizes)}'
            if n:
                reads, writes = (
                    ', '.join(x) or 'nothing' for x in (call.reads, call.writes)
                )
                told += f'; reads {reads}; writes {writes}: {n} bytes for each element'
            lines += [told, f'#     {c}']
        lines += ['', kernel.source(stage)[0].strip(), '']
    number = 'one launch' if n_launches == 1 else f'{n_launches} launches'
    calls = (
        f', around {", ".join(w.callback for w in program.why)}' if program.why else ''
    )
    first = f'# {program.chain} on {target}: {number} a step{calls}, {total} bytes for each element'
    return '\n'.join([first, '', header, *lines])


def compiled(function, call, single, target):
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    number = 'fp32' if single else 'fp64'
    signature = {a: arguments[a].replace('T', number) for a in call.takes}
    sizes = dict(BLOCK=runtime.compiled_sizes.block, LANES=runtime.compiled_sizes.lanes)
    constants = {a: sizes[a] for a in call.takes if a in sizes}
    # torch's memory begins at multiples of 16; the launcher tells the compiler
    attrs = {
        (i,): [['tt.divisibility', 16]]
        for i, a in enumerate(call.takes)
        if arguments[a].startswith('*')
    }
    source = ASTSource(function, signature=signature, constexprs=constants, attrs=attrs)
    made = triton.compile(
        source, target=GPUTarget(*targets[target]), options=runtime.options
    )
    read = read_ptx if 'ptx' in made.asm else read_amd
    return Compiled(call, *read(made, target))


# -- CUDA --


def read_ptx(made, target):
    ptx = made.asm['ptx']
    accesses = Counter()
    for kind in re.findall(r'(?:ld|st)\.global((?:\.[\w:]+)*)', ptx):
        vector, bits = re.search(r'\.v(\d)', kind), re.search(r'\.[bfsu](\d+)', kind)
        accesses[int(bits[1]) * int(vector[1] if vector else 1)] += 1
    doubles = re.findall(r'\b\w+(?:\.\w+)*\.f64\b', ptx)
    registers, spills = resources(made.asm['cubin'])
    return ptx, registers, spills, dict(accesses), tuple(sorted({*doubles}))


def resources(cubin):
    "Registers and bytes of spills of a thread, as `cuobjdump` reads them in machine code"
    with tempfile.NamedTemporaryFile(suffix='.cubin') as f:
        f.write(cubin)
        f.flush()
        command = [tool('cuobjdump'), '--dump-resource-usage', f.name]
        told = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', told).groups()
    return int(registers), int(stack)


@functools.cache
def tool(name):
    import triton

    folder = os.path.dirname(triton.__file__)
    return os.path.join(folder, 'backends', 'nvidia', 'bin', name)


# -- ROCm --


def read_amd(made, target):
    code = made.asm['amdgcn']
    accesses = Counter()
    for width in re.findall(r'\b(?:global|buffer|flat)_(?:load|store)_(\w+)', code):
        accesses[bits_of(width)] += 1
    number = lambda name: int(re.search(rf'\.{name}:\s+(\d+)', code)[1])
    doubles = re.findall(r'\bv_\w+_f64\w*', code)
    return (
        code,
        number('vgpr_count'),
        number('private_segment_fixed_size'),
        dict(accesses),
        tuple(sorted({*doubles})),
    )


def bits_of(width):
    "Of `dwordx4` 128"
    if found := re.match(r'dwordx(\d)', width):
        return 32 * int(found[1])
    return 32 if width.startswith('dword') else 16 if 'short' in width else 8
