"""Formulas that are made from recordings of callbacks. Each is evaluated, and compared with what the callback and the optimizer compute."""

from functools import reduce
import pytest
import torch
import genopt
from genopt import Optimizer,zeros
from genopt.contract.state import first
from genopt.tools import catalogue
from genopt.tools.formula import chain,expressions as ex,formula,formula_of_block,kinds_of,writing
from evaluate import Drawn,Model,World

@pytest.fixture(scope='module')
def kinds(): return kinds_of(*map(catalogue.make, genopt.algorithms.__all__))

def tex(opt): return {line.name: line.tex for line in formula(opt)}

m     = r'm_t = \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t'
v     = r'v_t = \beta_2 \, v_{t-1} + \left(1 - \beta_2\right) \, g_t^{2}'
adam  = r'u_t = \frac{m_t / \left(1 - \beta_1^{t}\right)}{\sqrt{v_t / \left(1 - \beta_2^{t}\right)} + \epsilon}'
move  = r'p_t = p_{t-1} - \eta \, u_t'
decay = r"p_{t-1}' = \left(1 - \eta \, \lambda\right) \, p_{t-1}"

@pytest.mark.parametrize('name,hypers,want', [                                  # as the papers have them; None for a line that is not looked at
    ('SGD',     {},                                {'sgd_step': ['u_t = g_t'], 'the move': [move]}),
    ('SGD',     dict(momentum=.9, nesterov=True),  {'nesterov_step': [r'u_t = g_t + \beta_1 \, m_t']}),
    ('RMSprop', {},                                {'average_sqr_grad': [v], 'rms_prop_step': [r'u_t = \frac{g_t}{\sqrt{v_t} + \epsilon}']}),
    ('Adagrad', {},                                {'sum_sqr_grad': ['s_t = s_{t-1} + g_t^{2}']}),
    ('Adam',    {},                                {'average_grad': [m], 'average_sqr_grad': [v], 'adam_step': [adam], 'debias': [], 'the move': [move]}),
    ('Adam',    dict(weight_decay=.1),             {'l2_reg': [r"g_t' = g_t + \lambda \, p_{t-1}"]}),
    ('AdamW',   {},                                {'weight_decay': [decay], 'the move': [r"p_t = p_{t-1}' - \eta \, u_t"]}),
    ('AMSGrad', {},                                {'max_sqr_grad': [r'v^{\max}_t = \max\left(v^{\max}_{t-1}, v_t\right)']}),
    ('Adamax',  {},                                {'decayed_max_grad': [r'w_t = \max\left(\beta_2 \, w_{t-1}, \lvert g_t \rvert + \epsilon\right)']}),
    ('Lion',    {},                                {'lion_step': [r'u_t = \operatorname{sign}\left(\beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t\right)'],
                                                    'average_grad': [m.replace('1', '2').replace('t-2', 't-1').replace('2 -', '1 -')]}),
    ('QHM',     {},                                {'qhm_step': [r'u_t = \left(1 - \nu\right) \, g_t + \nu \, m_t']}),
    ('MARS',    {},                                {'mars_correction': [r"g_t' = g_t + \frac{\gamma \, \beta_1 \, d}{1 - \beta_1}"]}),
    ('Fromage', {},                                {'fromage_rescale': [r"p_t = \frac{p_t'}{\sqrt{\eta^{2} + 1}}"]}),
    ('NovoGrad',{},                                {'average_sqr_norm': [r"v_t = v_{t-1} \, \beta_2' + \left(1 - \beta_2'\right) \, \lVert g_t \rVert^{2}"]}),
    ('Muon',    {},                                {'newton_schulz': [r'X_0 = \frac{u_t}{\max\left(\lVert u_t \rVert, \epsilon\right)}', r'A_k = X_k \, {X_k}^{\top}',
                                                                      r'X_{k+1} = 3.4445 \, X_k + \left(2.0315 \, A_k \, A_k - 4.775 \, A_k\right) \, X_k, \quad k = 0, \ldots, 4',
                                                                      r"u_t' = X_{5}"],
                                                    'scale_by_shape': [r"u_t'' = \begin{cases} \sqrt{\text{rows} / \text{columns}} \, u_t' & \text{if } \text{rows} > \text{columns} \\"
                                                                       r" u_t' & \text{otherwise} \end{cases}"]}),
    ('Muon',    dict(ns_steps=2),                  {'newton_schulz': None}),                 # too few turns to be told for a loop
    ('Shampoo', {},                                {'sum_shampoo_factors': [r'L_t = L_{t-1} + g_t \, {g_t}^{\top}', r'R_t = R_{t-1} + {g_t}^{\top} \, g_t'],
                                                    'shampoo_precondition': [r'u_t = \hat L_t \, g_t \, \hat R_t']}),
    ('SOAP',    {},                                {'rotate_from_eigenbasis': [r"u_t' = Q^{L}_{t-1} \, u_t \, {Q^{R}_{t-1}}^{\top}"]}),
    ('CAME',    {},                                {'padded_factored_step': [r'u_t = \frac{g_t}{\sqrt{R_t / \operatorname{mean}\left(R_t\right)} \, \sqrt{C_t}}']}),
    ('Prodigy', {},                                {'prodigy_growth': [r"D^{\max}_t = \max\left(D^{\max}_{t-1}, D_t', \hat D\right)",
                                                                       r"D_t = \min\left(D^{\max}_t, \begin{cases} \max\left(D_t', \hat D\right) & \text{if } D_t' = D_0 \\"
                                                                       r" D_t' & \text{otherwise} \end{cases} \, \text{growth\_rate}\right)"]}),
    ('DoG',     {},                                {'global_norms': [r"r' = \sqrt{\sum_{\text{all}} r^{2}}", r"\text{sqr\_norm}' = \sum_{\text{all}} \text{sqr\_norm}",
                                                                     r"\text{start}' = \sqrt{\sum_{\text{all}} \text{start}^{2}}"],
                                                    'dog_rate': [r"\bar r_t = \max\left(\bar r_{t-1}, r', \left(\text{start}' + 1\right) \, \text{reps\_rel}\right)",
                                                                 r"s_t = s_{t-1} + \text{sqr\_norm}'", r"\eta' = \frac{\bar r_t \, \eta}{\sqrt{s_t + \epsilon}}"]}),
    ('SAM',     {},                                {'sharpness_aware': [r"g_t' = \nabla f\left(p_{t-1} + \frac{\rho \, g_t}{\lVert g_t \rVert_{\text{all}} + 10^{-12}}\right)"]}),
    ('Sophia',  {},                                {'hutchinson': [r"z \; \sim \; \mathcal{N}\left(0, 1\right)",
                                                                   r"\hat h = \begin{cases} z \odot \left(\nabla^{2} f\left(p_{t-1}\right) \, z\right) & \text{if } "
                                                                   r"\left(t - 1\right) \, \operatorname{mod} \, \text{update\_period} = 0 \\ 0 & \text{otherwise} \end{cases}"]}),
    ('AdaHessian', {},                             {'hutchinson': [r"\xi \; \sim \; \mathcal{U}\left\{0, 1\right\}", r"z = 2 \, \xi - 1", None]}),
    ('AdamP',   {},                                {'adamp_projection': [None, r"n = \frac{p_{t-1}}{\lVert p_{t-1} \rVert_{\text{row}} + \epsilon}", None,
                                                                         r"n_{2} = \frac{p_{t-1}}{\lVert p_{t-1} \rVert + \epsilon}",
                                                                         r"u_t' = \begin{cases} u_t - n \, \langle n, u_t \rangle_{\text{row}} & \text{if } \text{by\_row} \\"
                                                                         r" u_t - n_{2} \, \langle n_{2}, u_t \rangle & \text{if } \text{whole} \\ u_t & \text{otherwise} \end{cases}",
                                                                         r"\lambda' = \left(\left[\text{by\_row} \vee \text{whole}\right] \, \left(\text{wd\_ratio} - 1\right) + 1\right) \, \lambda"]}),
    ('SM3',     {},                                {'sm3_sqr_sum': [r"s = \min\left({\mu_{t-1}}^{\text{rows}}, {\mu_{t-1}}^{\text{columns}}\right) + \left(1 - \beta\right) \, g_t^{2}",
                                                                    r"\mu_t = \left(\operatorname{max}_{\text{row}}\left(s\right), \operatorname{max}_{\text{column}}\left(s\right)\right)"]}),
    ('Kron',    {},                                {'psgd_update_schedule': [r"\text{fit} = \left[\text{waited} + 1 \geq \frac{1}{\min\left(1, \max\left(\text{min\_probability}, "
                                                                             r"e^{-0.001 \, \max\left(0, t - 501\right)}\right)\right)}\right]",
                                                                             r"\text{waited} \leftarrow \begin{cases} \text{waited} + 1 & \text{if } \text{fit} = 0 \\ 0 & \text{otherwise} \end{cases}"]}),
], ids=lambda x: x if isinstance(x, str) else '')
def test_formula_of_an_algorithm(name, hypers, want):
    found = tex(catalogue.make(name, **hypers))
    for n,lines in want.items():
        if lines is None: assert found[n] and r'\operatorname' not in found[n][0]
        else: assert [line if wanted else None for line,wanted in zip(found[n], lines)]==lines and len(found[n])==len(lines)

