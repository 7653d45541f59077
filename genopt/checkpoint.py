"""Checkpoints that survive a kill, a power failure and a flipped bit:

    import torch,genopt

    model = torch.nn.Linear(10, 2)
    opt   = genopt.Adam(model.parameters(), lr=1e-3)
    sched = torch.optim.lr_scheduler.StepLR(opt, 30)
    parts = dict(model=model, opt=opt, sched=sched, rng=torch.default_generator)

    genopt.save_checkpoint('last.ckpt', **parts, step=100)
    step = genopt.load_checkpoint('last.ckpt', **parts)['step']

At every moment `last.ckpt` is a complete file, the old one or the new one. `last.ckpt.prev` is the one before it. Plain `torch.load` reads both:
`torch.load('last.ckpt')['model']` is the model's state dict."""

import copy,hashlib,io,os,re,reprlib,shutil,struct,warnings
from contextlib import suppress
from pathlib import Path
from torch import Tensor,nn
import torch

__all__ = ['save_checkpoint', 'load_checkpoint']

reserved = {'objects', 'map_location'}                          # `objects` lists, in the file, the names of the objects with a state


def save_checkpoint(path: str|os.PathLike, **objects):
    """Write `objects` to the file `path`. A process that is killed at any moment leaves a complete file; the one before is kept as `<path>.prev`.

    An object with `state_dict` and `load_state_dict` (module, optimizer, scheduler), or with `get_state` and `set_state` (`torch.Generator`), is
    saved by its state. Any other value is saved as it is: a number, a string, a tensor, a list or a dict of them.

    Raises `TypeError`, before it writes, for a value that `torch.load(weights_only=True)` refuses, and `FileNotFoundError` for a missing folder. An
    error while it writes, such as a full disk, leaves both files as they were.

    Only one process may write: in a distributed run, rank 0. Use `torch.distributed.checkpoint` for sharded state."""
    path = Path(path).resolve()                                 # a symbolic link stays: its target is replaced
    if not path.parent.is_dir():
        raise FileNotFoundError(f"save_checkpoint: path is {path}, but the folder {path.parent} does not exist; make it first")
    if not objects:
        raise TypeError("save_checkpoint: nothing to save; give objects by name: model=model, opt=opt, step=step")
    if bad := objects.keys()&reserved:
        raise TypeError(f"save_checkpoint: an object cannot be called {min(bad)!r}; give it another name")
    states = {}
    names  = [n for n,o in objects.items() if accessors(o)]
    for n,o in objects.items():
        states[n] = read_state(o) if n in names else o
        check_loadable(n, o, states[n])
    write(path, states | dict(objects=names))

def load_checkpoint(path: str|os.PathLike, map_location='cpu', **objects) -> dict:
    """Load the file `path`, which `save_checkpoint` wrote, into `objects`. Returns the plain values in it as a dict. `map_location`, as in
    `torch.load`, says where their tensors go; objects stay on their devices.

    The file's checksum is verified first. If the file is damaged or missing, a warning says so and `<path>.prev` is loaded. Raises
    `FileNotFoundError` where neither exists, and `ValueError` where neither is sound, where `objects` are not those whose states the file has, or
    where an object refuses its state. After an error all objects are as they were: their states are copied to main memory meanwhile. What a
    state dict does not contain, or adds to a scheduler, cannot be put back."""
    path   = Path(path).resolve()
    errors = []
    for p in (path, beside(path, 'prev')):
        try:
            f = verified(p)
            break
        except Exception as e:
            errors.append((e, f"{p}: {reason(e)}"))
    else:
        kind = FileNotFoundError if all(isinstance(e, FileNotFoundError) for e,_ in errors) else ValueError
        tried = '; '.join(text for _,text in errors)
        raise kind(f"load_checkpoint: no checkpoint at path {path}, tried {tried}; start anew, or give another path")
    with f:
        states = torch.load(f, map_location, weights_only=True)             # an error here is no damage: too little memory, no such device
    for _,text in errors:
        warnings.warn(f"load_checkpoint: {text}; the previous is loaded, {p}", stacklevel=2)
    names = states.pop('objects')
    check_names(objects, names, p)
    restore(objects, states, p)
    return {n: v for n,v in states.items() if n not in names}


# -- States --

def accessors(o):
    "The methods that read and set the state of `o`; None for a plain value"
    for names in ('state_dict','load_state_dict'),('get_state','set_state'):
        methods = [getattr(o, n, None) for n in names]
        if all(map(callable, methods)):
            return methods

def read_state(o): return accessors(o)[0]()

def map_tensors(v, f):
    "`v` with `f(t)` in place of each tensor `t` in it"
    if isinstance(v, Tensor):
        return f(v)
    if isinstance(v, dict):
        res = copy.copy(v)                                      # keeps its type, and a module's `_metadata`
        for k,x in v.items():
            res[k] = map_tensors(x, f)
        return res
    return type(v)([map_tensors(x, f) for x in v]) if type(v) in (list,tuple) else v

