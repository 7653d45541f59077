"""Checkpoints that survive being killed, power failures and flipped bits:

    import torch,genopt

    model = torch.nn.Linear(10, 2)
    opt   = genopt.Adam(model.parameters(), lr=1e-3)
    sched = torch.optim.lr_scheduler.StepLR(opt, 30)
    parts = dict(model=model, opt=opt, sched=sched, rng=torch.default_generator)

    genopt.save_checkpoint('last.ckpt', **parts, step=100)
    step = genopt.load_checkpoint('last.ckpt', **parts)['step']

At every moment the old file or the new one is there under its name, complete; the one before it is `last.ckpt.prev`. Plain `torch.load` reads
both: `torch.load('last.ckpt')['model']` is the model's state dict."""

import copy,hashlib,io,os,re,reprlib,shutil,struct,warnings
from contextlib import suppress
from pathlib import Path
from torch import Tensor,nn
import torch

__all__ = ['save_checkpoint', 'load_checkpoint']

reserved = {'objects', 'map_location'}                          # in the file, `objects` lists the names of those that have a state


def save_checkpoint(path, **objects):
    """Write `objects` to the file `path`, so that a process killed at any moment leaves a complete one; what was there is kept as `<path>.prev`.

    Of an object with `state_dict` and `load_state_dict` (module, optimizer, scheduler), or with `get_state` and `set_state` (`torch.Generator`),
    the state is saved. Anything else is saved as it is: numbers, strings, tensors, and lists and dicts of them. What
    `torch.load(weights_only=True)` would not take is a `TypeError` before anything is written. An error while writing, such as a full disk,
    leaves both files as they were.

    There must be one writer only: in a distributed run, rank 0. Sharded state is a matter of `torch.distributed.checkpoint`."""
    path = Path(path).resolve()                                 # of a symbolic link, the file that it leads to is replaced
    if not path.parent.is_dir(): raise FileNotFoundError(f"save_checkpoint: path is {path}, but there is no folder {path.parent}; make it first")
    if not objects: raise TypeError("save_checkpoint: nothing to save; give objects by name: model=model, opt=opt, step=step")
    if bad := objects.keys()&reserved: raise TypeError(f"save_checkpoint: an object cannot be called {min(bad)!r}; give it another name")
    names  = [n for n,o in objects.items() if way(o)]
    states = {n: way(o)[0]() if n in names else o for n,o in objects.items()}
    for n,s in states.items(): check(n, objects[n], s)
    write(path, states | dict(objects=names))

def load_checkpoint(path, map_location='cpu', **objects):
    """Load what `save_checkpoint` wrote to `path` into `objects`, and return the rest, the plain values, as a dict.

    The file's checksum is verified first. If it is damaged or missing, a warning says why, and the one before it, `<path>.prev`, is loaded; if
    that is no better, `ValueError` is raised, or `FileNotFoundError` where there is neither. `objects` must be those whose states the file has,
    else `ValueError`, and so if one does not take its state: then all are as they were. For this their states are copied to main memory
    meanwhile; what a state dict does not hold, or adds to a scheduler, cannot be put back. `map_location`, as in `torch.load`, is where the plain
    values go; objects stay on their devices."""
    path,tried = Path(path).resolve(),[]
    for p in (path, beside(path, 'prev')):
        try: f = verified(p)
        except Exception as e: tried.append((e, f"{p}: {reason(e)}"))
        else: break
    else:
        kind = FileNotFoundError if all(isinstance(e, FileNotFoundError) for e,_ in tried) else ValueError
        raise kind(f"load_checkpoint: no checkpoint at path {path}, tried {'; '.join(t for _,t in tried)}; start anew, or give another path")
    with f: states = torch.load(f, map_location, weights_only=True)             # an error here is no damage: no memory, no such device
    if tried: warnings.warn(f"load_checkpoint: {tried[0][1]}; the previous is loaded, {p}", stacklevel=2)
    check_names(objects, states['objects'], p)
    fill(objects, states, p)
    return {n: s for n,s in states.items() if n not in states['objects'] and n!='objects'}


# -- What is saved --

def way(o):
    "How the state of `o` is read and written; None for a plain value"
    for read,put in ('state_dict','load_state_dict'),('get_state','set_state'):
        if callable(getattr(o, read, None)) and callable(getattr(o, put, None)): return getattr(o, read),getattr(o, put)

def mapped(v, f):
    "`v` with `f(t)` for each tensor `t` in it"
    if isinstance(v, Tensor): return f(v)
    if isinstance(v, dict):
        res = copy.copy(v)                                      # of the same kind, and with a module's `_metadata`
        for k,x in v.items(): res[k] = mapped(x, f)
        return res
    return type(v)([mapped(x, f) for x in v]) if type(v) in (list,tuple) else v

