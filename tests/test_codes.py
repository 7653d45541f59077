"States in codes: those that come with genopt, those that a user writes, and each backend that reads and writes them"

import copy,io,os,shutil,subprocess
from functools import partial
import pytest,torch
import genopt
from genopt import AdamW,Code,Optimizer,kept,zeros
from genopt.contract.codes import codes
from genopt.run import compiler,emit,launch,triton_runtime
import test_distributed
from helpers import catalogue,difference,gpu
from test_storage import train
from test_triton import on_triton                                            # noqa: F401 -- a fixture

pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning')            # Triton's interpreter computes lanes that are not in use
int8 = codes['int8']
encode,decode,block,n_blocks = int8.stored,int8.seen,int8.block,int8.n_blocks
nearest = dict(dtype='int8', rounding='nearest', smallest=0)
random  = dict(dtype='int8', smallest=0)

# Codes as users write them: for kernels, for lists alone, of other sizes
linear    = Code('linear', lambda x: x.abs().amax(-1), lambda x,scale: x/scale*127, lambda code,scale: code/127*scale, dtype=torch.int8)
steps     = torch.linspace(-1, 1, 255)
of_tables = Code('of_tables', lambda x: x.abs().amax(-1), lambda x,scale: torch.bucketize(x/scale, (steps[1:]+steps[:-1])/2).to(x.dtype),
                 lambda code,scale: steps[code.long().clamp(max=254)]*scale)
coarse    = Code('coarse', lambda x: x.square().mean(-1).sqrt()*8, lambda x,scale: x.sign()*(x.abs()/scale)**.5*15, lambda code,scale: code*code.abs()/225*scale,
                 dtype=torch.int8, block=64)
wide      = Code('wide', lambda x: x.abs().mean(-1) + (x-x.mean(-1, keepdim=True)).abs().amax(-1), lambda x,scale: (x/scale+1)*127.5,
                 lambda code,scale: torch.where(scale>0, (code/127.5-1)*scale, 0.*scale), block=1024)
in_turn   = Code('in_turn', lambda x: x.abs().amax(-1) + (x-x.amax(-1, keepdim=True)).amin(-1).abs(), linear.encode, linear.decode, dtype=torch.int8)   # two loops

kinds = dict(launch={}, triton={}, foreach=dict(foreach=True), reference=dict(foreach=False))
@pytest.fixture(params=kinds)
def way(request):
    "Arguments that make an optimizer run in each way"
    if request.param=='triton': request.getfixturevalue('on_triton')
    return kinds[request.param]
@pytest.fixture(params=['launch','foreach','reference'])
def quick_way(request): return kinds[request.param]

