"""`python -m benchmarks.quality`: whether a model trains as well if its states and weights are stored in fewer bytes. AdamW trains three models under
each policy, with five seeds. For each seed all policies start from the same weights and see the same batches. quality.json here has every training;
the section `Quality` of docs/memory.md is made from it."""

import statistics,sys,time
from dataclasses import dataclass
from pathlib import Path
import torch
from torch.nn.functional import interpolate
import genopt
from genopt.tools.bench import one_thread,pick
from genopt.tools.cli import call
from genopt.tools.compare import Spec,Stored
from genopt.tools.compare.summary import paired
from genopt.tools.compare.tuned import Task,train
from genopt.tools.data import Transformer,classes,load_data
from .measured import table
from .results import load,save
from .sections import write_section

file  = Path(__file__).with_suffix('.json')
page  = file.parent.parent/'docs'/'memory.md'
seeds = range(1, 6)


# -- What is trained --

@dataclass
class Text(Task):
    "A transformer of a million parameters"
    def made(self): return Transformer(self.n_out, self.train[0].shape[1], width=128, depth=5)

def digits():
    "The small network of `genopt compare` on handwritten digits"
    return task(Task, *load_data('digits'), model='mlp', epochs=30, bs=64)

def text():
    "160 batches of 8 windows of 64 characters"
    (x,y),(x_test,y_test) = load_data('text')
    return task(Text, (x[:1280], y[:1280]), (x_test[:256], y_test[:256]), model='transformer', epochs=1, bs=8)

def images():
    "960 of the digits, enlarged from 8x8 to 32x32"
    (x,y),test = [(interpolate(x, (32,32), mode='bilinear'), y) for x,y in load_data('digits')]
    return task(Task, (x[:960], y[:960]), test, model='resnet18', epochs=2, bs=16)

def task(kind, train, test, **how):
    "Nothing is tuned, so the set to tune with is a few of the test set"
    return kind(train, tuple(o[:8] for o in test), test, n_out=classes([train, test]), schedule='cosine', dtype=torch.float32, **how)

tasks = dict(digits = (digits, 'AdamW(lr=0.003)'),
             text   = (text,   'AdamW(lr=0.001)'),
             images = (images, 'AdamW(lr=0.001)'))
names = dict(digits='digits, MLP', text='text, transformer', images='images, ResNet-18')

@dataclass(frozen=True)
class Policy:
    "How weights and states are stored, in words, and the policy that says so, as `genopt compare --store` takes it"
    weights: str
    states: str
    store: str = ''

full     = 'float32'
policies = {full:               Policy('float32',              'float32'),
            'bfloat16':         Policy('float32',              'bfloat16', 'bfloat16'),
            'int8':             Policy('float32',              'int8',     'int8'),
            'nearest':          Policy('bfloat16, nearest',    'float32',  'p: nearest'),
            'stochastic':       Policy('bfloat16, stochastic', 'float32',  'p: stochastic'),
            'kahan':            Policy('bfloat16, kahan',      'float32',  'p: kahan'),
            'master':           Policy('bfloat16, master',     'float32',  'p: master'),
            'exact_bits':       Policy('bfloat16, exact_bits', 'float32',  'p: exact_bits'),
            'extra_bits':       Policy('bfloat16, extra_bits', 'float32',  'p: extra_bits'),
            'extra_bits, int8': Policy('bfloat16, extra_bits', 'int8',     'p: extra_bits, *: int8')}

def spec(name, policy):
    "The optimizer for the task `name` under `policy`"
    alone = Spec(tasks[name][1])
    return Stored(alone, policies[policy].store) if policies[policy].store else alone


# -- Training --

def key(r): return r['task'],r['policy'],r['seed']

def measure(name, task, policy, seed):
    "One training: the mean loss of the last tenth of the steps, the loss on the test set, and the bytes of state"
    optimizer = spec(name, policy)
    explained = optimizer.ours(task.net(seed, optimizer.narrow)).explain()
    elements  = sum(p.numel() for p in task.net(seed).parameters())
    res = train(optimizer, None, 0, seed, task)
    return dict(task=name, policy=policy, seed=seed, optimizer=str(optimizer), parameters=elements, steps=task.steps, bs=task.bs,
                state=explained.state/elements, loss=res['train_loss'], test_loss=res['test_loss'], accuracy=res['accuracy'],
                seconds=res['seconds'], genopt=genopt.__version__, torch=torch.__version__)