def test_formula_of_a_rule_of_ones_own():
    def own_step(grad, mom=.9, avg=zeros):
        slow = avg*mom + grad*(1-mom)
        return dict(update = (slow*slow).sqrt()*(slow-grad).sign(), avg=slow)
    opt = Optimizer([torch.ones(3, requires_grad=True)], [own_step], lr=.1)
    first,last = formula(opt)
    assert first.tex==[r'\text{avg}_t = \beta_1 \, \text{avg}_{t-1} + \left(1 - \beta_1\right) \, g_t',
                       r'u_t = \sqrt{\text{avg}_t^{2}} \, \operatorname{sign}\left(\text{avg}_t - g_t\right)']
    assert last.name=='the move' and first.symbols['mom']==r'\beta_1'

def test_formula_says_what_it_takes_for_granted_and_what_it_cannot_write():
    def long_case(grad, step): return grad*2 + ((grad*3).exp() + (grad*4).exp()).log().tanh()/((grad*5).exp() + (grad*7).exp()) if step>3 else (grad*11).exp() + (grad*13).exp()/((grad*17).exp() + (grad*19).exp() + (grad*21).exp())
    line = formula_of_block(long_case)
    assert line.tex and line.when==[r't \leq 3']
    line = formula_of_block(genopt.blocks.newton_schulz)
    assert line.matrix and line.when==[r'\text{rows} \leq \text{columns}', r'\text{ns\_steps} = 5']
    line = formula_of_block(genopt.blocks.lbfgs_step)
    assert "lbfgs_step reads a value of a tensor on the host" in line.why and not line.tex