def ran_by(opt): return {w.program.request.backend for w in opt._plan.works}
def coded(opt): return {n for s in opt.state.values() for n,v in s.items() if torch.is_tensor(v) and v.dtype==torch.uint8}
def draw(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# -- The code --

inf,nan = float('inf'),float('nan')
written = [
    ([1., .5, 0.],           [255, 223, 0],    1.),
    ([-1., .5, 0.],          [1, 223, 128],    -1.),
    ([-.25, 1.],             [64, 255],        -1.),
    ([4.e-12, 1.],           [1, 255],         1.),                          # a positive element does not become zero
    ([-4.e-12, -1.],         [128, 1],         -1.),
    ([0., -0.],              [0, 0],           0.),
    ([3.e38, 1.e30],         [255, 2],         3.e38),
    ([1.e-38, 1.e-39],       [1, 1],           0.),                          # below the normal float32 all is zero
]
@pytest.mark.parametrize('x,codes,scale', written, ids=str)
def test_what_is_written(x, codes, scale):
    got = encode(torch.tensor(x))
    assert got[0].tolist()==codes and got[1].tolist()==torch.tensor([scale]).tolist()

@pytest.mark.parametrize('sign', [1, -1])
def test_each_code_stands_for_itself(sign):
    "So what is loaded and saved again stays as it is"
    first = 0 if sign>0 else 1
    codes,scale = torch.arange(first, 256).to(torch.uint8),torch.tensor([sign*.3])
    for again in (encode(decode(codes, scale)), encode(decode(codes, scale), stochastic=True)): assert (again[0].int()-codes.int()).abs().max()<=0
    assert torch.equal(again[1], scale)

@pytest.mark.parametrize('bad', [nan, inf, -inf])
def test_what_is_not_finite_makes_its_block_nan(bad):
    x = draw(3*block)
    x[300] = bad
    for stochastic in (False, True):
        y = decode(*encode(x, stochastic=stochastic))
        assert y[256:512].isnan().all() and not y[:256].isnan().any() and not y[512:].isnan().any()

@pytest.mark.parametrize('shape', [(0,), (1,), (255,), (256,), (257,), (3, 5, 7, 11)], ids=str)
def test_shapes(shape):
    x = draw(*shape)
    codes,scale = encode(x)
    assert codes.shape==x.shape and scale.shape==(n_blocks(x),) and decode(codes, scale).shape==x.shape
    torch.testing.assert_close(decode(codes, scale), x, rtol=.05, atol=.002)

def test_blocks_follow_memory():
    "A tensor in another order of memory has the blocks of that order"
    x = draw(8, 6, 5, 4)
    y = x.to(memory_format=torch.channels_last)
    codes,scale = encode(y)
    flat = y.permute(0, 2, 3, 1).flatten()
    assert codes.stride()==y.stride() and torch.equal(codes.permute(0, 2, 3, 1).flatten(), encode(flat)[0]) and torch.equal(scale, encode(flat)[1])
    assert torch.equal(decode(codes, scale), decode(codes.contiguous(memory_format=torch.channels_last), scale))
    assert encode(x, like=y)[0].stride()==y.stride() and torch.equal(encode(x, like=y)[0], codes)

@pytest.mark.parametrize('x', [.77, -.6, 1e-3, 1e-5, -1e-3], ids=str)
def test_the_mean_of_what_is_rounded_at_random_is_what_was(x):
    torch.manual_seed(0)
    xs = torch.full((400, block), x)
    xs[:,0] = 1.
    xs[:,1] = -1. if x<0 else 0.
    got = decode(*encode(xs, stochastic=True))[:,2:]
    low,top = got.min().item(),got.max().item()
    assert len(got.unique())==2 and low<x<top and abs(got.double().mean().item()-x)<(top-low)*.01

def dynamic_map(signed):
    "The dynamic map of Dettmers et al. 2021: powers of 10, and a linear fraction of as many bits as are left"
    values = [0., 1.]
    for i in range(7):
        edges = torch.linspace(.1, 1, 2**(i+(not signed))+1, dtype=torch.float64)
        means = (edges[:-1]+edges[1:])/2*10.**(i-6)
        values += [*means, *(-means if signed else ())]
    return torch.tensor(sorted(values))

def by_map(x, values):
    x = x.double().view(-1, block)
    scale = x.abs().amax(1, keepdim=True)
    i = torch.searchsorted(values, x/scale).clamp(1, 255)
    low,top = values[i-1],values[i]
    return (torch.where(x/scale-low < top-x/scale, low, top)*scale).flatten()

draws = dict(normal=torch.randn, heavy=lambda n: torch.distributions.StudentT(2.).sample((n,)))
@pytest.mark.parametrize('kind', draws)
@pytest.mark.parametrize('signed', [True, False], ids=['average','squares'])
def test_errors_beside_the_dynamic_map(kind, signed):
    "Of the root mean square for averages; for squares of what is divided by, their root"
    torch.manual_seed(0)
    x = draws[kind](2**16)
    assert len(dynamic_map(signed))==256
    if signed: error = lambda y: (y-x).square().mean().sqrt()
    else:
        x = x.square()
        error = lambda y: ((y.sqrt()-x.sqrt()).abs()/x.sqrt()).mean()
    ours,theirs = error(decode(*encode(x)).double()),error(by_map(x, dynamic_map(signed)))
    assert ours<.8*theirs


# -- Codes that users write --

refused = [
    (dict(name='8 bits'),                                      "name must be an identifier"),
    (dict(encode=3),                                           "encode must be a function, got 3"),
    (dict(dtype=torch.int16),                                  "dtype must be torch.uint8 or torch.int8, got torch.int16"),
    (dict(block=100),                                          "block must be a power of 2 from 16 to 1024, got 100"),
    (dict(error=2.),                                           "error must be between 0 and 1"),
    (dict(scale=lambda x: x.abs().amax()),                     r"scale must give one number for each block, of shape \(8,\) .* it gave \(\)"),
    (dict(scale=lambda x: 1.),                                 "scale must return a tensor, got 1.0"),
    (dict(scale=lambda x: x.abs().amax(-1).log()),             "scale gives -inf for a block of finite elements"),
    (dict(scale=lambda x: x.nan_to_num().abs().amax(-1)),      "a block with a NaN comes back as numbers"),
    (dict(scale=lambda x: x.mul_(2.).abs().amax(-1)),          "scale writes into its arguments"),
    (dict(encode=lambda x,scale: x/scale*300),                 "encode gives -186.062, where int8 holds -128 ... 127"),
    (dict(encode=lambda x,scale: -x/scale*127),                "encode gives a larger element a smaller code"),
    (dict(encode=lambda x,scale: (x/scale*127).to(torch.int8)), "encode must give a float32 tensor of shape .* it gave int8"),
    (dict(encode=lambda x,scale: x/x.abs().amax(-1, keepdim=True)*127), "encode gives an element another code if other elements of its block change"),
    (dict(encode=lambda x,scale: x @ scale),                   "encode fails on tensors of shape"),
    (dict(decode=lambda code,scale: code*scale),               "comes back as 433.134, off by 126 of the largest element in its block; error allows 0.1"),
    (dict(decode=lambda code,scale: code/127*scale + 1e-9),    "a block of zeros comes back as 1e-09"),
]
@pytest.mark.parametrize('change,words', refused, ids=lambda x: [*x][0] if isinstance(x, dict) else '')
def test_functions_that_are_refused(change, words):
    fine = dict(name='linear', scale=linear.scale, encode=linear.encode, decode=linear.decode, dtype=torch.int8)
    Code(**fine)
    with pytest.raises((ValueError,TypeError), match=words): Code(**fine|change)

def test_trying_a_code_draws_no_number():
    before = torch.get_rng_state()
    Code('again', linear.scale, linear.encode, linear.decode, dtype=torch.int8)
    assert torch.equal(before, torch.get_rng_state())

@pytest.mark.parametrize('kw,words', [
    (dict(dtype=of_tables, rounding='stochastic'), "not for of_tables; the encode of this code returns whole numbers"),
    (dict(dtype=Code('int8', linear.scale, linear.encode, linear.decode, dtype=torch.int8)), "genopt has another code called 'int8'; give yours a name of its own"),
    (dict(dtype='int4'), "dtype='int4' is unknown; choose from float32, bfloat16, float16, int8, fp8, or give a genopt.Code"),
], ids=range(3))
def test_policies_that_are_refused(kw, words):
    with pytest.raises(ValueError, match=words): kept(zeros, **kw)
    with pytest.raises(ValueError, match=words): AdamW([torch.ones(3, requires_grad=True)], store={'sqr_avg': kw})

def test_two_codes_of_one_name_are_refused():
    other = Code('linear', linear.scale, linear.encode, linear.decode, dtype=torch.int8, block=64)
    with pytest.raises(ValueError, match="two codes called 'linear'"): AdamW([torch.ones(3, requires_grad=True)], store={'sqr_avg': linear, '*': other})

def test_a_search_in_a_table_is_rounded_to_the_nearest_by_default():
    assert not kept(zeros, of_tables).stochastic and kept(zeros, linear).stochastic and kept(zeros, 'fp8').stochastic

def test_what_no_kernel_can_do():
    "explain() names the code and the operation, and fused=True is refused"
    p = torch.ones(100, 100, requires_grad=True)
    sorts = Code('sorts', lambda x: x.abs().sort(-1)[0][:,-1], linear.encode, linear.decode, dtype=torch.int8)
    cubes = Code('cubes', linear.scale, lambda x,scale: (x/scale).asin()*80, lambda code,scale: (code/80).sin()*scale, dtype=torch.int8)
    for code,words in ((of_tables, 'uses a tensor of its own, of shape (254,)'), (sorts, 'calls sort, which returns several tensors'),
                       (cubes, 'calls asin, which genopt cannot compile')):
        assert f"(foreach), because the code '{code}' {words}" in repr(AdamW([p], store=code).explain())
        with pytest.raises(ValueError, match=f"fused=True is not possible: the code '{code}'"): AdamW([p], store=code, fused=True)
    assert 'one launch' in repr(AdamW([p], store=linear).explain())


# -- Backends --

def keeps_at_random(grad, last=kept(zeros, **random)): return dict(last=grad, update=grad)

def awkward():
    "Gradients: of several tiles, with blocks of each kind; in other orders of memory; of few elements; none"
    x = draw(5000)
    x[256:512].abs_()
    x[512:768] = 0.
    x[800],x[1100],x[1400] = nan,inf,-inf
    x[1536:1792] *= 1e-39
    x[1792:2048] *= 1e37
    x[2048:2304] = x[2048:2304].abs()**30
    x[2304:2560] = -x[2304:2560].abs()
    return [x, draw(9, 8, 7, 6).to(memory_format=torch.channels_last), draw(40, 30).t(), draw(257).abs(), draw(1), draw(0), torch.tensor(2.)]

every_code = [int8, codes['fp8'], linear, of_tables, coarse, wide, in_turn]
@pytest.mark.parametrize('code', every_code, ids=str)
def test_a_step_encodes_as_the_functions_do(code, way):
    def keeps(grad, last=kept(zeros, code, 'nearest', 0)): return dict(last=grad, update=grad)
    gs = awkward()
    ps = [torch.zeros_like(g).requires_grad_() for g in gs]
    opt = Optimizer(ps, [keeps], lr=0., **way)
    for factor in (1., -.37):
        for p,g in zip(ps, gs): p.grad = g*factor
        opt.step()
        for p,g in zip(ps[:-1], gs):
            codes,scale = code.stored(g*factor)
            state = opt.state[p]
            assert state['last'].stride()==codes.stride()
            torch.testing.assert_close(state[f'last.{code}'], scale, rtol=0 if code is int8 else 1e-6, atol=0, equal_nan=True)
            apart = (state['last'].int()-codes.int()).abs()
            assert apart.sum()==0 if code is int8 else not apart.numel() or apart.max()<=1 and (apart>0).float().mean()<.002     # sums round otherwise
        assert opt.state[ps[-1]]['last'].dtype==torch.float32               # a single number
    assert ran_by(opt)<={'c','triton','foreach'} and (way or ('foreach' in ran_by(opt))==(code is of_tables))

@pytest.mark.parametrize('rounding', ['nearest','stochastic'])
def test_codes_with_blocks_of_several_sizes(rounding, way):
    "In one step: it reads, reduces and writes them"
    def step(grad, a=kept(zeros, coarse, rounding, 0), b=kept(zeros, wide, rounding, 0), c=kept(zeros, 'int8', rounding, 0)):
        new = dict(a=grad, b=grad*2 + a, c=grad.abs() + b)
        return new | dict(update=(a+b+c)/(1 + (b-c).norm() + c.square().sum()))
    def run(way):
        torch.manual_seed(0)
        ps  = [draw(5000, seed=1), draw(40, 30, seed=2).t(), draw(1100, seed=3)]
        opt = Optimizer([p.requires_grad_() for p in ps], [step], lr=1., **way)
        for i in range(4):
            for p in ps: p.grad = draw(p.numel(), seed=i).view(p.shape)
            opt.step()
        return ps,opt
    want = run(dict(foreach=False))[0]
    ps,opt = run(way)
    assert way or ran_by(opt)&{'c','triton'}
    for a,b in zip(ps, want): torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if rounding=='nearest' else .2)