def run(
    which:str=None,            # Some of digits, text, images; by default all
    seconds:int=None,          # Begin no training after this time; the same command goes on
    fresh:bool=False,          # Train again what the file has
    out:Path=file,             # File for all trainings
    show:bool=False,           # Train nothing, write the page's section from the file
):
    "Train three models under each policy of storage, and write the table"
    begun,results = time.perf_counter(),[] if fresh else load(out)
    done = {*map(key, results)}
    for name in () if show else pick(which, tasks):
        made = None
        for seed in seeds:
            for policy in policies:
                if (name,policy,seed) in done:
                    continue
                if seconds is not None and time.perf_counter()-begun>seconds:
                    return print(f'{len(results)} of {len(tasks)*len(policies)*len(seeds)} trainings are done')
                made = made or tasks[name][0]()
                with one_thread():
                    results.append(measure(name, made, policy, seed))
                save(results, out)
                print(f"{name} {policy} {seed}: {results[-1]['loss']} {results[-1]['seconds']} s", flush=True)
    print(section(results))
    if out==file:
        write_section(page, 'Quality', section(results))


# -- Showing --

kinds = dict(loss='training loss', test_loss='test loss')

def losses(results, name, policy, which):
    "The losses of the trainings of `policy`, in the order of the seeds; None for one that diverged"
    found = {r['seed']: r[which] for r in results if (r['task'], r['policy'])==(name, policy)}
    return [found[s] for s in seeds if s in found]

def excess(results, name, policy, which='loss'):
    "By how many standard deviations of float32's losses the mean loss of `policy` is above float32's"
    ours,theirs = (losses(results, name, p, which) for p in (policy, full))
    return (statistics.fmean(ours)-statistics.fmean(theirs))/statistics.stdev(theirs)

def fault(results, name, policy, which):
    "In words why the losses of `policy` are worse than float32's, or '' if they are not. None where a training of either lacks"
    xs = losses(results, name, policy, which)
    if len(xs)<len(seeds) or len(losses(results, name, full, which))<len(seeds):
        return None
    if None in xs:
        return f'diverged with {xs.count(None)} of {len(xs)} seeds'
    above = excess(results, name, policy, which)
    return f'{above:.1f} standard deviations higher, p = {p_value(results, name, policy, which):.2g}' if above>1 else ''

def p_value(results, name, policy, which):
    "Of a paired t-test: the losses of `policy` against float32's with the same seeds"
    found = {p: losses(results, name, p, which) for p in (policy, full)}
    return paired([(full, policy)], found)[full, policy]

def cell(results, name, policy, which):
    "Mean and standard deviation, with a star where they are worse than float32's"
    xs = losses(results, name, policy, which)
    if len(xs)<len(seeds):
        return 'not measured'
    shown = f'{statistics.fmean(xs):.4f} ± {statistics.stdev(xs):.4f}' if None not in xs else fault(results, name, policy, which)
    return shown + '*'*bool(fault(results, name, policy, which))

def losses_table(results, which):
    rows = [[p.weights, p.states, *(cell(results, name, policy, which) for name in tasks)] for policy,p in policies.items()]
    return table(['weights', 'states', *names.values()], rows)

def verdict(results):
    "In words: which policies are worse than float32"
    found = {(p, t, w): fault(results, t, p, w) for p in policies if p!=full for t in tasks for w in kinds}
    count = sum(o is not None for o in found.values())
    bad   = {k: o for k,o in found.items() if o}
    if not bad:
        return f'None of the {count} means is higher than that of float32 by more than one standard deviation.'
    told  = [f'- weights in {policies[p].weights}, states in {policies[p].states}, {names[t]}: {kinds[w]} {why}' for (p,t,w),why in bad.items()]
    first = f'{len(bad)} of {count} means are higher than that of float32 by more than one standard deviation. p is that of a paired t-test:'
    return '\n'.join([first, '', *told])

def line(r):
    "About a task, of which `r` is a training"
    return f"- {names[r['task']]}: {r['parameters']:,} parameters, {r['steps']} batches of {r['bs']}, `{r['optimizer'].partition(' as ')[0]}`"

def section(results):
    "The section of the page"
    about = [line(next(r for r in results if r['task']==name)) for name in tasks if any(r['task']==name for r in results)]
    return f"""
AdamW trains three models under each policy, with five seeds each. For each seed all policies start from the same weights and see the same batches.
Models compute in float32; gradients have the dtype of the weights. The rate rises over the first 5% of the steps and falls to zero along a cosine.
States of fewer than 4096 elements stay in float32, as always. For weights in bfloat16 `extra_bits` is the default;
`nearest` is how torch.optim rounds.

{chr(10).join(about)}

The training loss over the last tenth of the steps, mean ± standard deviation over the seeds. A star marks a mean that is more than one standard
deviation of float32's above that of float32. If a policy changed nothing but the noise, one mean in eleven would get a star.

{losses_table(results, 'loss')}

The loss on the test set after the last step:

{losses_table(results, 'test_loss')}

{verdict(results)}

`python -m benchmarks.quality` trains all of them, and writes this section and [quality.json](../benchmarks/quality.json), which has every training.
"""

def main(argv=None): return call(run, 'python -m benchmarks.quality', sys.argv[1:] if argv is None else argv)

if __name__=='__main__': sys.exit(main())