def test_formula_of_a_loop_whose_numbers_change():
    lines = formula_of_block(genopt.blocks.polar_express).tex
    assert lines[2]==r'X_{k+1} = a_k \, X_k + \left(b_k \, A_k + c_k \, A_k \, A_k\right) \, X_k, \quad k = 0, \ldots, 4' or 'a_k' in lines[2], lines
    assert [line.split(' = ')[0] for line in lines[3:6]]==['a_k', 'b_k', 'c_k'] and lines[3].count(',')==4

@pytest.mark.parametrize('body,want', [
    ("left @ update",                                 r"L \, u"),
    ("(left @ update).T @ left",                      r"u^{\top} \, L^{\top} \, L"),
    ("update/update.square().sum(1, keepdim=True)",   r"\frac{u}{\operatorname{sum}_{\text{row}}\left(u^{2}\right)}"),
    ("update/update.numel()**.5",                     r"\frac{u}{\sqrt{\text{rows} \, \text{columns}}}"),
    ("update*(left @ update)",                        r"u \odot \left(L \, u\right)"),
    ("update*max(update.shape)",                      r"\max\left(\text{rows}, \text{columns}\right) \, u"),
    ("update/update.norm(dim=0, keepdim=True)",       r"\frac{u}{\lVert u \rVert_{\text{column}}}"),
    ("update*(update.flatten() @ update.flatten())",  None),
    ("(update.flatten()*2).reshape(update.shape)",    r"2 \, u"),
    ("update.reshape(update.shape[::-1]).T*2",        None),
], ids=str)
def test_formula_of_what_takes_a_matrix(body, want):
    scope = {}
    exec(f"def own(update, left): return {body}", scope)
    line = formula_of_block(scope['own'], own_kinds())
    if want is None: assert line.why
    else: assert line.tex==["u' = " + want] and line.matrix and not line.when