@pytest.mark.parametrize('code', ['fp8', linear, coarse], ids=str)
def test_other_codes_round_at_random(code, way):
    "The mean stays, and each element is one of two neighbours"
    def keeps(grad, last=kept(zeros, code, smallest=0)): return dict(last=grad, update=grad)
    torch.manual_seed(0)
    p = torch.zeros(30, 256, requires_grad=True)
    opt = Optimizer([p], [keeps], lr=0., **way)
    p.grad = torch.full_like(p, -.31)
    p.grad[:,::64] = 1.
    opt.step()
    rest = opt._recipe(opt.param_groups[0]).chain(opt.param_groups[0]).state['last'].seen('last', opt.state[p])[:,1:64]
    low,top = rest.min().item(),rest.max().item()
    assert len(rest.unique())==2 and low<-.31<top and abs(rest.double().mean().item()+.31)<(top-low)*.05

above = Code('above', lambda x: x.abs().amax(-1), lambda x,scale: x/scale*127.4, lambda code,scale: code/127.4*scale, dtype=torch.int8)
def test_the_largest_code_is_not_passed(way):
    "The largest element is at 127.4. Rounded up it would be 128, which as an int8 is -128"
    def keeps(grad, last=kept(zeros, above, smallest=0)): return dict(last=grad, update=grad)
    p   = torch.zeros(30, 256, requires_grad=True)
    opt = Optimizer([p], [keeps], lr=0., **way)
    p.grad = torch.ones_like(p)
    opt.step()
    assert above.straight and (opt.state[p]['last']==127).all()

