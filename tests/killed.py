"""Training on real digits that saves at every step and is killed at random moments. A program of its own, so that the parent of all trainings
has never run two threads and can fork: `python killed.py FOLDER KILLS SEED` prints what happened as JSON."""

import json,os,random,shutil,signal,sys,time,traceback,warnings
from pathlib import Path
import torch
from torch import nn
import genopt
from genopt.tools.data import load_data

steps = 600

def made():
    "A model in which random numbers matter, its optimizer and scheduler"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(.3), nn.Linear(128, 10))
    opt   = genopt.AdamW(model.parameters(), lr=3e-3)
    return dict(model=model, opt=opt, sched=torch.optim.lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=steps), rng=torch.default_generator)

def train(path, x, y, say=lambda step: None):
    "Go on from `path`, to the end. The file must be there and sound if one was ever written: taking the previous is an error"
    warnings.simplefilter('error')
    objects,done = made(),0
    if path.exists() or genopt.checkpoint.beside(path, 'prev').exists(): done = genopt.load_checkpoint(path, **objects)['step']
    say(done)
    model,opt,sched = (objects[k] for k in ('model','opt','sched'))
    for step in range(done+1, steps+1):
        i = torch.randint(len(x), (32,))
        nn.functional.cross_entropy(model(x[i]), y[i]).backward()
        opt.step()
        sched.step()
        opt.zero_grad()
        genopt.save_checkpoint(path, **objects, step=step)

def forked(path, x, y):
    "The process id of a training, and where it says at which step it goes on"
    r,w = os.pipe()
    if pid := os.fork():
        os.close(w)
        return pid,r
    try: train(path, x, y, lambda step: os.write(w, b'%d' % step))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def ended(pid, delay):
    "Whether the training ended by itself; after `delay` seconds, if that is not None, it is killed"
    if delay is not None:
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)                                         # does nothing to one that is over
    _,status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status): return False
    if status: sys.exit('a training failed')
    return True

def seen(p): return (p.stat().st_ino, p.stat().st_mtime_ns) if p.exists() else None

def equal(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(equal, a, b))
    return a==b

def main(folder, kills, seed):
    torch.set_num_threads(1)
    folder,rand = Path(folder),random.Random(seed)
    (x,y),_ = load_data('digits')
    warm = made()
    for p in warm['model'].parameters(): p.grad = torch.zeros_like(p)        # no backward pass: its threads would not survive a fork
    warm['opt'].step()
    genopt.save_checkpoint(folder/'warm', **warm)
    genopt.load_checkpoint(folder/'warm', **warm)
    start = time.monotonic()
    pid,r = forked(folder/'straight', x, y)
    os.read(r, 99)
    ready = time.monotonic()-start
    assert ended(pid, None)
    took,straight = time.monotonic()-start,torch.load(folder/'straight', weights_only=True)
    res = dict(kills=0, runs=0, resumed=0, writing=0, torn=0, rotating=0, differ=0)
    while res['kills']<kills:
        run = folder/f"run{res['runs']}"
        run.mkdir()
        path,over,last = run/'last',False,0
        while not over:
            tmp,old = (genopt.checkpoint.beside(path, s) for s in ('tmp','prev.tmp'))
            before = seen(tmp),seen(old)
            pid,r = forked(path, x, y)
            over = ended(pid, rand.uniform(0, ready+2*took/kills) if res['kills']<kills else None)
            said = os.read(r, 99)
            os.close(r)
            if said:
                assert int(said)>=last, f'went on at step {int(said)}, after {last}'
                last = int(said)
                res['resumed']+= last>0
            if over: continue
            res['kills']+= 1
            if tmp.exists() and seen(tmp)!=before[0]:
                res['writing']+= 1
                try: genopt.checkpoint.verified(tmp).close()
                except Exception: res['torn']+= 1
            res['rotating']+= old.exists() and seen(old)!=before[1]
        res['runs']+= 1
        res['differ']+= not equal(torch.load(path, weights_only=True), straight)
        shutil.rmtree(run)
    print(json.dumps(res | dict(seconds=time.monotonic()-start, straight=took)))

if __name__=='__main__': main(sys.argv[1], *map(int, sys.argv[2:]))