def check(name, o, state):
    "Raise `TypeError` if `state`, that of `o`, would not load. Tensors do not matter for that: an empty one stands for all of them"
    empty = torch.empty(0)
    try:
        torch.save(mapped(state, lambda t: empty if type(t) in (Tensor,nn.Parameter) else t), f := io.BytesIO())
        torch.load(io.BytesIO(f.getvalue()), weights_only=True)
    except Exception as e:
        raise TypeError(f"save_checkpoint: {name}={reprlib.repr(o)} holds what torch.load(weights_only=True) does not take: {reason(e)}; save "
                        "numbers, strings, tensors, and lists and dicts of them; numpy's as float(x), x.tolist() or torch.from_numpy(x)") from e

def reason(e):
    "Why, in one line: of torch's page about weights_only the sentence that matters"
    if isinstance(e, FileNotFoundError): return 'there is no such file'
    text = ' '.join(str(e).split())
    found = re.search(r'WeightsUnpickler error: (.+?)(?= Please|\.\s|$)', text)
    return f'{type(e).__name__}: {found[1] if found else text[:200]}'


# -- Files --

def beside(path, suffix): return path.with_name(f'{path.name}.{suffix}')

class Summed:
    "A file to write to, and the checksum of what was written"
    def __init__(self, f): self.f,self.sum = f,hashlib.sha256()
    def flush(self): self.f.flush()
    def write(self, b):
        self.sum.update(b)
        return self.f.write(b)

def seal(sum):
    """How a checkpoint ends: the length of a zip file's comment, which torch.save writes as 0, and as comment the checksum of what torch.save wrote.
    The zip's own CRC-32 would not do: they do not cover its directory, where one bit lets torch.load skip a tensor's data without a word"""
    comment = f'sha256 {sum.hexdigest()}'.encode()
    return struct.pack('<H', len(comment)) + comment

def write(path, content):
    """A kill between any two lines, and a power failure that loses any of the renames, leaves a complete file under `path`, or, at the first
    save, none. What else it leaves has a fixed name and goes with the next save"""
    new,old = beside(path, 'tmp'),beside(path, 'prev.tmp')
    try:
        with open(new, 'wb') as f:
            torch.save(content, out := Summed(f))
            f.seek(-2, os.SEEK_END)
            f.write(seal(out.sum))
            f.flush()
            os.fsync(f.fileno())
        if there := path.exists():
            old.unlink(missing_ok=True)
            try: os.link(path, old)
            except OSError: shutil.copyfile(path, old)          # a file system without links
        os.replace(new, path)
        if there: os.replace(old, beside(path, 'prev'))         # last: if the old file is damaged, the previous was all there was
    except BaseException:
        new.unlink(missing_ok=True)
        old.unlink(missing_ok=True)
        raise
    with suppress(OSError):                                     # not every system can open or sync a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try: os.fsync(folder)
        finally: os.close(folder)

def verified(p):
    "The file `p`, open, if it is as it was written"
    f = open(p, 'rb')
    try:
        sum  = hashlib.sha256()
        left = f.seek(0, os.SEEK_END) - len(seal(sum))
        f.seek(0)
        while left>0 and (b := f.read(min(left, 2**20))):
            sum.update(b)
            left -= len(b)
        sum.update(bytes(2))                                    # the comment's length, before there was one
        if f.read()!=seal(sum): raise ValueError('its checksum is wrong: it is damaged, cut off, or was not written by save_checkpoint')
        f.seek(0)
    except BaseException:
        f.close()
        raise
    return f


# -- Loading, all or nothing --

def check_names(objects, names, p):
    "Raise if `objects` are not those that have their states in the file `p`"
    if plain := [n for n,o in objects.items() if not way(o)]:
        raise TypeError(f"load_checkpoint: {plain[0]}={reprlib.repr(objects[plain[0]])} cannot take a state; leave it out: plain values are returned")
    more,missing = [n for n in objects if n not in names],[n for n in names if n not in objects]
    todo = [f"leave out {', '.join(more)}"]*bool(more) + [f"give {', '.join(missing)} too, or read single states with torch.load"]*bool(missing)
    if todo: raise ValueError(f"load_checkpoint: {p} has the states of {', '.join(names) or 'nothing'}, but objects are "
                              f"{', '.join(objects) or 'none'}; {'; '.join(todo)}")

def fill(objects, states, p):
    "Put `states`, of the file `p`, into `objects`; if one does not take its state, all are as they were"
    put   = lambda n, state: way(objects[n])[1](state.cpu() if isinstance(state, Tensor) else state)    # a generator's is read on the CPU only
    kept  = lambda t: t if t.is_meta or nn.parameter.is_lazy(t) else t.detach().to('cpu', copy=True)
    before,done = {n: mapped(way(o)[0](), kept) for n,o in objects.items()},[]
    for n,o in objects.items():
        done.append(n)
        try: put(n, states[n])
        except Exception as e:
            for d in reversed(done): put(d, before[d])
            raise ValueError(f"load_checkpoint: {n}, a {type(o).__name__}, does not take its state from {p}: {e}; all are as they were") from e
