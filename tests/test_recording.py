"""From callbacks to a program, piece by piece: values, scalar programs, families, calls, stages, prefixes. None of them runs a program."""

import math
import pytest,torch
import genopt
from genopt import Init,Optimizer,count,scalar_tensor,zeros
from genopt.blocks import add_decayed_weights,average_grad,clip_grad_norm,momentum_step,sgd_step,sharpness_aware,step_stat
from genopt.contract.chain import Chain,chain_of,learned_of
from genopt.contract.stand_ins import shape_class
from genopt.lower.decide import lower,note_change
from genopt.lower.prefix import Prefix,prefix_of
from genopt.lower.program import Layout,Request
from genopt.lower.reasons import MustBeCalled,NotRecorded,Why
from genopt.lower.scalars import ScalarProgram,ScalarRecorder
from genopt.lower.values import CROSS,ELEMENTS,SINGLE,Value,aten,in_order,tree_leaves,tree_map
from helpers import difference

f32 = torch.float32
def layout(shape=(4,3), states=()): return Layout(shape, f32, f32, tuple((n, f32) for n in states), torch.device('cpu'))
def lowered(*cbs, shape=(4,3), backend='c', **numbers):
    chain = Chain(cbs)
    return lower(chain, layout(shape, [n for n,i in chain.state.items() if i!=count]), dict(lr=.1) | chain.hypers() | numbers, Request(backend))
def why(program): return str(program.why[0]) if program.why else ''
def written(program): return {n: v for s in program.stages if s.flat for n,v in s.flat.stores.items()}
def operations(program): return [v.packet for s in program.stages if s.flat for r in s.flat.rounds for v in (*r.singles, *r.elements, *r.reduced)]


# -- Values --

def test_values_come_behind_their_operands():
    a,b = Value('input', name='a'),Value('input', name='b')
    c   = Value(aten.add.Tensor, (a, b), name='c')
    d   = Value(aten.stack.default, ([c, a],), dict(dim=0), name='d')
    assert in_order([d])==[c.operands[0], b, c, d] and in_order([d, a, c])==[a, b, c, d]
    assert in_order([d], stop=lambda v: v is c)==[a, d] and in_order([a], stop=lambda v: v is a)==[]
    assert d.operands==[c, a] and repr(c)=='c = add(a, b)' and a.in_memory and not c.in_memory

def test_trees():
    tree = dict(a=[1, (2, 3)], b=4)
    assert [*tree_leaves(tree, 5)]==[1, 2, 3, 4, 5] and tree_map(tree, lambda x: -x)==dict(a=[-1, (-2, -3)], b=-4)

def test_the_shape_class_keeps_the_pattern(): assert shape_class((768, 50257, 3, 768))==(5, 6, 3, 5) and shape_class((4, 1))==(4, 1)

def normalized(grad, k=2.): return grad/grad.norm()*k

def test_the_example_of_values():
    "That of the module's docstring"
    first,second = lowered(normalized).stages[0].flat.rounds
    assert [*map(str, first.reduced)]==['v2 = linalg_vector_norm(grad)'] and not first.elements and first.reduced[0].kind==SINGLE
    assert [*map(str, second.elements)][:2]==['v3 = div(grad, v2)', 'v5 = mul(v3, x0)'] and {v.kind for v in second.elements}=={ELEMENTS}

def test_the_same_operation_twice_is_one(): assert operations(lowered(lambda grad: grad.abs()*grad.abs())).count(aten.abs)==1

def of_rank(grad): return grad*grad.ndim

