"""From C source to a function. The compiler is found as Python's own build tools find it. What it
makes is a library, a file that is kept:

    ~/.cache/genopt/3f0c...e1.so     the name is a digest of source, flags, compiler and processor

A library is code that this process will run. So the folder belongs to the user alone: its mode is
0700, and its owner is checked. A file comes into it whole or not at all. Where the folder cannot be
written, a private temporary one takes its place, for this process.

A library is linked against nothing. It finds `GOMP_parallel` in the process, which is torch's own
OpenMP. So there is one pool of threads, and `torch.set_num_threads` holds, whatever the compiler.
This was tried on Linux, with gcc and clang. Nothing was tried on macOS and Windows, and `available()` is false there."""

import atexit
import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

__all__ = ['NoCompiler', 'available', 'compilations', 'library', 'parallel_may']

compilations = []  # the chains whose code this process has compiled, in words
flags = (
    '-O3',
    '-march=native',
    '-ffp-contract=off',
    '-fno-math-errno',
    '-fno-trapping-math',
    '-fPIC',
    '-shared',
    '-nostdlib',
    '-Wl,--unresolved-symbols=ignore-all',
)
lock = threading.Lock()
forked = False  # libgomp does not survive a fork: a forked child runs without threads


class NoCompiler(RuntimeError):
    "There is no C compiler, or it failed"


def after_fork():
    global forked
    forked = True


os.register_at_fork(after_in_child=after_fork)


def parallel_may():
    "Whether code may run on several threads"
    return not forked


# -- The compiler --


def off():
    "Whether the user has turned compiling off"
    return os.environ.get('GENOPT_COMPILE', '1') == '0'


@functools.cache
def compiler_named(name):
    """The command of the compiler `name`; if that is empty, of the first that is found. None if
    there is none"""
    for command in [shlex.split(name)] if name else [['cc'], ['gcc'], ['clang']]:
        if path := shutil.which(command[0]):
            return (path, *command[1:])


def compiler():
    return compiler_named(os.environ.get('CC', ''))


def available():
    "Whether C can be compiled here: there is a compiler, and it compiles something small"
    return (
        not off()
        and sys.platform.startswith('linux')
        and compiler() is not None
        and works(compiler())
    )


@functools.cache
def works(command):
    try:
        return (
            library_of('void run(const void* a) { (void)a; }\n', None, command)
            is not None
        )
    except (NoCompiler, OSError):
        return False


def missing():
    "Why C cannot be compiled here, and what to do about it"
    if off():
        return "GENOPT_COMPILE=0 is set; unset it"
    if not sys.platform.startswith('linux'):
        return f"genopt compiles on Linux only, and this is {sys.platform}"
    return "genopt finds no C compiler: install gcc or clang, or name another in CC"


@functools.cache
def openmp():
    "The flags for OpenMP: vector loops, and threads where the process has libgomp"
    return '-fopenmp-simd', *(
        ['-DGOMP'] if hasattr(ctypes.CDLL(None), 'GOMP_parallel') else []
    )


@functools.cache
def machine(command):
    """What a library depends on beside its source: the compiler, which its file tells, and the
    processor, which its features tell"""
    info = os.stat(os.path.realpath(command[0]))
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    features = next(
        (line for line in lines if line.startswith(('flags', 'Features'))), ''
    )
    return repr(
        (
            command,
            info.st_size,
            info.st_mtime_ns,
            flags,
            openmp(),
            platform.machine(),
            features,
        )
    )


# -- The folder --


@functools.cache
def folder_named(name):
    "The folder `name` if it is the user's alone and can be written, else a private one"
    path = Path(name)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.lstat()
        mine = (
            stat.S_ISDIR(info.st_mode)
            and info.st_uid == os.geteuid()
            and not info.st_mode & 0o077
        )
        if mine and os.access(path, os.W_OK | os.X_OK):
            return path
    except OSError:
        pass
    return private()


@functools.cache
def private():
    "A folder that is removed when the process ends"
    path = Path(tempfile.mkdtemp(prefix='genopt-'))
    owner = os.getpid()
    atexit.register(
        lambda: (
            shutil.rmtree(path, ignore_errors=True) if os.getpid() == owner else None
        )
    )
    return path


def folder():
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(
        os.path.expanduser('~'), '.cache'
    )
    return folder_named(os.environ.get('GENOPT_CACHE') or os.path.join(home, 'genopt'))


# -- The library --

loaded = {}


def library(source, name=None):
    """The function `run` of `source`, compiled now or before. `name`: the chain whose code it is,
    if it is one's. Raises `NoCompiler`"""
    if not available():
        raise NoCompiler(missing())
    return library_of(source, name, compiler())


def library_of(source, name, command):
    key = hashlib.sha256((machine(command) + source).encode()).hexdigest()[:32]
    with lock:
        if key not in loaded:
            loaded[key] = load(key, command, source, name)
    return loaded[key]


def load(key, command, source, name):
    path = folder() / f'{key}.so'
    if not path.exists():
        build(path, command, source, name)
    run = ctypes.CDLL(str(path)).run
    run.argtypes, run.restype = [ctypes.c_void_p], None
    return run


def build(path, command, source, name):
    "Compile in a folder beside, then move the file: several processes may do so at once"
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        c, so = Path(work) / 'kernel.c', Path(work) / 'kernel.so'
        c.write_text(source)
        done = subprocess.run(
            [*command, *flags, *openmp(), '-o', str(so), str(c)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            what = f"{' '.join(command)} could not compile {name or 'a small program'}"
            raise NoCompiler(f"{what}: {done.stderr.strip()[:500]}")
        os.replace(so, path)
    if name:
        compilations.append(name)
