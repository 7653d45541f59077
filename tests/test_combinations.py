"""Blocks in lists that nobody has thought of: such a list is the same in all three ways, or is refused with a reason and nothing has moved."""

import random,re
import pytest,torch
from genopt import Optimizer,blocks
from genopt.contract.block import Block,given
from genopt.contract.chain import Chain
from genopt.optim.rehearsal import returned_by
from genopt.blocks import evaluations,matrices,moves,rates,stats,steps,transforms
from helpers import closure_of,difference

library = {n: Block(getattr(blocks, n)) for m in (stats,steps,transforms,moves,matrices,rates,evaluations) for n in m.__all__}
returned = {n: returned_by(b) for n,b in library.items()}                  # the names that each returns
chance  = {'hutchinson'}                                                    # it draws random numbers for all parameters, from torch's own generator
settled = dict(lr=.01, mom=.9, sqr_mom=.99, eps=1e-8, wd=.01, alpha=.5, beta=.9, trust_coeff=.01, precondition_frequency=2, max_iter=3, history_size=3,
               ns_dtype='float64')                                          # blocks' defaults differ, and bfloat16 is rounded otherwise when compiled


# -- Lists --

grad_side   = 'clip_grad_value clip_tensor_norm clip_grad_norm adaptive_grad_clip normalize_grad centralize orthograd grokfast l2_reg l1_reg sign_grad maximize'.split()
update_side = 'cautious grams_sign clip_update_rms fixed_update_rms scale_by_trust_ratio add_decayed_weights heavy_ball scale_by_param_rms newton_schulz'.split()
decays      = 'weight_decay fixed_decay cautious_weight_decay decay_to_start'.split()
after       = 'lookahead ema_weights fromage_rescale langevin_noise proximal_decay decay_after'.split()
cores       = ['sgd_step', 'average_grad momentum_step', 'average_grad nesterov_step', 'average_grad qhm_step', 'average_sqr_grad rms_prop_step',
               'average_grad average_sqr_grad step_stat debias adam_step', 'step_stat debiased_betas average_grad average_sqr_grad rms_prop_step',
               'average_grad average_belief step_stat debias adam_step',
               'average_grad average_sqr_grad max_sqr_grad step_stat debias adam_atan2_step', 'lion_step average_grad', 'sum_sqr_grad adagrad_step',
               'average_grad average_sqr_grad step_stat debias rectification_term radam_step', 'average_grad decayed_max_grad step_stat debias adamax_step',
               'step_stat growing_sqr_mom average_sqr_factors factored_step', 'average_sqr_norm average_grad momentum_step']

def recipe(seed):
    "As one would write it: what is done to the gradient, an algorithm, what is done to the update, decay, what is done behind the move"
    r = random.Random(seed)
    some = lambda names,n: r.sample(names, r.randint(0, n))
    return [*some(grad_side, 3), *r.choice(cores).split(), *some(update_side, 2), *some(decays, 1), *some(after, 1)]

def heap(seed):
    "Any blocks in any order, and before them, where there is one, what provides the names that they lack"
    r = random.Random(seed)
    res = r.sample([n for n in library if n not in chance], r.randint(1, 5))
    for _ in range(12):
        known = {*given, *settled}
        for b in map(library.get, res):
            lacks = [b.lists.get(x,x) for x in b.reads if b.lists.get(x,x) not in known|b.state.keys()|b.hypers.keys()]
            known |= b.state.keys()|returned[b.name]
            if lacks: break
        else: return res
        makers = [m for m,o in library.items() if lacks[0] in returned[o.name]|o.state.keys() and m not in [*res, *chance]]
        if not makers: return res
        res.insert(res.index(b.name), r.choice(makers))
    return res


# -- Ways --

def train(names, n_steps, shapes, **way):
    "Parameters after some steps by closure"
    g   = torch.Generator().manual_seed(0)
    ps  = [torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for s in shapes]
    cbs = [getattr(blocks, n) for n in names]
    opt = Optimizer(ps, cbs, **{k: v for k,v in settled.items() if k in Chain(cbs, [returned[n] for n in names]).asks}, **way)
    start = [p.detach().clone() for p in ps]
    torch.manual_seed(0)
    for _ in range(n_steps):
        try: opt.step(closure_of(ps, opt, graph=True))
        except (ValueError, TypeError, RuntimeError):
            if _==0: assert all(map(torch.equal, ps, start)), 'refused, and yet it moved'
            raise
    return {str(i): p.detach() for i,p in enumerate(ps)}

refusals = ValueError,TypeError,RuntimeError
def tried(*args, **way):
    "What a way comes to, or why it is refused"
    try: return train(*args, **way),None
    except refusals as e: return None,str(e)

def told(why, names):
    "Whether an error names one of the blocks, or in quotes what one of them keeps or reads"
    kept = {s for n in names for s in (*library[n].state, *library[n].reads)}
    return any(re.search(rf'\b{n}\b', why) for n in names) or any(f"'{s}'" in why for s in kept)

def ways_agree(names, shapes, *ways):
    "Whether the list is one that runs, to finite numbers, which are compared"
    loop,why = tried(names, 4, shapes, foreach=False)
    if why: assert told(why, names), (names, why)
    finite = not why and all(p.isfinite().all() for p in loop.values())
    for way in ways:
        res,reason = tried(names, 4, shapes, **way)
        flag = next((f for f in ('capturable','fused') if way.get(f)), None)
        if flag and reason and not why: assert f'{flag}=True is not possible' in reason and told(reason, names), (names, way, reason)
        else:
            assert bool(reason)==bool(why), (names, way, why, reason)
            if finite: assert difference(res, loop)<1e-9, (names, way)
    return finite

mixed,square = [(4,3), (3,), ()],[(4,3), (3,3)]

blocks_of_lists = pytest.mark.parametrize('block', [0, 1, *(pytest.param(b, marks=pytest.mark.slow) for b in range(2, 6))])

@blocks_of_lists
def test_recipes_run_alike(block):
    "As written by a person: all of them run, on matrices"
    for seed in range(block*10, block*10+10):
        assert ways_agree(recipe(seed), square, {}, dict(capturable=True)), recipe(seed)

@blocks_of_lists
def test_heaps_run_alike_or_are_refused(block):
    assert sum(ways_agree(heap(seed), mixed if seed%2 else square, {}, dict(capturable=True)) for seed in range(block*20, block*20+20)) > 2

@pytest.mark.slow
@pytest.mark.parametrize('seed', range(1000, 1025))
def test_recipes_run_alike_compiled(seed): assert ways_agree(recipe(seed), square, {}, dict(fused=True))

@pytest.mark.slow
@pytest.mark.parametrize('start', [1000, 1020])
def test_heaps_run_alike_compiled(start):
    "Some of them run, the others are refused alike"
    ran = [ways_agree(heap(seed), mixed if seed%2 else square, {}, dict(fused=True)) for seed in range(start, start+20)]
    assert sum(ran)>2

def test_what_is_refused_says_why():
    "The reasons, for a reader of this file"
    for names,words in ((['adam_step'], "adam_step reads 'grad_avg', which nothing before it provides: add average_grad"), (['average_grad', 'momentum_step', 'average_grad', 'weight_decay', 'heavy_ball', 'l2_reg'], "l2_reg returned 'grad', which nothing after it reads")):
        with pytest.raises(ValueError, match=words): Optimizer([torch.ones(2, requires_grad=True)], [getattr(blocks, n) for n in names], lr=.1)