@pytest.mark.parametrize('cb,runs_on,reason', [
    (lambda grad: grad*2,                                      'elements',                       ''),
    (lambda grad: grad.clone().to(torch.float32),              'elements',                       ''),
    (lambda grad: grad/grad.norm(),                            'each parameter',                 ''),
    (lambda grad: grad/grad.mean(),                            'each parameter',                 ''),
    (lambda grads: [g/torch.stack([g.norm() for g in grads]).norm() for g in grads], 'all parameters', ''),
    (lambda grad: grad - grad.sum(0),                          'tensors of one shape, stacked',  'calls sum, which is not elementwise'),
    (lambda grad: grad - grad.mean(-1, keepdim=True),          'tensors of one shape, stacked',  'calls mean, which is not elementwise'),
    (lambda grad: grad.cumsum(0),                              'tensors of one shape, stacked',  'calls cumsum, which is not elementwise'),
    (lambda grad: grad*grad.norm().reshape(1),                 'tensors of one shape, stacked',  'calls mul, which is not elementwise'),
    (lambda grad: grad*grad.shape[0],                          'tensors of one shape, stacked',  'asks for the shape of a tensor'),
    (lambda grad: grad*len(grad),                              'tensors of one shape, stacked',  'asks for the len of a tensor'),
    (lambda grad: torch.frexp(grad)[0],                        'tensors of one shape, stacked',  'calls frexp, which returns several tensors'),
    (lambda grad: grad*torch.ones(3),                          'tensors of one shape, stacked',  'uses a tensor of its own, of shape (3,)'),
    (lambda grad: torch.special.i0(grad),                      'tensors of one shape, stacked',  'calls i0, which genopt cannot compile'),
    (lambda grad, k=.5: torch.nn.functional.leaky_relu(grad, k), 'tensors of one shape, stacked', 'passes a hyper-parameter to an argument of a torch function that takes plain'),
    (lambda grad, k=.5: torch.ops.aten.rsub(grad, grad, alpha=k), 'tensors of one shape, stacked', 'passes a hyper-parameter to an argument of a torch function that takes plain'),
    (lambda grad: grad*torch.special.i0(grad.norm()),          'tensors of one shape, stacked',  'calls i0, which genopt cannot compile'),
    (lambda grad: grad*grad.norm().item(),                     'each tensor',                    'reads a value of a tensor on the host'),
    (lambda grad: grad + torch.randn_like(grad),               'elements',                       ''),
    (lambda grad: grad + torch.poisson(grad.abs()),            'each tensor',                    'draws random numbers with poisson; write it with rand_like'),
    (lambda grad: {},                                          'each tensor',                    'returns nothing, so it is called'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_becomes_of_a_callback(cb, runs_on, reason):
    program = lowered(cb)
    assert [*program.runs_on.values()]==[runs_on] and reason in why(program) and bool(why(program))==bool(reason)

@pytest.mark.parametrize('cb,name', [
    (lambda grad: grad@grad,                                   'matmul'),
    (lambda grad, p: torch.matmul(grad, p),                    'matmul'),
    (lambda grad: grad/torch.linalg.norm(grad, 2),             'linalg_norm'),
    (lambda grad: grad/torch.linalg.norm(grad, ord=torch.inf), 'linalg_norm'),
], ids=['@', 'matmul', 'largest singular value', 'largest row sum'])
def test_what_is_another_function_of_a_matrix(cb, name):
    "A row stands for a parameter. A product of rows is a number, and a product of matrices is not"
    assert f'calls {name}, which does something else with a matrix' in why(lowered(cb, shape=(4,4)))
    assert not why(lowered(lambda grad: grad/torch.linalg.norm(grad), shape=(4,4)))
    results = []
    for kw in ({}, dict(foreach=True), dict(foreach=False)):
        p = torch.eye(4, requires_grad=True)
        p.grad = torch.arange(16.).reshape(4, 4)
        Optimizer([p], [cb], lr=.1, **kw).step()
        results.append(p)
    for p in results[:2]: torch.testing.assert_close(p, results[2])

def test_the_rank_is_an_answer_and_the_program_is_for_the_shape():
    "One for each shape class; of the single number that a norm is the rank is 0"
    a,b,c = lowered(of_rank),lowered(of_rank, shape=(5,6)),lowered(of_rank)
    assert not a.why and a is c and a is not b
    assert lowered(normalized) is lowered(normalized, shape=(5,6))
    assert [v.args[1] for v in lowered(lambda grad: grad*grad.norm().ndim).stages[0].flat.rounds[0].elements if v.packet is aten.mul]==[0]


# -- In place --

def own(grad):
    x = grad*2
    x.add_(grad).mul_(3)
    return x
def whole(grad):
    x = grad*2
    x.copy_(grad)
    return x
def of_grad(grad): return grad.mul_(2)
def detached(grad):
    x = grad*2
    y = x.detach()
    x.add_(1)
    return y*3
def part(grad):
    x = grad*2
    x[:2].add_(1)
    return x
def with_out(grad):
    x = grad*2
    return torch.add(x, grad, out=x)

@pytest.mark.parametrize('cb,words', [(own, ''), (whole, ''), (of_grad, 'writes in place (mul_)'), (detached, ''), (part, 'calls slice, which is not elementwise'),
                                      (with_out, 'writes in place (add)')], ids=lambda x: getattr(x, '__name__', ''))
def test_what_a_callback_writes_in_place(cb, words):
    "Into a tensor that it has made it may, and the program has the same without"
    program = lowered(cb)
    assert words in why(program) and bool(words)==bool(program.why)
    assert not any(op.__name__.endswith('_') for op in operations(program))

def test_a_write_in_place_is_seen_by_what_comes_after():
    for cb in (own, detached): assert operations(lowered(cb))[:3]==[aten.mul, aten.add, aten.mul]
    program = lowered(own)
    assert str(written(program)['p'].args[1])==str(program.stages[0].flat.rounds[0].elements[2])


# -- Scalar programs --

def traced(**numbers):
    recorder = ScalarRecorder(f32, torch.device('cpu'))
    return recorder,*(recorder.read(n, v) for n,v in numbers.items())
def program_of(recorder, *scalars, counters=()): return ScalarProgram(recorder.lines, [x.name for x in scalars], counters, recorder.objects)

def test_arithmetic_on_numbers_is_lines():
    r,mom,step = traced(mom=.9, step=3)
    x = (1-mom**step)/-abs(mom)
    assert x.value==(1-.9**3)/-.9 and (1-mom**step).name==(1-mom**step).name            # the same once
    run = program_of(r, x, 1-mom)
    for mom,step in ((.9, 3), (.5, 7)): assert run(dict(mom=mom, step=step))==([(1-mom**step)/-abs(mom), 1-mom],{})
    assert len(r.lines)==len({*r.lines})==10

def test_a_decision_is_a_guard():
    r,k = traced(k=2.)
    chosen = k*3 if k>1 else k
    assert chosen.value==6. and program_of(r, chosen)(dict(k=5.))==([15.],{}) and program_of(r, chosen)(dict(k=.5)) is None
    lines = len(r.lines)
    bool(k>1)
    assert len(r.lines)==lines                                              # it stands already

@pytest.mark.parametrize('value,other', [(True, False), ('a', 'b'), (None, 1.), (False, 0.), (1., True)])
def test_a_flag_is_a_guard_and_a_number_is_none(value, other):
    r,k = traced(k=value)
    assert isinstance(value, float) or k is value
    run = ScalarProgram(r.lines, [], (), {})
    assert run(dict(k=value)) is not None and run(dict(k=other)) is None

def test_a_number_that_is_needed_itself_is_fixed():
    r,k = traced(k=3.)
    assert int(k)==3 and round(k, 1)==3. and [*range(k*1.0==3.)]==[0]
    run = program_of(r, k)
    assert run(dict(k=3.)) and run(dict(k=4.)) is None

def test_a_number_is_not_taken_through_float():
    r,k = traced(k=4.)
    with pytest.raises(NotRecorded, match='converts a hyper-parameter with float'): math.sqrt(k)
    with pytest.raises(NotRecorded, match='ZeroDivisionError'): k/0

def test_an_attempt_is_taken_back():
    r,k = traced(k=4.)
    before = [*r.lines]
    def fails():
        with r.attempt():
            bool(k+1>2)
            int(k)
            r.put('k', k*2)
            raise KeyError('at the end')
    with pytest.raises(KeyError, match='at the end'): fails()
    assert r.lines==before and r.read('k', 4.) is k
    bool(k+1>2)
    int(k)
    assert len(r.lines)==len(before)+4                                      # anew, with both guards
    with pytest.raises(MustBeCalled), r.attempt(may_guard=False): bool(k+1>3)
    with pytest.raises(MustBeCalled), r.attempt(may_guard=False): math.sqrt(k)

def test_where_by_a_number_is_a_line_or_a_guard():
    r,k = traced(k=4.)
    chosen = genopt.where(k>3, k*2, 1.)
    assert [program_of(r, chosen)(dict(k=v))[0] for v in (4., 2.)]==[[8.], [1.]]
    grad = torch.ones(3)
    assert genopt.where(k>3, grad, 2*grad) is grad and program_of(r, chosen)(dict(k=2.)) is None

def test_a_lerp_knows_its_nearer_end():
    def mixed(grad, p, k=.3): return grad.lerp(p, k)
    a,b = lowered(mixed),lowered(mixed, k=.7)
    assert [next(v.weight_below_half for v in x.stages[0].flat.rounds[0].elements if v.packet is aten.lerp) for x in (a, b)]==[True, False]
    assert a.holds(dict(lr=.1, k=.4)) and not a.holds(dict(lr=.1, k=.6))

def power(n=2., m=3.): return dict(q=n**m - 1)
def larger(n=2., m=3.): return dict(q=n if n>m else m)
def root(n=2., m=3.): return dict(q=math.sqrt(n)+m)
def tapped(seen): return lambda n=2.: seen.append(n) or dict(q=n)
def scaled(grad, q): return grad*q

@pytest.mark.parametrize('cb,called', [(power, False), (larger, True), (root, True), (tapped([]), True)], ids=['power', 'larger', 'root', 'tapped'])
def test_a_callback_without_tensors(cb, called):
    "Its arithmetic stands in the program; where it decides or needs the number itself, the program calls it. It is for all numbers either way"
    program = lowered(cb, scaled)
    assert ('callback0(ns)' in program.scalars.source)==called==(not program.scalars.steady) and program.runs_on[Chain([cb]).blocks[0]]=='host'
    for n in (2., 5.):
        numbers = {k: v for k,v in dict(n=n, m=3.).items() if k in Chain([cb]).hypers()}
        assert program.scalars(dict(numbers, lr=.1))[0][0]==cb(**numbers)['q']

def test_a_number_is_read_anew_where_a_callback_has_changed_it():
    "Also where a traced scalar of that name is there from before"
    def before(grad, q=1.): return dict(grad=grad*q)
    def changes(grad): return dict(grad=grad, q=5.)
    for changing,q in ((larger, 3.), (power, 7.), (changes, 5.)):
        program = lowered(before, changing, scaled)
        assert {1., q}<={*program.scalars(dict(q=1., n=2., m=3., lr=.1))[0]}

def test_counters_are_what_the_program_returns():
    program = lowered(step_stat, lambda grad, step: grad/step, step=4)
    assert program.scalars(dict(lr=.1, step=4))==([5, .1], dict(step=5))

def test_what_numbers_may_not_be():
    assert 'reads \'q\', which is a tuple, not a number' in why(lowered(lambda grad: dict(grad=grad, q=(1., 2.)), lambda grad, q: grad*q[0]))
    assert 'to be a tensor in every step' in why(lowered(lambda grad, s=zeros: dict(grad=grad, s=1.)))
    for made in (lambda n=2.: dict(q=torch.ones(3)*n), lambda n=2.: dict(q=torch.tensor(2.)*n)):
        assert 'returns a tensor but reads none' in why(lowered(made, scaled))
    numbers = dict(lr=.1, n=torch.tensor(2.))                               # on the device a single number is a tensor
    for made,falls_back in ((lambda n=2.: dict(q=torch.ones(3)*n), True), (lambda n=2.: dict(q=n*2), False)):
        program = lower(Chain([made, scaled]), layout((3,)), numbers, Request('foreach', capturable=True))
        assert program.falls_back==falls_back==('returns a tensor but reads none' in why(program))

def held_scale(scale): return lambda grad: grad*scale

def test_a_number_that_a_callback_holds_is_read_at_each_step():
    scale = torch.tensor(2.)
    program = lowered(held_scale(scale))
    for s in (2., 3.):
        scale.fill_(s)
        values,_ = program.scalars(dict(lr=.1))
        assert s in values and {*map(type, values)}=={float}


# -- States, and calls --

def own_shape(grad, means=Init(lambda p: p.new_zeros(p.shape[:1]))): return dict(update=grad, means=means*.9 + grad.mean(-1)*.1)
def alike(grad, avg=zeros, norm=scalar_tensor(0.)): return dict(update=grad, avg=avg+grad, norm=norm+grad.norm())

def test_kinds_of_states():
    "A number for each element, one for the parameter, or a shape of its own, which a call makes"
    flat = lowered(alike).stages[0].flat
    assert {*flat.names}=={'avg', 'grad', 'p'} and flat.single_names==('norm',) and flat.single_stores['norm'].kind==SINGLE
    program = lowered(own_shape)
    assert program.call_outs.keys()=={'means'} and written(program).keys()=={'p'} and 'not of the parameter' in why(program)
    assert lowered(alike) is lowered(alike, shape=(7,)) and lowered(own_shape) is not lowered(own_shape, shape=(7,6))

def test_what_lies_in_its_place_is_not_written():
    "Neither a state that nothing changes, nor the parameter; and no move is made where a callback has made it"
    assert written(lowered(lambda grad, avg=zeros: grad+avg)).keys()=={'p'}
    assert written(lowered(lambda p, avg=zeros: dict(new_p=p, avg=avg+p))).keys()=={'avg'}
    assert "ns['lr']" not in lowered(lambda p, grad: dict(new_p=p-grad)).scalars.source

def centered(grad): return dict(grad=grad - grad.mean(-1, keepdim=True))

def test_a_call_reads_and_gives():
    call, = lowered(centered, average_grad, momentum_step, mom=.9, dampening=True).stages[0].calls
    assert [v.name for v in call.reads.values()]==['grad'] and [v.name for v in call.gives.values()]==['grad@0'] and call.stacked and not call.may_fail
    assert str(call)=='grad = centered(grad)' and not call.old_values

def of_trace(grad): return dict(scale=grad.T.sum())
def by_scale(grad, scale): return grad*(scale+1.)

@pytest.mark.parametrize('between,last', [(lambda grad: dict(q=grad*2), lambda q: q - q.mean(-1, keepdim=True)), (power, lambda grad, q: grad*q*grad.shape[0])])
def test_a_call_reads_what_was_made_since_the_one_before(between, last):
    "Tensors and numbers: the small tensors follow the recording"
    program = lowered(centered, between, last)
    assert [len(s.calls) for s in program.stages if s.calls] in ([1, 1], [2]) and not program.falls_back

@pytest.mark.parametrize('cb,words', [
    ([lambda grad: dict(grad=grad*grad.shape[0], k=3.), lambda grad, k: grad*k], "asks for the shape of a tensor, and returns the number 'k'"),
    (lambda grad: grad.T,                                           "the move reads 'update', which has another shape or dtype than the parameter"),
    (lambda grad, s=Init(lambda p: torch.zeros((), dtype=torch.float64)): dict(update=grad, s=s+1), "'s' is a number in torch.float64"),
    (lambda grad, k=2.: grad*grad.shape[0]*(2. if k>1 else 1.),     'branches on a number, which capturable=True keeps'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_no_call_can_be(cb, words):
    chain   = Chain(cb if isinstance(cb, list) else [cb])
    numbers = dict(lr=.1) | {n: torch.tensor(v) for n,v in chain.hypers().items()}
    program = lower(chain, layout(), numbers, Request('foreach', capturable=bool(chain.hypers())))
    assert program.falls_back and words in why(program)

def test_a_number_that_nobody_reads_is_left_out():
    assert not lowered(lambda grad: dict(grad=grad*grad.shape[0], k=3.)).falls_back

def test_a_result_of_another_shape_needs_the_shape():
    assert "returns 'q' in another shape than the parameter's" in why(lowered(lambda grad: dict(grad=grad, q=grad.norm().reshape(1))))

def test_a_callback_that_keeps_account_is_not_run():
    "If a rehearsal has seen what it returns"
    seen = []
    def tap(grad):
        seen.append(1)
        return grad
    chain = chain_of([tap])
    learned_of(chain).results[chain.blocks[0], torch.Size((4,3))] = dict(update=torch.ones(4, 3))
    assert len(lower(chain, layout(), dict(lr=.1), Request('foreach')).stages[0].calls)==1 and not seen

def test_the_move_is_made_when_it_is_read():
    "An update that is returned afterwards has no part in it"
    def follows(new_p, ema=zeros): return dict(ema=ema+new_p)
    program = lowered(follows, lambda grad: dict(update=grad*3))
    assert [v.name for v in written(program)['p'].operands[:2]]==['p', 'grad']

def test_a_call_gives_a_single_number():
    "Which is no reduction of what the call has read"
    first,last = lowered(of_trace, by_scale).stages
    value = first.calls[0].gives['scale']
    assert value.kind==SINGLE and not value.reduces and last.flat.single_loads==('scale@0',) and not last.flat.reduces

def decomposed(grad): return torch.linalg.svd(grad, full_matrices=False)[0]*1.
def random_rows(grad): return grad*torch.rand(grad.shape[0], 1)
def another_each_time():
    n = 0
    def cb(grad):
        nonlocal n
        n += 1
        return grad.T.T*n
    return cb
def looked_at(grad): return grad if grad.sum()>0 else -grad

@pytest.mark.parametrize('cb,stacked,may_fail', [(centered, True, False), (decomposed, True, True), (random_rows, False, True), (looked_at, False, True),
                                                 (another_each_time(), False, True)])
def test_how_a_callback_is_called(cb, stacked, may_fail):
    "If it may fail, it is called for all parameters before anything is written"
    program = lowered(cb)
    call = next(c for s in program.stages for c in s.calls)
    assert (call.stacked, call.may_fail)==(stacked, may_fail) and program.holds_whole==may_fail

def new_callback():
    def at_times(grad, step):
        g = grad*grad.shape[0]
        return dict(grad=g) if step%2 else {}
    return at_times
def at_step(step, returns, *cbs):
    "The program for that step, where the callback that reads `step` was seen to return the names `returns`"
    chain = chain_of([step_stat, *cbs])
    for b in chain.blocks[1:]: learned_of(chain).saw(b, returns if 'step' in b.reads else ['grad'])
    return lower(chain, layout(), dict(lr=.1, step=step-1), Request('foreach'))

def test_a_call_that_leaves_names_out_keeps_their_old_values():
    "Those that it leaves out in this step; all of them once it has been seen to vary"
    def old(program):
        call, = program.stages[0].calls
        assert [v.name for v in call.gives.values()]==['grad@0']
        return [v.name for v in call.old_values.values()]
    at_times = new_callback()
    assert old(program := at_step(1, ['grad'], at_times))==[] and old(at_step(2, ['grad'], new_callback()))==['grad']
    note_change(program.chain, program.chain.blocks[1], [])
    assert old(at_step(1, ['grad'], at_times))==['grad']

def pushed(grad, p, step):
    g = grad*grad.shape[0]
    return dict(new_p=p-g) if step%2 else dict(update=g)
def either(grad, step):
    g = grad*grad.shape[0]
    return dict(update=g) if step%2 else dict(grad=g*2)
def kept_update(update, step):
    u = update*update.shape[0]
    return dict(update=u) if step%2 else {}
def kept_move(grad, p, step):
    q = p - grad*grad.shape[0]
    return dict(new_p=q) if step%2 else {}
def moved(new_p): return dict(new_p=new_p*1.)
def doubled(grad): return dict(grad=grad*2)

@pytest.mark.parametrize('step,returns,cbs,words', [
    (2, ['new_p', 'update'], (pushed,),                  "pushed returns 'new_p' in some steps only; return it in every step"),
    (2, ['update', 'grad'],  (either,),                  "either returns 'update' in some steps only; in the others the update is the gradient, which it changes"),
    (1, ['update', 'grad'],  (either,),                  "either returns 'update' in some steps only"),
    (2, ['update'],          (kept_update, doubled),     "in the others the update is the gradient, which doubled changes"),
    (2, ['update'],          (kept_update,),             ''),
    (2, ['new_p'],           (kept_move,),               "kept_move returns 'new_p' in some steps only"),
    (2, ['new_p'],           (moved, kept_move),         ''),
], ids=lambda x: x if isinstance(x, str) else '')
def test_a_name_that_follows_another_has_no_old_value(step, returns, cbs, words):
    "Where it is left out, the move follows the update, and the update the gradient, and these are yet to come"
    program = at_step(step, returns, *cbs)
    assert words in why(program) and program.falls_back==bool(words)
    if cbs==(kept_update,): assert [v.name for v in program.stages[0].calls[0].old_values.values()]==['grad']

def steps_of(cbs, way, shapes=((3,3), (3,3), (4,3))):
    rand = torch.Generator().manual_seed(0)
    ps   = [torch.randn(s, generator=rand, dtype=torch.float64).requires_grad_() for s in shapes]
    opt  = Optimizer(ps, [*cbs], lr=.1, **way)
    for _ in range(6):
        for p in ps: p.grad = torch.randn(p.shape, generator=rand, dtype=torch.float64)
        opt.step()
    states = {f'{i} {n}': s for i,p in enumerate(ps) for n,s in opt.state[p].items() if isinstance(s, torch.Tensor)}
    return {str(i): p.detach() for i,p in enumerate(ps)} | states

way = pytest.mark.parametrize('way', [dict(foreach=True), {}], ids=['foreach', 'launch'])

@way
@pytest.mark.parametrize('cb', [pushed, either])
def test_such_a_step_is_the_references(cb, way): assert difference(steps_of([step_stat, cb], way), steps_of([step_stat, cb], dict(foreach=False)))<1e-14

def stays(p, grad): return dict(new_p=p)

@way
def test_a_step_that_changes_nothing(way): assert difference(steps_of([stays], way), steps_of([stays], dict(foreach=False)))==0


# -- Families --

def by_norm(grads): return [g/torch.stack([h.norm() for h in grads]).norm() for g in grads]
def by_sum(grads): return [g/sum(h.norm() for h in grads) for g in grads]
def by_largest(grads):
    largest = grads[0].abs().max()
    for g in grads[1:]: largest = torch.maximum(largest, g.abs().max())
    return [g/largest for g in grads]
def lists(grads): return [g/torch.stack(torch._foreach_norm(grads)).norm() for g in grads]

@pytest.mark.parametrize('cb,how,arithmetic', [(by_norm, None, ['linalg_vector_norm']), (by_sum, torch.sum, []), (by_largest, torch.amax, []),
                                               (lists, None, ['linalg_vector_norm'])])
def test_what_is_a_cross_reduction(cb, how, arithmetic):
    program = lowered(cb)
    first,last = program.stages
    reduction, = first.cross_reductions
    assert reduction.kind==CROSS and reduction.args[0] in first.flat.leaves and [v.packet.__name__ for v in first.cross_arithmetic]==arithmetic
    assert reduction.kwargs['how'] is how if how else reduction.kwargs['how'](vector := torch.ones(3)) is vector
    assert program.crosses==((*first.cross_reductions, *first.cross_arithmetic)[-1],) and last.flat.stores.keys()=={'p'}

def test_equal_constants_are_alike(): assert not lowered(lambda grads: [g*torch.tensor(2.) for g in grads]).why

def first_alone(grads, avgs=zeros): return dict(grads=grads, avgs=[a+1. if i==0 else a for i,a in enumerate(avgs)])
def others_alone(grads, avgs=zeros): return dict(grads=grads, avgs=[a+1. if i else a for i,a in enumerate(avgs)])
def other_constants(grads): return [g*(i+1.) for i,g in enumerate(grads)]
def differences(grads): return [g/(grads[0].norm()-sum(h.norm() for h in grads[1:])) for g in grads]
def turned_around(grads): return [g*torch.stack([h.norm() for h in grads[::-1]]).norm() for g in grads]
def first_weighs_more(grads): return [g*(2*grads[0].norm() + sum(h.norm() for h in grads[1:])) for g in grads]
def other_terms(grads): return [g*torch.stack([grads[0].norm(), *(h.sum() for h in grads[1:])]).norm() for g in grads]
def other_results(grads, avgs=zeros):
    doubles = [g*2. for g in grads]
    updates = [d*3. for d in doubles]
    return dict(updates=updates, avgs=[doubles[0], *updates[1:]])
def by_the_first(grads): return [g/grads[0].norm() for g in grads]
def by_another(grads): return [g*torch.stack([(h/grads[0].norm()).norm() for h in grads]).norm() for g in grads]
def swapped(grads): return grads[::-1]
def with_scales(scales): return lambda grads: [g*s for g,s in zip(grads, scales)]
def counted(grads): return [g/len(grads) for g in grads]

@pytest.mark.parametrize('cb,words', [
    (first_alone,       'does not treat all parameters alike'),
    (others_alone,      'does not treat all parameters alike'),
    (other_constants,   'does not treat all parameters alike'),
    (by_the_first,      'does not treat all parameters alike'),
    (by_another,        'combines values of all parameters by stack in an unknown order'),
    (swapped,           "returns 'update' in another shape than the parameter's"),
    (differences,       'combines values of all parameters by sub'),
    (turned_around,     'combines values of all parameters by stack in an unknown order'),
    (other_terms,       'combines values of all parameters by stack in an unknown order'),
    (other_results,     'does not treat all parameters alike'),
    (with_scales((torch.tensor(2.), torch.tensor(3.))), 'does not treat all parameters alike'),
    (first_weighs_more, 'combines values of all parameters by add in an unknown order'),
    (counted,           'depends on the number of parameters'),
    (lambda grads: [g*torch.special.i0(g.norm()) for g in grads], 'calls i0, which genopt cannot compile'),
    (lambda grads: {},  'returns nothing'),
    (lambda grads, steps=count: dict(grads=grads, steps=[s+1 for s in steps]), "reads the numbers 'step' of all parameters as a list"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_is_not(cb, words):
    program = lowered(cb, **dict(step=0) if 'step' in Chain([cb]).state else {})
    assert program.falls_back and words in why(program)

@way
@pytest.mark.parametrize('cb', [first_alone, others_alone, other_constants, by_the_first, by_another])
def test_one_parameter_learns_otherwise(cb, way):
    "Also if it is only its state that differs"
    ours,loop = steps_of([cb], way),steps_of([cb], dict(foreach=False))
    assert all(torch.equal(ours[n], loop[n]) for n in loop)


# -- Stages --

def test_muons_stages():
    "As in the docstring of `program`"
    opt = genopt.Muon([p := torch.ones(6, 5, requires_grad=True)], ns_dtype='float32')
    p.grad = torch.ones(6, 5)
    opt.step()
    program = opt._plan.works[0].program
    first,last = program.stages
    assert [str(c.block) for c in first.calls]==['newton_schulz', 'scale_by_shape'] and not last.calls and last.flat.stores.keys()=={'p', 'grad_avg'}
    name, = first.flat.stores
    assert first.calls[0].reads['update'].name==name and first.calls[1].reads['update'] is first.calls[0].gives['update']
    assert 'update@1' in last.flat.loads and 'update@0' not in last.flat.loads and name not in last.flat.loads
    assert [*map(str, repr(program).splitlines())][0]=='stage 0' and program.holds_whole is False

def test_lambs_rounds():
    "As in the docstring of `stages`: elements end in two norms, their ratio is arithmetic on single numbers, and the last round writes"
    opt = genopt.LAMB([p := torch.ones(6, 5, requires_grad=True)])
    p.grad = torch.ones(6, 5)
    opt.step()
    flat = opt._plan.works[0].program.stages[0].flat
    first,last = flat.rounds
    assert [v.packet for v in first.reduced]==[aten.linalg_vector_norm]*2 and not first.singles and aten.div in [v.packet for v in last.singles]
    assert not last.reduced and {*flat.stores.values()} <= {*last.elements} and flat.reduces

def test_a_cross_reduction_behind_a_call():
    "The call is of all parameters before anything is written"
    program = lowered(centered, clip_grad_norm, average_grad, momentum_step, mom=.9, dampening=True, max_norm=1.)
    assert [(len(s.calls), len(s.cross_reductions)) for s in program.stages]==[(1, 0), (0, 1), (0, 0)] and program.holds_whole
    assert program.stages[0].flat is None and program.stages[1].flat.loads==('grad@0',)

def product(grad, p): return dict(q=grad*p)
def of_product(q): return dict(grad=q - q.mean(-1, keepdim=True))
def tripled(grad): return dict(grad=grad*3)
def of_both(grad, q): return dict(update=grad.T.T*q)
def both(update, q): return dict(update=update+q)

def test_scratch_memory_is_written_once():
    "What two calls and the last stage read is made by the first stage; the others find it there"
    first,second,last = lowered(product, of_product, tripled, of_both, both).stages
    (q,),(tripled_,) = first.flat.stores,second.flat.stores
    assert [c.reads.keys() for s in (first, second) for c in s.calls]==[{'q'}, {'grad','q'}] and second.calls[0].reads['q'].name==q
    assert second.flat.loads==('grad@0',) and {*last.flat.loads}=={'p', q, 'update@1'} and tripled_!=q

def looks_on(grad):
    if grad.sum()>1e9: raise ValueError
    return {}

@pytest.mark.parametrize('cb', [of_both, looks_on])
def test_a_call_waits_for_what_it_reads(cb):
    "Also one that gives nothing"
    program = lowered(product, of_product, tripled, centered, tripled, cb)
    assert [[str(c.block) for c in s.calls] for s in program.stages]==[['of_product'], ['centered'], [cb.__name__], []]

def test_dividing_by_a_scalar_takes_its_reciprocal():
    "Of elements alone: single numbers are few"
    def divided(grad, k=2., by=3., other=4.): return grad/k + grad*(k/grad.norm()) + grad*(grad.norm()/other) + 1/by
    program = lowered(divided)
    assert program.reciprocals==('x0',) and program.names_of_scalars()[-1]=='r_x0'


# -- Prefixes --

def given(grads, evaluate, params): return dict(grads=evaluate(params)[1], ratios=[g.abs() for g in grads], fresh=True, unread=3.)
def reads_them(grad, ratio, fresh): return grad*ratio if fresh else grad
def doubles_lr(lr, n=2.): return dict(rate=lr*n)

def cut(*cbs, late=None, request=Request('c'), shape=(4,3)):
    chain = Chain(cbs)
    return prefix_of(chain, layout(shape), dict(lr=.1) | chain.hypers(), request, late or {})

def test_a_chain_that_calls_nothing_has_none(): assert cut(average_grad, momentum_step) is None

def test_what_a_prefix_hands_on():
    "What the rest reads of what it changes: gradient, other tensors, numbers"
    prefix = cut(doubles_lr, given, reads_them)
    assert prefix.called==['given'] and prefix.handed==['grad', 'ratio', 'fresh'] and prefix.numbers==dict(fresh=True) and prefix.rest.extra==('ratio',)
    assert [b.name for b in prefix.rest.blocks]==['doubles_lr', 'reads_them'] and not prefix.chain.moves and prefix.rest.moves
    assert cut(doubles_lr, given, reads_them, shape=(7,)) is prefix

def test_the_program_is_of_the_rest():
    program = lowered(sharpness_aware, add_decayed_weights, sgd_step, wd=.1)
    assert program.prefix.called==['sharpness_aware'] and program.chain is program.prefix.rest and [b.name for b in program.whole.blocks][0]=='sharpness_aware'
    assert written(program).keys()=={'p'} and not program.why

def test_what_is_changed_late_is_found_and_handed_on():
    prefix = cut(sharpness_aware, reads_them)
    grad = torch.ones(3)
    assert prefix.late(dict(grad=grad, ratio=1., unread=1.), dict(grad=-grad, ratio=2., unread=2.))==dict(ratio=2.)
    again = cut(sharpness_aware, reads_them, late=dict(ratio=2.))
    assert again.handed==['grad', 'ratio'] and again.numbers==dict(ratio=2.)
    assert cut(sharpness_aware, reads_them, late=dict(ratio=grad)).rest.extra==('ratio',)

def with_rate(grad, rate): return grad*rate

def test_what_the_program_computes_itself_is_not_watched():
    "A callback that reads numbers alone runs in the prefix and in the program"
    chain = chain_of([doubles_lr, sharpness_aware, with_rate])
    learned_of(chain).saw(chain.blocks[0], ['rate'])
    prefix = prefix_of(chain, layout(), dict(lr=.1, n=2.) | chain.hypers(), Request('c'), {})
    assert 'rate' not in prefix.watched and prefix.late(dict(rate=1.), dict(rate=2.))=={}

def test_callbacks_over_all_are_called_on_request():
    assert cut(clip_grad_norm, sgd_step) is None and cut(clip_grad_norm, sgd_step, request=Request('c', call_globals=True)).called==['clip_grad_norm']

def keeps(grads, evaluate, avgs=zeros): return dict(grads=grads, avgs=avgs)
def changes_p(params, evaluate): return dict(params=params)
def smaller(grads, evaluate): return dict(ratios=[g[:1] for g in grads])
def tensor_rate(lr, loss): return dict(lr=lr*loss)
def fails(grads, evaluate): raise ValueError('never')
def changes_m(grads, evaluate): return dict(grads=grads, lr=1.)

@pytest.mark.parametrize('cbs,words', [
    ([keeps],                        "keeps asks the model for 'evaluate'; it keeps the state 'avg', so genopt calls all callbacks"),
    ([average_grad, sharpness_aware], "sharpness_aware asks the model for 'evaluate'; average_grad before it keeps the state 'grad_avg'"),
    ([changes_p],                    "it changes 'p'"),
    ([smaller, reads_them],          "it returns 'ratio' in another shape"),
    ([tensor_rate, sgd_step],        "tensor_rate asks the model for 'loss'; it returns 'lr' as a tensor"),
    ([doubles_lr, changes_m],        "it changes 'lr'"),
    ([fails],                        "it raises on small random tensors: ValueError: never"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_cannot_be_handed_on(cbs, words):
    why = cut(*cbs)
    assert isinstance(why, Why) and words in str(why) and lowered(*cbs).falls_back

def test_a_rate_is_no_tensor():
    "Also where the parameter is a single number, as it would be"
    assert "it returns 'lr' as a tensor" in str(cut(tensor_rate, sgd_step, shape=()))

def test_a_prefix_takes_no_random_numbers_of_the_users():
    def noisy(grads, evaluate): return dict(grads=[g+torch.randn_like(g) for g in grads])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert isinstance(cut(noisy, sgd_step), Prefix) and lowered(noisy, sgd_step) and lowered(lambda grad: grad*torch.rand(grad.shape)) \
           and torch.equal(before, torch.get_rng_state())


# -- What is decided --

def test_too_many_programs_are_one_for_each_parameter():
    def powers(grad, k=2): return grad**int(k)
    found = [lowered(powers, k=k) for k in range(20)]
    assert len({*map(id, found)})==17 and 'computes something else for each of 16 values of a hyper-parameter' in why(found[-1]) and found[3] is lowered(powers, k=3)

def keeps_constant(grad, constant_avg=zeros): return dict(constant_avg=constant_avg*.9 + grad, grad=constant_avg + grad)

def test_a_state_may_be_called_a_constant():
    "Its name is not what tells that a callback holds a number"
    assert not lowered(keeps_constant, clip_grad_norm, sgd_step, max_norm=1.).falls_back