@pytest.mark.parametrize('body,want', [
    ("torch.stack([g.norm() for g in grads]).norm()",            r"\lVert g \rVert_{\text{all}}"),
    ("torch.cat([g.flatten() for g in grads]).norm()",           r"\lVert g \rVert_{\text{all}}"),
    ("sum(g.square().sum() for g in grads)",                     r"\lVert g \rVert_{\text{all}}^{2}"),
    ("sum((g*p).sum() for g,p in zip(grads, params))",           r"\sum_{\text{all}} \langle g, p \rangle"),
    ("torch.stack([g.abs().amax() for g in grads]).max()",       r"\max_{\text{all}} \max\left(\lvert g \rvert\right)"),
    ("reduce(torch.maximum, [p.sum() for p in params])",         r"\max_{\text{all}} \operatorname{sum}\left(p\right)"),
    ("reduce(torch.minimum, [p.sum() for p in params])",         r"\min_{\text{all}} \operatorname{sum}\left(p\right)"),
    ("torch.stack([p.mean() for p in params]).mean()",           r"\operatorname{mean}_{\text{all}} \operatorname{mean}\left(p\right)"),
    ("sum(g.sum() for g in grads)/len(grads)",                   "own counts the parameters"),
    ("torch.stack([g.norm() for g in grads])",                   "own makes 'size', which is not of the parameter's shape"),
    ("grads[0].norm()",                                          "own does not treat all parameters alike"),
    ("evaluate([p*.5 for p in params])[0]",                      r"f\left(0.5 \, p\right)"),
], ids=str)
def test_formula_of_what_runs_over_all_parameters(body, want):
    scope = dict(torch=torch, reduce=reduce)
    exec(f"def own(params, grads, evaluate): return dict(size={body})", scope)
    line = formula_of_block(scope['own'])
    assert line.why==want if line.why else line.tex==['\\text{size} = ' + want]

@pytest.mark.parametrize('draw,want', [
    ("torch.randn_like(grad)",                    r"\mathcal{N}\left(0, 1\right)"),
    ("torch.rand_like(grad)",                     r"\mathcal{U}\left[0, 1\right)"),
    ("torch.randint_like(grad, 1, 7)",            r"\mathcal{U}\left\{1, \ldots, 6\right\}"),
    ("torch.empty_like(grad).normal_(2, 3)",      r"\mathcal{N}\left(2, 9\right)"),
    ("torch.empty_like(grad).uniform_(-1, 1)",    r"\mathcal{U}\left[-1, 1\right)"),
    ("torch.empty_like(grad).exponential_(2)",    r"\operatorname{Exp}\left(2\right)"),
    ("torch.empty_like(grad).bernoulli_(.2)",     r"\operatorname{Bernoulli}\left(0.2\right)"),
    ("torch.bernoulli(grad.sigmoid())",           r"\operatorname{Bernoulli}\left(\operatorname{sigmoid}\left(g\right)\right)"),
], ids=str)
def test_formula_of_random_numbers(draw, want):
    scope = dict(torch=torch)
    exec(f"def own(grad): return grad*{draw}", scope)
    line = formula_of_block(scope['own'])
    assert not line.why and line.tex==[r'\xi \; \sim \; ' + want, r'u = g \, \xi']