def check_loadable(name, o, state):
    "Raise `TypeError` if torch would not load `state`, that of `o`. An empty tensor stands for every tensor: values do not matter here"
    empty = torch.empty(0)
    file  = io.BytesIO()
    try:
        torch.save(map_tensors(state, lambda t: empty if type(t) in (Tensor,nn.Parameter) else t), file)
        file.seek(0)
        torch.load(file, weights_only=True)
    except Exception as e:
        raise TypeError(f"save_checkpoint: {name}={reprlib.repr(o)} holds what torch.load(weights_only=True) does not take: {reason(e)}; save "
                        "numbers, strings, tensors, and lists and dicts of them; numpy's as float(x), x.tolist() or torch.from_numpy(x)") from e

def reason(e):
    "An error in one line. torch writes a page about weights_only: the sentence that names the type is enough"
    if isinstance(e, FileNotFoundError):
        return 'there is no such file'
    text  = ' '.join(str(e).split())
    found = re.search(r'WeightsUnpickler error: (.+?)(?= Please|\.\s|$)', text)
    return f'{type(e).__name__}: {found[1] if found else text[:200]}'


# -- Files --

def beside(path, suffix): return path.with_name(f'{path.name}.{suffix}')

class Summed:
    "A file to write to, and the checksum of what was written"
    def __init__(self, f):
        self.f   = f
        self.sum = hashlib.sha256()
    def flush(self): self.f.flush()
    def write(self, b):
        self.sum.update(b)
        return self.f.write(b)

def seal(sum):
    """The last bytes of a checkpoint: the length of the zip file's comment, which torch.save writes as 0, and the comment, which is the checksum of
    what torch.save wrote. A zip file's CRC-32 does not cover its directory, where one flipped bit makes torch.load skip a tensor in silence"""
    comment = f'sha256 {sum.hexdigest()}'.encode()
    return struct.pack('<H', len(comment)) + comment

def write(path, content):
    """Replace the file `path`. A kill between any two lines, or a power failure that loses any of the renames, leaves a complete file there, or none
    at the first save. A kill may also leave `.tmp` files, which the next save removes"""
    new,old = beside(path, 'tmp'),beside(path, 'prev.tmp')
    try:
        write_sealed(new, content)
        replaces = path.exists()
        if replaces:
            old.unlink(missing_ok=True)
            link(path, old)
        os.replace(new, path)
        if replaces:
            os.replace(old, beside(path, 'prev'))               # last: where `path` was damaged, the previous file was the only one
    except BaseException:
        new.unlink(missing_ok=True)
        old.unlink(missing_ok=True)
        raise
    with suppress(OSError):                                     # some systems cannot open or sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

def write_sealed(path, content):
    "Write `content` and the checksum to the disk"
    with open(path, 'wb') as f:
        out = Summed(f)
        torch.save(content, out)
        f.seek(-2, os.SEEK_END)
        f.write(seal(out.sum))
        f.flush()
        os.fsync(f.fileno())

def link(path, other):
    "Make `other` another name of the file `path`, or a copy on a file system without links"
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)

def verified(path):
    "The file `path`, open at its start. Raises `ValueError` where its checksum is wrong"
    f = open(path, 'rb')
    try:
        sum  = hashlib.sha256()
        left = f.seek(0, os.SEEK_END) - len(seal(sum))
        f.seek(0)
        while left>0 and (b := f.read(min(left, 2**20))):
            sum.update(b)
            left -= len(b)
        sum.update(bytes(2))                                    # the length of the comment, as torch.save wrote it
        if f.read()!=seal(sum):
            raise ValueError('its checksum is wrong: it is damaged, cut off, or was not written by save_checkpoint')
        f.seek(0)
    except BaseException:
        f.close()
        raise
    return f


# -- Loading, all or nothing --

def check_names(objects, names, path):
    "Raise if `objects` have other names than the states in the file `path`, which are `names`, or one of them cannot take a state"
    for n,o in objects.items():
        if not accessors(o):
            raise TypeError(f"load_checkpoint: {n}={reprlib.repr(o)} cannot take a state; leave it out: plain values are returned")
    extra   = [n for n in objects if n not in names]
    missing = [n for n in names if n not in objects]
    remedy  = []
    if extra:
        remedy.append(f"leave out {', '.join(extra)}")
    if missing:
        remedy.append(f"give {', '.join(missing)} too, or read single states with torch.load")
    if remedy:
        raise ValueError(f"load_checkpoint: {path} has the states of {', '.join(names) or 'nothing'}, but objects are "
                         f"{', '.join(objects) or 'none'}; {'; '.join(remedy)}")

def restore(objects, states, path):
    "Set the state of each of `objects`; if one refuses its state, set all to what they were"
    def saved(t): return t if t.is_meta or nn.parameter.is_lazy(t) else t.detach().to('cpu', copy=True)
    def put(n, state):
        if isinstance(state, Tensor):
            state = state.cpu()                                 # a generator reads its state on the CPU only
        accessors(objects[n])[1](state)
    before = {n: map_tensors(read_state(o), saved) for n,o in objects.items()}
    done   = []
    for n,o in objects.items():
        done.append(n)
        try:
            put(n, states[n])
        except Exception as e:
            for d in reversed(done):
                put(d, before[d])
            raise ValueError(f"load_checkpoint: {n}, a {type(o).__name__}, does not take its state from {path}: {e}. No object has changed") from e