curved = Code('curved', lambda x: x.abs().amax(-1), lambda x,scale: x.sign()*(x.abs()/scale).sqrt()*6, lambda code,scale: code*code.abs()/36*scale, dtype=torch.int8, error=.2)
@pytest.mark.parametrize('code,straight', [(int8, True), (codes['fp8'], True), (linear, True), (curved, False)], ids=str)
def test_codes_on_straight_lines_are_rounded_as_they_are(code, straight):
    "On a curve the neighbours are looked at; without that the mean would be off by a hundredth of the largest element"
    assert code.straight is straight
    torch.manual_seed(0)
    x = torch.tensor([[.2], [.03]]).expand(2, 256*400).clone()
    x[:,::256] = 1.
    mean = code.seen(*code.stored(x, stochastic=True)).view(2, 400, 256)[:,:,1:].mean((1, 2))
    torch.testing.assert_close(mean, x[:,1], rtol=0, atol=4e-4)
    if not straight:
        object.__setattr__(wrong := copy.copy(code), 'straight', True)
        mean = wrong.seen(*wrong.stored(x, stochastic=True)).view(2, 400, 256)[:,:,1:].mean((1, 2))
        assert (mean-x[:,1]).abs().max()>4e-3

def test_bits_of_numbers_in_a_callback(way):
    "No kernel holds an integer for a callback, so the step runs otherwise, with the same result"
    def halved_exponents(grad): return dict(update=((grad.abs().view(torch.int32)>>1) + (127<<22)).view(torch.float32).copysign(grad))
    def run(way):
        p = draw(40, 30).requires_grad_()
        opt = Optimizer([p], [halved_exponents], lr=.1, **way)
        for i in range(3):
            p.grad = draw(40, 30, seed=i)
            opt.step()
        return p
    assert torch.equal(run(way), run(kinds['reference']))

@pytest.mark.slow
@pytest.mark.skipif('gcc' not in (shutil.which('cc') or '')+os.path.realpath(shutil.which('cc') or ''), reason='asks gcc')
@pytest.mark.parametrize('rounding', ['nearest','stochastic'])
@pytest.mark.parametrize('code', [int8, codes['fp8'], linear, coarse, wide, curved], ids=str)
def test_loops_over_codes_are_vectorized(code, rounding, tmp_path, monkeypatch):
    "gcc says so. One that is not takes ten times as long"
    sources = []
    monkeypatch.setattr(launch, 'source', lambda *args: sources.append(emit.source(*args)) or sources[-1])
    p = torch.ones(3000, requires_grad=True)
    p.grad = torch.ones(3000)
    def keeps(grad, last=kept(zeros, code, rounding, 0), factor=1.): return dict(last=grad*factor + last*.5, update=last)
    Optimizer([p], [keeps], lr=.1).step()
    (tmp_path/'k.c').write_text(sources[-1])
    told = subprocess.run(['cc', *compiler.flags, *compiler.openmp(), '-fopt-info-vec', '-o', tmp_path/'k.so', tmp_path/'k.c'], capture_output=True, text=True)
    done = {int(x.split(':')[1]) for x in told.stderr.splitlines() if 'loop vectorized' in x}
    lines = sources[-1].splitlines()
    head,wanted = '',set()
    for i,x in enumerate(lines, 1):
        if x.endswith('{') and not x.startswith(' '): head = x
        used = rounding=='stochastic' if '_at_random(' in head else rounding=='nearest' if 'codes_' in head else 'scale_' in head or 'tile_' in head
        if x.strip().startswith('#pragma omp simd') and used: wanted.add(i+1)
    assert told.returncode==0 and len(wanted)==3+(code is wide)                    # whose scale needs two
    assert {i for i in wanted if not done&{i, i+1}}==set(), told.stderr

def test_a_negative_element_is_not_for_every_code(way):
    "Its block becomes NaN, so that nobody trains on without seeing it"
    code = Code('squares', lambda x: x.amax(-1), lambda x,scale: (x/scale).sqrt()*255, lambda code,scale: (code/255).square()*scale, signed=False)
    assert code.seen(*code.stored(draw(600).abs())).isfinite().all()
    p = torch.zeros(600, requires_grad=True)
    opt = AdamW([p], store={'*': dict(dtype=code, smallest=0, rounding='nearest')}, **way)
    p.grad = torch.ones_like(p)
    p.grad[300] = -1.
    opt.step()
    assert opt.state[p]['grad_avg.squares'].isnan().tolist()==[False,True,False] and not opt.state[p]['sqr_avg.squares'].isnan().any()

def test_fp8_has_the_numbers_of_e4m3():
    x = draw(40*256)
    codes,scale = (fp8 := every_code[1]).stored(x)
    scale = scale[:,None].abs()
    want  = (x.view(-1, 256)/scale).to(torch.float8_e4m3fn).float()*scale
    assert ((fp8.seen(codes, scale[:,0]).view(-1, 256)-want).abs()>0).float().mean()<1e-3      # a few lie in the middle of two
    x = x.square()
    assert (fp8.seen(*fp8.stored(x*x*x))>0).all()                               # of squares none becomes zero