def test_formula_of_the_rows_of_a_sparse_gradient():
    "The formulas of SparseAdam compute the rows that the gradient has; `lazy_rows` says so, and the others stay"
    torch.manual_seed(0)
    p = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    opt,at = genopt.SparseAdam([p], foreach=False),torch.tensor([1, 4])
    assert [line.rows for line in formula(opt)].count(True)==1 and formula(opt)[0].name=='lazy_rows'
    for _ in range(3):
        before,state = p.detach().clone(),{n: s.clone() if isinstance(s, torch.Tensor) else s for n,s in opt.state[p].items()}
        rows   = torch.randn(2, 3, dtype=torch.float64)
        p.grad = torch.sparse_coo_tensor(at[None], rows, p.shape, check_invariants=True)
        writer = chain.writer_of(opt, 0)
        opt.step()
        if not state: continue
        env,known = World([(2, 3)]).envs[0],{n: s[at] if isinstance(s, torch.Tensor) else s for n,s in state.items()} | dict(p=before[at], grad=rows)
        env.put({e.expr.args[0]: known.get(n, e.value) for n,e in writer.entries.items() if e.expr.op=='symbol' and e.kind not in ('flag', 'model')})
        for line in writer.run(): [*env.world.run(line)]
        assert torch.allclose(env['p_t'], p.detach()[at], rtol=1e-10) and not torch.equal(p.detach()[at], before[at])
        others = torch.tensor([0, 2, 3, 5])
        assert torch.equal(p.detach()[others], before[others])

def test_what_has_no_formula_says_why():
    def of_rows(grad, rows): return grad*len(rows)
    assert formula_of_block(of_rows).why=='of_rows computes with the rows of a sparse gradient'
    def sorted_step(update): return update[:,update.sum(0).sort()[0].long()] + update.cumsum(0)
    assert 'calls' in formula_of_block(sorted_step).why and 'no formula' in formula_of_block(sorted_step).why
    def of_another_rank(update): return update.permute(2, 0, 1)
    assert formula_of_block(of_another_rank).why=='of_another_rank cannot be recorded on a matrix'

def own_kinds():
    kinds = kinds_of(genopt.Shampoo([torch.ones(3, 2, requires_grad=True)]))
    kinds.inits['own','left'] = kinds.inits['sum_shampoo_factors','left']
    return kinds

without = {'LBFGS': {'lbfgs_step': 'lbfgs_step reads a value of a tensor on the host, by item(), if, min or max; use torch.where'}}

def test_only_these_have_no_formula(kinds):
    "An algorithm that lacks one is listed here, with the callback that cannot be written out and the reason"
    found = {n: {line.name: line.why for line in formula(catalogue.make(n)) if line.why} for n in genopt.algorithms.__all__}
    assert {n: whys for n,whys in found.items() if whys}==without
    blocks = {n: why for n in genopt.blocks.__all__ if (why := formula_of_block(getattr(genopt.blocks, n), kinds).why)}
    assert blocks==without['LBFGS']

def test_every_line_says_something():
    short = 'debias', 'debias_mom3', 'growing_sqr_mom', 'root_of_sqr_mom'        # their numbers stand where they are used
    for n in genopt.algorithms.__all__:
        lines = formula(catalogue.make(n))
        assert lines[-1].tex or lines[-2].tex, n
        assert all(line.tex or line.rows or line.name in short for line in lines), n


# -- Evaluated --

@pytest.mark.parametrize('name', sorted({*genopt.blocks.__all__}-{'dtype_eps', 'lbfgs_step'}))
def test_formula_of_a_block_computes_what_the_block_does(name, kinds):
    "Each equation, evaluated with random numbers, is what the callback returns for these; at a step for each case that there is"
    line  = formula_of_block(getattr(genopt.blocks, name), kinds)
    steps = (3, 10, 11, 100, 101) if 'step' in line.block.names else (3,)
    assert not line.why
    if line.equations: assert sum(compare_block(line, kinds, step) for step in steps)