def test_a_step_reads_what_is_there(way):
    "Codes of each kind, in a tile of several blocks"
    def step(grad, last=kept(zeros, **nearest)): return dict(update=last)
    g   = awkward()[0]
    p   = torch.zeros_like(g).requires_grad_()
    opt = Optimizer([p], [step], lr=1., **way)
    opt.init_state()
    codes,scale = encode(g)
    opt.state[p].update({'last': codes, 'last.int8': scale})
    p.grad = torch.zeros_like(p)
    opt.step()
    torch.testing.assert_close(p.detach(), -decode(codes, scale), rtol=0, atol=0, equal_nan=True)

def test_a_step_rounds_at_random(way):
    "The mean and the neighbours; other bits for another parameter and another step, whatever the seed of torch"
    def run(seed):
        torch.manual_seed(seed)
        ps,res = [torch.zeros(30, block, requires_grad=True) for _ in range(2)],[]
        opt = Optimizer(ps, [keeps_at_random], lr=0., **way)
        for _ in range(2):
            for p in ps:
                p.grad = torch.full_like(p, .3135)
                p.grad[:,0],p.grad[15:,1] = 1.,-1.
            opt.step()
            res += [decode(opt.state[p]['last'], opt.state[p]['last.int8']) for p in ps]
        return res
    res = run(1)
    for x in res:
        for rows in (x[:15,2:], x[15:,2:]):
            low,top = rows.min().item(),rows.max().item()
            assert len(rows.unique())==2 and low<.3135<top and abs(rows.double().mean().item()-.3135)<(top-low)*.05
        assert (x[:,0]==1).all() and (x[15:,1]==-1).all()
    for i in range(4):
        for j in range(i): assert (res[i]!=res[j]).float().mean()>.2
    assert all(map(torch.equal, res, run(2)))

def test_without_random_rounding_no_number_is_drawn(way):
    _,opt  = train(partial(AdamW, store={'*': nearest}, **way), 2)
    before = torch.get_rng_state()
    opt.step()
    assert torch.equal(before, torch.get_rng_state()) and coded(opt)=={'grad_avg','sqr_avg'}

def test_random_bits_do_not_depend_on_threads():
    def run(n):
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try: ps,opt = train(partial(AdamW, store={'*': random}), shapes=((400,300),(30,)))
        finally: torch.set_num_threads(before)
        return [*ps, opt.state[ps[0]]['sqr_avg']]
    for a,b in zip(run(1), run(2)): assert torch.equal(a, b)

def test_an_average_does_not_stand_still(quick_way):
    "One element of a block has large gradients for ever, the others have none. Rounded to the nearest, the others would stand still"
    def average(how):
        p   = torch.zeros(16, block, requires_grad=True)
        opt = AdamW([p], lr=0., store=how and {'sqr_avg': how}, **quick_way)
        x   = torch.full_like(p, .3)
        x[:,0] = 1.
        opt.init_state()
        opt.state[p].update(dict(zip(('sqr_avg','sqr_avg.int8'), encode(x.detach()))) if how else dict(sqr_avg=x.detach()))
        for _ in range(1000):
            p.grad = torch.zeros_like(p)
            p.grad[:,0] = 1.
            opt.step()
        s = opt.state[p]
        return (decode(s['sqr_avg'], s['sqr_avg.int8']) if how else s['sqr_avg'])[:,1:].double()
    start = decode(*encode(torch.tensor([1., .3])))[1].item()
    assert (average(nearest)-start).abs().max()<1e-6
    assert abs(average(random).mean()-average(None).mean()*start/.3)<.005

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.complex64], ids=str)
def test_parameters_of_other_dtypes(dtype, way):
    runs = [train(partial(AdamW, lr=.01, store={'*': nearest}, **kw), 4, dtype=dtype) for kw in (way, dict(foreach=False))]
    for a,b in zip(*(ps for ps,_ in runs)): torch.testing.assert_close(a, b, rtol=2**-8, atol=1e-6)
    for _,opt in runs: assert coded(opt)=={'grad_avg','sqr_avg'}

def test_double_precision_stays(way):
    assert not coded(train(partial(AdamW, store={'*': random}, **way), dtype=torch.float64)[1])

def test_parameters_that_become_double(way):
    "The states stay in codes, and the step is the reference's"
    runs = []
    for kw in (way, dict(foreach=False)):
        ps,opt = train(partial(AdamW, store={'*': nearest}, **kw), 2)
        for p in ps: p.data,p.grad = p.data.double(),None
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
        assert coded(opt)=={'grad_avg','sqr_avg'}
        runs.append(ps)
    for a,b in zip(*runs): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

def test_parameters_with_gaps_and_moved_memory(way):
    runs = []
    for kw in (way, dict(foreach=False)):
        ps  = [draw(40, 50)[:, ::2], draw(6, 5, 4, 3), draw(900)]
        for p in ps: p.requires_grad_()
        opt = AdamW(ps, lr=.01, store={'*': nearest}, **kw)
        for i in range(4):
            for p in ps: p.grad = draw(*p.shape, seed=i)
            if i==2:
                ps[1].data = ps[1].data.to(memory_format=torch.channels_last)    # its state lies as before
                ps[2].data = ps[2].data.clone()
            opt.step()
        runs.append(ps)
    for a,b in zip(*runs): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

quick_on_triton = 'AdamW','Lion','LAMB'
@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)
def test_all_algorithms(a, quick_way): same_as_reference(a, quick_way, 'int8')

@pytest.mark.parametrize('code', ['fp8', linear, of_tables], ids=str)
@pytest.mark.parametrize('a', [pytest.param(a, marks=() if a.name in quick_on_triton else pytest.mark.slow) for a in catalogue if not a.closure],
                         ids=lambda a: a.name)