def compare_block(line, kinds, step):
    "How many results of the block have been compared; 0 if a condition of the formula does not hold"
    torch.manual_seed(0)
    b,shapes = line.block,[torch.Size(s) for s in ([(4, 6), (5, 3)] if line.matrix else [(6,), (5,)])]
    shapes   = shapes if b.is_global else shapes[:1]
    shared   = {n: v for n in b.names if (v := a_number(n, line, kinds, step)) is not None}
    spaces   = [shared | {n: a_tensor(n, line, kinds, shape) for n in {*b.names, 'p'}-shared.keys()} for shape in shapes]
    model    = Model(shapes)
    with Drawn() as drawn, torch.no_grad(): outs = b.call_all(spaces, Answers(model, spaces)) if b.is_global else [b(spaces[0])]
    world = World(shapes, model, drawn.tensors)
    for env,ns in zip(world.envs, spaces):
        env.put({t: ns[n] for t,n in line.names.items() if n in ns and not t.endswith("'") and not isinstance(ns[n], str)})
    if not world.holds(line): return 0
    compared = 0
    for text,values in world.run(line):
        name = line.names.get(text)
        for env,v,out in zip(world.envs, values, outs):
            if name not in out: continue
            assert torch.allclose(v, env.seen(out[name]), rtol=1e-9), name
            compared += 1
    return compared

def a_number(n, line, kinds, step):
    "The number, flag or string for the name `n`; None if it is a tensor. Where a choice depends on it, and the line says which, it is the default"
    default = line.block.hypers.get(n)
    if n=='step': return float(step)
    if n=='ns_dtype': return 'float64'
    if isinstance(default, (bool,str)) or line.conditions and default is not None: return default
    if kinds.get(n)=='flag' and n not in line.block.state: return True
    if default is None and n!='lr' and (kinds.get(n)!='number' or n in line.block.state): return None
    return torch.rand((), dtype=torch.float64).item()*.8 + .1

def a_tensor(n, line, kinds, shape):
    "Random numbers of the shape that the name `n` has. A square matrix is symmetric and positive definite, and a factor of PSGD is triangular"
    like,init = torch.ones(shape),line.block.state.get(n, kinds.inits.get((line.block.name, n)))
    shape = first(init, like).shape if isinstance(first(init, like) if init else None, torch.Tensor) else () if init or kinds.get(n)=='single' else shape
    x = torch.rand(shape, dtype=torch.float64) + .2
    if x.ndim<2 or x.shape[0]!=x.shape[1]: return x
    x = x@x.T + torch.eye(len(x))
    return x.triu() if n in ('left_q', 'right_q') else x

class Answers:
    "What a callback over all parameters asks of the model"
    def __init__(self, model, spaces): self.model,self.ps = model,[ns.get('p') for ns in spaces]
    def loss(self, items, by): return self.model.loss(self.ps)
    def evaluate(self, items, by): return lambda values: (self.model.loss(values), [*self.model.gradients(values)[1]])
    def hvp(self, items, by): return lambda zs: [*self.model.hessian_product(self.ps, zs)]

@pytest.mark.parametrize('name', [n for n in genopt.algorithms.__all__ if n not in without])
def test_formulas_of_an_algorithm_compute_its_step(name):
    "All equations of a chain in order, from the values in mid-training, come to the parameters after the step"
    torch.manual_seed(0)
    cls = getattr(genopt, name)
    run = Run(cls, **({'ns_dtype': 'float64'} if 'ns_dtype' in cls.arguments else {}))
    for _ in range(9): run.step()
    assert any([run.compare_step(), run.compare_step()])                   # in step 11 those work that work every tenth step

@pytest.mark.parametrize('cbs', [
    lambda b: [b.step_stat, b.add_noise, genopt.SGD, b.langevin_noise],
    lambda b: [b.weight_decay, b.polyak_rate, b.sgd_step],                  # loss and curvature are those at the parameter before its decay
    lambda b: [b.step_stat, b.weight_decay, b.hutchinson, b.average_grad, b.average_curvature, b.sophia_step],
    lambda b: [b.weight_decay, b.sharpness_aware, b.clip_grad_norm, b.sgd_step],
], ids=['noise', 'loss', 'curvature', 'gradient'])
def test_formulas_of_a_list_compute_its_step(cbs):
    run = Run(lambda ps, **hypers: Optimizer(ps, cbs(genopt.blocks), lr=.1, **hypers), wd=.3)
    run.step()
    assert all(run.compare_step() for _ in range(3))

class Run:
    "Some steps on two parameters, with a loss that changes from step to step"
    shapes = (4, 6),(3, 5)                                                 # the formulas of Muon and its kin are for matrices like these
    def __init__(self, cls, **hypers):
        self.ps  = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in self.shapes]
        self.opt = cls(self.ps, foreach=False, **hypers)

    def step(self):
        "The model of a step, what is drawn in it, and the gradients with which it begins"
        model,grads = Model(self.shapes),[]
        def closure():
            self.opt.zero_grad()
            with torch.enable_grad(): loss = model.loss(self.ps)
            for p,g in zip(self.ps, torch.autograd.grad(loss, self.ps, create_graph=True)): p.grad = g
            grads.append([p.grad.detach().clone() for p in self.ps])
            return loss
        with Drawn() as drawn: self.opt.step(closure)
        return model,drawn.tensors,grads[0]

    def compare_step(self):
        "Make a step, and compare it with the formulas. False if their conditions do not hold"
        before  = [{n: s.clone() if isinstance(s, torch.Tensor) else s for n,s in self.opt.state[p].items()} | dict(p=p.detach().clone()) for p in self.ps]
        writer  = chain.writer_of(self.opt, 0)
        entries = {n: e for n,e in writer.entries.items() if e.expr.op=='symbol' and e.kind not in ('flag', 'model')}
        model,drawn,grads = self.step()
        world = World(self.shapes, model, drawn)
        for env,known,grad in zip(world.envs, before, grads):
            known |= dict(grad=grad)
            env.put({e.expr.args[0]: known.get(n, e.value) for n,e in entries.items()})
        for line in writer.run():
            if not world.holds(line): return False
            for _ in world.run(line): pass
        for env,p in zip(world.envs, self.ps): self.compare(env, p, writer.symbols.names)
        return True

    def compare(self, env, p, names):
        assert torch.allclose(env['p_t'], p.detach(), rtol=1e-9)
        for n,s in self.opt.state[p].items():
            text = next((t for t,m in names.items() if m==n and t.endswith('_t')), None)
            if text: assert torch.allclose(env[text], env.seen(s), rtol=1e-9, atol=1e-12), n


a,b,c = (ex.symbol(x, x!='c') for x in 'abc')
@pytest.mark.parametrize('e,want', [
    (ex.add(a, ex.neg(b)),                    'a - b'),
    (ex.sub(ex.num(1), ex.sub(ex.num(1), a)), 'a'),
    (ex.add(ex.num(1), a, ex.num(2)),         'a + 3'),
    (ex.mul(a, c, ex.num(2), a),              r'2 \, c \, a^{2}'),
    (ex.mul(ex.num(.5), ex.pow_(ex.num(.96), a)), r'0.5 \cdot 0.96^{a}'),
    (ex.mul(a, ex.add(b, c)),                 r'a \, \left(b + c\right)'),
    (ex.mul(a, ex.div(ex.num(1), ex.root(b))), r'\frac{a}{\sqrt{b}}'),
    (ex.div(ex.div(a, c), ex.add(b, c)),      r'\frac{a / c}{b + c}'),
    (ex.div(a, ex.mul(b, c)),                 r'\frac{a}{c \, b}'),
    (ex.sub(a, ex.sub(b, c)),                 'a - b + c'),
    (ex.mul(ex.num(-1), ex.add(a, b)),        '-a - b'),
    (ex.pow_(ex.pow_(a, ex.num(2)), ex.num(.5)), r'\sqrt{a^{2}}'),
    (ex.pow_(ex.add(a, b), ex.num(-2)),       r'\frac{1}{\left(a + b\right)^{2}}'),
    (ex.num(1e-8),                            '10^{-8}'),
    (ex.num(2.5e-7),                          r'2.5{\cdot}10^{-7}'),
    (ex.cases(ex.compare('>', a, b), a, a),   'a'),
], ids=lambda x: x if isinstance(x, str) else '')
def test_expressions(e, want): assert writing.tex(e)==want