def test_all_algorithms_in_other_codes(a, code):
    for kw in ({}, dict(foreach=True)): same_as_reference(a, kw, code)

@pytest.mark.parametrize('code', ['int8','fp8',linear], ids=str)
@pytest.mark.parametrize('a', [pytest.param(a, marks=() if a.name in quick_on_triton else pytest.mark.slow) for a in catalogue if not a.closure],
                         ids=lambda a: a.name)
def test_all_algorithms_in_triton(a, code, on_triton): same_as_reference(a, {}, code)    # noqa: F811

def same_as_reference(a, kw, code):
    "In steps with late and missing gradients. Rounded to the nearest code, all backends come to the same"
    store = {'*': dict(dtype=code, rounding='nearest', smallest=0)}
    settings = next((s for s in a.settings() if not s.get('maximize')), a.settings(1)[0]) | dict(store=store)
    try: loop,opt = a.ran(a.cls, settings|dict(foreach=False), steps=12, dtype=torch.float32)
    except ValueError as e:
        assert 'matches no state' in str(e)                                 # it keeps none
        return
    states = [(n,v) for s in opt.state.values() for n,v in s.items() if torch.is_tensor(v) and v.numel() and v.ndim and '.' not in n]
    inits  = {n: init for g in opt.param_groups for n,init in opt._recipe(g).chain(g).state.items()}
    assert all((not v.is_floating_point())==(n not in weights and not inits[n].exact) for n,v in states)
    if kw and a.alone: return
    assert difference(a.ran(a.cls, settings|kw, steps=12, dtype=torch.float32)[0], loop)<=3e-7

weights = 'p0','first_p','z','eval_p'

def test_nothing_is_compiled_again(way):
    make = partial(AdamW, store={'*': random}, **way)
    train(make, 3)
    before = len(compiler.compilations),len(triton_runtime.compilations)
    ps,opt = train(make, 3)
    for i in range(1000 if way or 'c' in ran_by(opt) else 50):
        opt.param_groups[0]['lr'] = 1e-3/(i+1)
        ps[0].grad = None if i%3 else torch.ones_like(ps[0])
        ps[1].requires_grad_(i%5>0)                                         # frozen now and then
        opt.step()
    assert (len(compiler.compilations),len(triton_runtime.compilations))==before

def test_sparse_gradients():
    "Rows without a gradient stay as they are, even if their block is written again"
    torch.manual_seed(0)
    p   = torch.randn(40, 32, requires_grad=True)
    opt = genopt.SparseAdam([p], lr=.1, store={'*': random})
    def step(rows):
        p.grad = torch.sparse_coo_tensor(torch.tensor([rows]), torch.randn(len(rows), 32), p.shape)
        opt.step()
    step([*range(40)])
    s = opt.state[p]
    with torch.no_grad(): s['grad_avg'][24:32].fill_(200)                   # would have another scale if it were written again
    before = {n: s[n].clone() for n in ('grad_avg','grad_avg.int8')}
    value  = decode(*before.values())
    step([9])
    now = decode(s['grad_avg'], s['grad_avg.int8'])
    rows = torch.arange(40)//8
    assert torch.equal(s['grad_avg'][rows!=1], before['grad_avg'][rows!=1]) and torch.equal(now[rows!=1], value[rows!=1]) and not torch.equal(now[9], value[9])
    torch.testing.assert_close(now[8], value[8], rtol=.2, atol=.01)

def test_capture(on_triton):                                                # noqa: F811
    "Settings that a CUDA graph needs"
    runs = [train(partial(AdamW, store={'*': nearest}, **kw), 4)[0] for kw in (dict(capturable=True), dict(foreach=True, capturable=True), {})]
    for ps in runs:
        for a,b in zip(ps, runs[-1]): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)

@gpu
@pytest.mark.parametrize('kw', [{}, dict(foreach=True), dict(foreach=False)], ids=['default','foreach','reference'])
@pytest.mark.parametrize('code', [c for c in every_code if c is not of_tables], ids=str)
def test_a_step_on_a_gpu_encodes_as_the_functions_do(code, kw):
    def keeps(grad, last=kept(zeros, code, 'nearest', 0)): return dict(last=grad, update=grad)
    gs = awkward()
    ps = [torch.zeros_like(g, device='cuda').requires_grad_() for g in gs]
    opt = Optimizer(ps, [keeps], lr=0., **kw)
    for p,g in zip(ps, gs): p.grad = g.cuda()
    opt.step()
    for p,g in zip(ps[:-1], gs):
        codes,scale = code.stored(g)
        apart = (opt.state[p]['last'].cpu().int()-codes.int()).abs()
        assert opt.state[p]['last'].stride()==codes.stride() and (not apart.numel() or apart.max()<=(code is not int8))
        torch.testing.assert_close(opt.state[p][f'last.{code}'].cpu(), scale, rtol=0 if code is int8 else 1e-6, atol=0, equal_nan=True)

@gpu
@pytest.mark.parametrize('name', ['AdamW', 'Lion', 'LAMB'])
def test_backends_agree_on_a_gpu(name):
    "Rounded to the nearest. Few elements may come to the next code, where a value is in the middle"
    def run(how, **kw):
        g   = torch.Generator('cuda').manual_seed(0)                       # its own: rounding at random draws from torch's
        ps  = [torch.randn(s, device='cuda', generator=g).requires_grad_() for s in ((300, 257), (5000,), (64, 3, 7, 7))]
        opt = getattr(genopt, name)(ps, lr=1e-3, store={'*': how}, **kw)
        for _ in range(10):
            for p in ps: p.grad = torch.randn(p.shape, device='cuda', generator=g)
            opt.step()
        return [*ps, *(decode(s[n], s[f'{n}.int8']) for s in opt.state.values() for n in ('grad_avg',))]
    want = run(nearest, foreach=False)
    for kw in ({}, dict(foreach=True)):
        for a,b in zip(run(nearest, **kw), want): assert ((a-b).abs()>1e-5*b.abs().max()).float().mean()<1e-3
    for a,b in zip(run(random), want): assert (a-b).abs().mean()<.05*b.abs().max()

@gpu
def test_a_step_on_a_gpu_rounds_at_random():
    def run(seed):
        torch.manual_seed(seed)
        p = torch.zeros(400, block, device='cuda', requires_grad=True)
        opt = Optimizer([p], [keeps_at_random], lr=0.)
        p.grad = torch.full_like(p, .31)
        p.grad[:,0] = 1.
        opt.step()
        return decode(opt.state[p]['last'], opt.state[p]['last.int8'])
    rest = run(1)[:,1:]
    low,top = rest.min().item(),rest.max().item()
    assert len(rest.unique())==2 and low<.31<top and abs(rest.double().mean().item()-.31)<(top-low)*.01
    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


# -- Policies --

def test_one_dtype_for_all_states():
    for store in ('int8', torch.int8, {'*': 'int8'}, {'*_avg': 'int8'}):
        ps,opt = train(partial(AdamW, store=store))
        assert coded(opt)=={'grad_avg','sqr_avg'} and 'grad_avg.int8' not in opt.state[ps[1]]             # the bias stays float32
    assert opt.param_groups[0]['store']==(('*_avg', 'int8', 'stochastic', 4096),)

def test_copies_of_weights_need_their_name():
    make = partial(genopt.AdamWScheduleFree, lr=.1)
    assert coded(train(partial(make, store='int8'))[1])=={'sqr_avg'}
    assert coded(train(partial(make, store={'z': 'int8'}))[1])=={'z'}

def test_weights_to_evaluate_in_codes():
    ps,opt = train(partial(genopt.ASGD, lr=.1, t0=0, store={'eval_p': random}))
    want = [decode(s['eval_p'], s['eval_p.int8']) for s in map(opt.state.get, ps)]
    opt.eval()
    assert all(map(torch.equal, ps, want)) and coded(opt)=={'eval_p'}

def test_states_that_grow_stay():
    def step(grad, rows_=genopt.history(3)): return dict(rows_=torch.cat([rows_, grad[None]])[-3:], update=grad)
    _,opt = train(lambda ps: Optimizer(ps, [step], lr=.1, store={'*': random}))
    assert not coded(opt) and "'rows_' stays in float32, because it grows" in repr(opt.explain())

def test_bytes():
    p = torch.ones(100, 100, requires_grad=True)
    e = AdamW([p], store='int8').explain()
    assert e.state==2*(10_000+4*40) and AdamW([p]).explain().traffic-e.traffic==4*(30_000-160)
    assert 'sqr_avg=zeros as int8 1.02 B' in repr(e) and 'one launch' in repr(e)

def test_the_kernels_of_a_gpu():
    p = torch.ones(100, 100, requires_grad=True)
    for store in ('int8', {'*': nearest}):
        told = AdamW([p], store=store).explain().kernel()
        assert '16.0625 bytes for each element' in told and 'no spills' in told

def job_sharded(rank, world, out):
    weights = []
    for store in ({'*': random}, None):
        m = test_distributed.sharded(test_distributed.net().float(), world)
        opt = AdamW(m.named_parameters(), store=store)
        for p in m.parameters(): p.grad = torch.ones_like(p)
        opt.step()
        assert not coded(opt) and not opt._plan.fallback
        assert ("'sqr_avg' stays in float32, because it is sharded" in repr(opt.explain()))==bool(store)
        weights.append([p.full_tensor() for p in m.parameters()])
    assert all(map(torch.equal, *weights))

@pytest.mark.slow
def test_sharded_states_stay(tmp_path):
    test_distributed.run(2, job_sharded, tmp_path/'res')


def test_matrices_of_which_others_are_computed_keep_their_precision():
    "but for a policy with their name"
    for cls,names in ((genopt.Shampoo, {'left','left_root','right','right_root'}), (genopt.SOAP, {'left','left_basis','right','right_basis'}),
                      (genopt.Kron, {'left_q','right_q'})):
        opt = train(partial(cls, lr=.01, store={'*': random}), 2)[1]
        state = max(opt.state.values(), key=len)
        assert {n for n in state if n.partition('.')[0] in names}==names and coded(opt)=={n.partition('.')[0] for n in state if '.' in n}-names
    assert coded(train(partial(genopt.SOAP, lr=.01, store={'left': random}), 2)[1])=={'left'}

@pytest.mark.parametrize('how', ['int8', 'bfloat16', linear], ids=str)
def test_exact_states(how):
    def step(grad, sum_=genopt.exact(zeros), avg=zeros): return dict(sum_=sum_+grad, avg=grad, update=grad)
    entry = dict(dtype=how, smallest=0)
    for store,want in (({'*': entry}, {'avg'}), ({'sum_': entry}, {'sum_'}), ({'su*': entry, 'sum_': entry}, {'sum_'})):
        ps,opt = train(lambda ps: Optimizer(ps, [step], lr=.1, store=store))                     # noqa: B023
        assert {n for n,v in opt.state[ps[0]].items() if v.dtype!=torch.float32}==want
    with pytest.raises(TypeError, match='exact takes an initializer such as zeros, got 0'): genopt.exact(0)


# -- Checkpoints --

policies = [None, {'*': random}, {'sqr_avg': random}, {'*': dict(dtype='bfloat16', smallest=0)}, {'*': dict(dtype='fp8', smallest=0)},
            {'*': dict(dtype=linear, smallest=0)}]
@pytest.mark.parametrize('theirs', policies, ids=str)
@pytest.mark.parametrize('ours', policies, ids=str)
def test_a_state_dict_loads_into_another_policy(ours, theirs, tmp_path):
    ps,opt = train(partial(AdamW, store=theirs))
    torch.save(opt.state_dict(), tmp_path/'sd.pt')
    saved = torch.load(tmp_path/'sd.pt', weights_only=True)
    qs,new = train(partial(AdamW, store=ours), 1)
    if 'linear' in str(theirs) and 'linear' not in str(ours):
        with pytest.raises(ValueError, match=r"parameter 0 in param group 0: 'grad_avg' was saved in the code 'linear', which the optimizer does not know; "
                                              r"give it that code: store=\{..., '\*': linear\}, as the last pattern"):
            new.load_state_dict(saved)
        qs,new = train(partial(AdamW, store=(ours or {'*': 'float32'})|{'*_*': dict(dtype=linear, smallest=10**9)}), 1)
    before = [{n: v.dtype for n,v in new.state[q].items() if torch.is_tensor(v)} for q in qs]
    new.load_state_dict(saved)
    assert [{n: v.dtype for n,v in new.state[q].items() if torch.is_tensor(v)} for q in qs]==before
    values = lambda opt, p, n: opt._recipe(opt.param_groups[0]).chain(opt.param_groups[0]).state[n].seen(n, opt.state[p])
    for p,q in zip(ps, qs):
        for n in ('grad_avg','sqr_avg'): torch.testing.assert_close(values(new, q, n), values(opt, p, n), rtol=.08, atol=.01)
        if ours==theirs: assert all(torch.equal(v, opt.state[p][n]) for n,v in new.state[q].items() if torch.is_tensor(v))
        q.grad = p.grad
    new.step()

@pytest.mark.parametrize('change,words', [
    (lambda s: s.pop('sqr_avg'),                              "parameter 0 in param group 0: the state has the scales 'sqr_avg.int8', but no codes as 'sqr_avg'"),
    (lambda s: s.update(sqr_avg=s['sqr_avg'].float()),        "the state has the scales 'sqr_avg.int8', but no codes"),
    (lambda s: s.pop('sqr_avg.int8'),                        "'sqr_avg' is stored as codes, but the state lacks their scales, such as 'sqr_avg.int8'"),
    (lambda s: s.update({'sqr_avg.int8': torch.ones(3)}),    "'sqr_avg.int8' must be a float32 tensor of 17 elements, one for each 256 of 'sqr_avg'"),
    (lambda s: s['sqr_avg.int8'].fill_(nan),                 "'sqr_avg' has NaN"),
], ids=range(5))
def test_files_that_are_refused(change, words):
    _,opt = train(partial(AdamW, store={'*': random}))
    saved = copy.deepcopy(opt.state_dict())
    change(saved['state'][0])
    with pytest.raises(ValueError, match=words): train(partial(AdamW, store={'*': random}, nonfinite='raise'))[1].load_state_dict(saved)
    with pytest.raises(ValueError, match=words): train(partial(AdamW, nonfinite='raise'))[1].load_state_dict(saved)

def test_files_of_an_older_version():
    "Scales were called `sqr_avg.scale`"
    ps,opt = train(partial(AdamW, store={'*': random}))
    saved  = copy.deepcopy(opt.state_dict())
    for s in saved['state'].values():
        for n in [n for n in s if n.endswith('.int8')]: s[n.replace('int8', 'scale')] = s.pop(n)
    for store in ({'*': random}, None):
        qs,new = train(partial(AdamW, store=store), 1)
        new.load_state_dict(saved)
        for p,q in zip(ps, qs):
            s,t = opt.state[p],new.state[q]
            assert torch.equal(t['sqr_avg'], s['sqr_avg'] if store else decode(s['sqr_avg'], s['sqr_avg.int8']))
            assert ('sqr_avg.int8' in t)==bool(store) and 'sqr_avg.scale' not in t

def test_checkpoints_of_torch():
    "Both ways"
    ps,theirs = train(torch.optim.AdamW)
    qs,ours   = train(partial(AdamW, store={'*': random}), 1)
    ours.load_state_dict(theirs.state_dict())
    assert coded(ours)=={'grad_avg','sqr_avg'}
    rs,again = train(torch.optim.AdamW, 1)
    again.load_state_dict(ours.torch_state_dict())
    for p,r in zip(ps, rs):
        for n in ('exp_avg','exp_avg_sq'): torch.testing.assert_close(again.state[r][n], theirs.state[p][n], rtol=.03, atol=.002)
        assert again.state[r].keys()==theirs.state[p].keys()
    again.step()

def test_a_resumed_run_is_the_same(way):
    make   = partial(AdamW, store={'*': random}, **way)
    ps,opt = train(make, 4)
    qs,new = train(make, 1)
    new.load_state_dict(copy.deepcopy(opt.state_dict()))
    f = io.BytesIO()
    torch.save((ps, opt), f)
    f.seek(0)
    rs,third = torch.load(f, weights_only=False)
    with torch.no_grad():
        for p,q in zip(ps, qs): q.copy_(p)
    def go_on(ps, opt):
        torch.manual_seed(5)
        for i in range(4):
            for p in ps: p.grad = torch.full_like(p, i-1.5)
            opt.step()
        return [*ps, *(v for p in ps for v in opt.state[p].values() if torch.is_tensor(v))]
    runs = [go_on(ps, opt), go_on(qs, new), go_on(rs, third)]
    for run in runs: assert all(map(torch.equal, run, runs[0]))
