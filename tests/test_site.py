"""The site: formulas that are made from recordings, the pages, and a walk over all of them in a real browser, at the width of a desk and of a phone.

The walk needs `pip install -e '.[docs]'`, Chromium and its driver (Debian: chromium, chromium-driver); it is skipped where one is missing. Screenshots
are kept in build/screenshots. `SITE=folder` walks a site that is built already."""

import fcntl,http.server,io,math,os,re,shutil,subprocess,sys,threading
from functools import partial,reduce
from pathlib import Path
from urllib.parse import unquote,urldefrag,urljoin
import pytest
import torch
import genopt
from genopt import Optimizer,fastai,zeros
from genopt.contract.state import first
from genopt.tools import catalogue
from genopt.tools.cli import main
from genopt.tools.formula import chain,expressions as ex,formula,formula_of_block,kinds_of

root = Path(__file__).parent.parent


# -- Formulas --

def tex(opt): return {line.name: line.tex for line in formula(opt)}

m     = r'm_t = \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t'
v     = r'v_t = \beta_2 \, v_{t-1} + \left(1 - \beta_2\right) \, g_t^{2}'
adam  = r'u_t = \frac{m_t / \left(1 - \beta_1^{t}\right)}{\sqrt{v_t / \left(1 - \beta_2^{t}\right)} + \epsilon}'
move  = r'p_t = p_{t-1} - \eta \, u_t'
decay = r"p_{t-1}' = \left(1 - \eta \, \lambda\right) \, p_{t-1}"

@pytest.mark.parametrize('name,hypers,want', [                                  # as the papers have them
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
    ('DoG',     {},                                {'dog_rate': [r"r_t = \max\left(r_{t-1}, \text{dist}', \left(\text{start}' + 1\right) \, \text{reps\_rel}\right)",
                                                                 r"s_t = s_{t-1} + \text{sqr\_norm}'", r"\eta' = \frac{r_t \, \eta}{\sqrt{s_t + \epsilon}}"]}),
], ids=lambda x: x if isinstance(x, str) else '')
def test_formula_of_an_algorithm(name, hypers, want):
    found = tex(catalogue.make(name, **hypers))
    assert {n: found[n] for n,tex in want.items() if tex}=={n: tex for n,tex in want.items() if tex}
    assert all(found[n] and r'\operatorname' not in found[n][0] for n in want if want[n] is None)

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
    def skipping(grad, step): return grad if step>3 else grad*0
    line = formula_of_block(skipping)
    assert line.tex and line.when
    line = formula_of_block(genopt.blocks.newton_schulz)
    assert line.matrix and line.when==[r'\text{rows} \leq \text{columns}']
    line = formula_of_block(genopt.blocks.sharpness_aware)
    assert "sharpness_aware asks the model" in line.why and not line.tex

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
    ("update*max(update.shape)",                      r"\begin{cases} \text{rows} \, u & \text{if } \text{columns} \leq \text{rows} \\ \text{columns} \, u & \text{otherwise} \end{cases}"),
], ids=str)
def test_formula_of_what_takes_a_matrix(body, want):
    scope = {}
    exec(f"def own(update, left): return {body}", scope)
    line = formula_of_block(scope['own'], own_kinds())
    assert line.tex==["u' = " + want] and line.matrix and not line.when

def test_what_has_no_formula_says_why():
    def sorted_step(update): return update[:,update.sum(0).sort()[0].long()] + update.cumsum(0)
    assert 'calls' in formula_of_block(sorted_step).why and 'no formula' in formula_of_block(sorted_step).why
    def of_another_rank(update): return update.permute(2, 0, 1)
    assert formula_of_block(of_another_rank).why=='of_another_rank cannot be recorded on a matrix'

def own_kinds():
    kinds = kinds_of(genopt.Shampoo([torch.ones(3, 2, requires_grad=True)]))
    kinds.inits['own','left'] = kinds.inits['sum_shampoo_factors','left']
    return kinds

def test_formula_of_every_algorithm_and_block():
    kinds = kinds_of(*map(catalogue.make, genopt.algorithms.__all__))
    for n in genopt.algorithms.__all__:
        lines = formula(catalogue.make(n))
        assert lines[-1].tex or lines[-2].tex, n
        assert all(line.tex or line.why or line.name in ('debias', 'debias_mom3', 'growing_sqr_mom', 'root_of_sqr_mom') for line in lines), n
    written = [n for n in genopt.blocks.__all__ if not formula_of_block(getattr(genopt.blocks, n), kinds).why]
    assert len(written)>=140, len(written)

def value(e, env):
    "The number or tensor that an expression comes to"
    def of(x): return value(x, env)
    x = [of(a) if isinstance(a, ex.Expression) else a for a in e.args] if e.op not in ('add', 'symbol', 'num', 'iterated', 'function') else []
    match e.op:
        case 'num':     return torch.tensor(e.args[0], dtype=torch.float64)
        case 'symbol':  return torch.tensor(math.e, dtype=torch.float64) if e.args[0]=='e' else env[e.args[0]]
        case 'neg':     return -x[0]
        case 'add':     return sum(s*of(t) for s,t in e.args)
        case 'mul':     return math.prod(x[1:], start=x[0])
        case 'div':     return x[0]/x[1]
        case 'pow':     return x[0]**x[1]
        case 'root':    return x[0].sqrt()
        case 'norm':    return torch.linalg.vector_norm(x[0], x[1])
        case 'cases':   return torch.where(x[0].bool(), x[1], x[2])
        case 'matmul':    return reduce(torch.matmul, x)
        case 'transpose': return x[0].mT
        case 'function':
            vectors = torch.linalg.eigh(of(e.args[0]))[1]
            return vectors*of(e.args[1]) @ vectors.mT
        case 'iterated':
            start,count,body,series = e.args
            env = env | dict(X_k=of(start))
            for k in range(count):
                env |= {letter: torch.tensor(values[k], dtype=torch.float64) for letter,values in series}
                for sign,right in body: env[sign.args[0]] = value(right, env)
                env['X_k'] = env['X_{k+1}']
            return env['X_k']
        case 'compare':
            ops = {'>': torch.gt, r'\geq': torch.ge, '<': torch.lt, r'\leq': torch.le, '=': torch.eq, r'\neq': torch.ne,
                   r'\wedge': torch.logical_and, r'\vee': torch.logical_or}
            return ops[x[0]](x[1], x[2]).double()
    functions = {r'\max': torch.maximum, r'\min': torch.minimum, '|': torch.abs, '<': lambda a, b: (a*b).sum(), r'\log': torch.log, r'\log_2': torch.log2,
                 r'\operatorname{sign}': torch.sign, r'\operatorname{mean}': torch.mean, r'\operatorname{sum}': torch.sum, r'\operatorname{atan2}': torch.atan2,
                 r'\operatorname{clip}': torch.clamp}
    name,*args = x
    functions |= {r'\operatorname{eigvals}': torch.linalg.eigvalsh, r'\operatorname{eigvecs}': lambda a: torch.linalg.eigh(a)[1],
                  r'\operatorname{qr}': lambda a: torch.linalg.qr(a)[0], r'\operatorname{argsort}': lambda a: a.flatten().argsort(descending=True),
                  r'\operatorname{columns}': lambda a, o: a[:,o], r'\operatorname{rows}': lambda a, o: a[o], r'\odot': torch.mul,
                  r'\operatorname{mod}': torch.remainder}
    if m := re.fullmatch(r'\\operatorname{(\w+)}_{\\text{(row|column)}}', name):
        return dict(mean=torch.mean, sum=torch.sum, max=torch.amax, min=torch.amin)[m[1]](args[0], -1 if m[2]=='row' else -2, keepdim=True)
    if name in (r'\max', r'\min'): return reduce(functions[name], args) if len(args)>1 else (torch.amax if name==r'\max' else torch.amin)(args[0])
    return functions[name](*args)

def test_formulas_of_blocks_compute_what_the_blocks_do():
    "Each equation, evaluated with random numbers, is what the callback returns for these"
    kinds,checked,matrix = kinds_of(*map(catalogue.make, genopt.algorithms.__all__)),0,torch.ones(4, 6)
    for n in genopt.blocks.__all__:
        cb   = getattr(genopt.blocks, n)
        line = formula_of_block(cb, kinds)
        if line.why or n=='dtype_eps': continue
        torch.manual_seed(0)
        ns,env = {},{}
        for name in line.block.reads:
            default,init = line.block.hypers.get(name),line.block.state.get(name, zeros)
            if isinstance(default, (bool,str)) or line.when and default is not None: ns[name] = default      # a choice by it, which the line says
            elif name=='step': ns[name] = 3.
            elif default is not None or kinds.get(name)=='number' or name=='lr': ns[name] = torch.rand((), dtype=torch.float64).item()*.8 + .1
            elif kinds.get(name)=='flag': ns[name] = True
            elif line.matrix: ns[name] = awkward_matrix(first(init, matrix).shape if (init := line.block.state.get(name, kinds.inits.get((n, name)))) else (4, 6))
            else: ns[name] = torch.rand(() if 'scalar' in str(init) or kinds.get(name)=='single' else 6, dtype=torch.float64) + .2
        for text,name in line.names.items():
            if name in ns and not text.endswith("'"): env[text] = of_rows(torch.as_tensor(ns[name], dtype=torch.float64))
        if line.matrix:
            ns  |= dict(ns_dtype='float64') if 'ns_dtype' in ns else {}
            ns  |= next((dict(step=t) for t in (3, 10, 11, 100, 101) if conditions_hold(line, env | lengths(matrix) | dict(t=torch.tensor(t)))), {}) if 'step' in ns else {}
            env |= lengths(matrix) | (dict(t=torch.tensor(ns['step'], dtype=torch.float64)) if 'step' in ns else {})
        out = cb(**ns)
        out = out if isinstance(out, dict) else dict(update=out)
        for (left,),right in line.equations:
            env[left.args[0]] = res = value(right, env)
            name = line.names.get(left.args[0])
            if name in out:
                assert torch.allclose(res, of_rows(torch.as_tensor(out[name], dtype=torch.float64)), rtol=1e-9), (n, name)
                checked += 1
    assert checked>175, checked

def awkward_matrix(shape):
    "Random numbers of this shape; a square matrix is symmetric and positive definite"
    x = torch.rand(shape, dtype=torch.float64) + .2
    return x@x.T + torch.eye(len(x)) if x.ndim==2 and x.shape[0]==x.shape[1] else x

def of_rows(x): return x[:,None] if x.shape==(4,) else x                   # one number for each row, as a column
def lengths(p): return {rf'\text{{{n}}}': torch.tensor(float(k), dtype=torch.float64) for n,k in zip(('rows', 'columns'), p.shape)}
def conditions_hold(line, env): return all(value(c, env).bool() for c in line.conditions if c.op=='compare')

@pytest.mark.parametrize('name', genopt.algorithms.__all__)
def test_formulas_of_algorithms_compute_their_steps(name):
    "All equations of a chain in order, from the values in mid-training, come to the parameter after the step"
    torch.manual_seed(0)
    p = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    cls = getattr(genopt, name)
    try: opt = cls([p], **({'ns_dtype': 'float64'} if 'ns_dtype' in cls.arguments else {}))
    except ValueError: pytest.skip('takes no float64')
    if any(line.why for line in formula(opt)): pytest.skip('a callback is not written out')
    def step():
        p.grad = torch.randn(4, 6, dtype=torch.float64)
        opt.step()
    for _ in range(7): step()
    for _ in range(12):                                                     # until a step for which all conditions hold
        before  = torch.random.get_rng_state()
        grad    = torch.randn(4, 6, dtype=torch.float64)
        env,names = evaluated(opt, p, grad)
        torch.random.set_rng_state(before)
        step()
        if env: break
    assert env and torch.allclose(env['p_t'], p.detach(), rtol=1e-10)
    for n,s in opt.state[p].items():
        text = next((t for t,m in names.items() if m==n and t.endswith('_t')), None)
        if text: assert torch.allclose(env[text], of_rows(torch.as_tensor(s, dtype=torch.float64)), rtol=1e-10), n

def evaluated(opt, p, grad):
    "What the symbols come to in the next step, and the names that they stand for; None if a condition does not hold"
    writer = chain.writer_of(opt, 0)
    known  = opt.state[p] | dict(p=p.detach().clone(), grad=grad)
    env    = {e.expr.args[0]: of_rows(torch.as_tensor(known.get(n, e.value), dtype=torch.float64).clone()) for n,e in writer.entries.items()
              if e.expr.op=='symbol' and e.kind!='flag'} | lengths(p)
    for line in writer.run():
        if not conditions_hold(line, env): return None,None
        for (left,),right in line.equations: env[left.args[0]] = value(right, env)
    return env,writer.symbols.names

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
def test_expressions(e, want): assert ex.tex(e)==want


# -- Pages by hand --

def cells(path):
    "The code in the last column of the tables of a page"
    for line in (root/path).read_text(encoding='utf-8').splitlines():
        if line.startswith('| ') and '|---' not in line:
            yield from re.findall(r'`([^`]+)`', line.rstrip(' |').rsplit(' | ', 1)[1])

def test_what_the_cheat_sheet_shows_runs():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    scope = vars(genopt) | {n: getattr(genopt.blocks, n) for n in genopt.blocks.__all__} | dict(genopt=genopt, model=model, ranger=fastai.ranger)
    def closure():
        model.zero_grad()
        loss = sum((p-1).square().sum() for p in model.parameters())
        loss.backward()
        return loss
    ran = 0
    for code in cells('docs/coming_from.md'):
        if not re.match(r'[A-Za-z_]+\(', code): continue                                            # a name, or what is called on an optimizer
        matrices = re.match(r'SOAP|Kron', code)
        made = eval(code, scope | dict(params=[model[0].weight] if matrices else [*model.parameters()]))
        if isinstance(made, torch.optim.Optimizer): made.step(closure)
        ran += 1
    assert ran>30

def test_code_about_checkpoints_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', (root/'docs/checkpoints.md').read_text(encoding='utf-8'), re.S)
    scope = {}
    for code in blocks: exec(compile(code, 'checkpoints.md', 'exec'), scope)
    assert scope['step']==100 and len(blocks)==4

def test_names_in_backticks_become_links():
    hook = pytest.importorskip('genopt.tools.site.hook', reason='needs the docs extra', exc_type=ImportError)
    def linked(text): return hook.with_links_of_names(text, 'choose.md')
    assert linked('`Adam`, `debias`, `zeros`')=='[`Adam`](catalogue/Adam.md), [`debias`](blocks/debias.md), `zeros`'
    same = '# `Adam`\n\n[`Adam`](x.md)\n\n```python\n`Adam`\n```\n\n    `Adam`\n'
    assert linked(same)==same and hook.with_links_of_names('`Adam`', 'catalogue/Adam.md')=='`Adam`'

def test_the_catalogue_is_one_file_and_two_pages():
    from genopt.tools.site.repository import Repository
    pages = Repository(root).made_pages()
    assert '| `Adam` |' in pages['catalogue/index.md'] and '| `adam_step` |' not in pages['catalogue/index.md']
    assert '| `adam_step` |' in pages['blocks/index.md'] and '[blocks](../blocks/index.md)' in pages['catalogue/index.md']


def test_math_is_mathml_and_its_font_has_what_it_needs():
    pytest.importorskip('latex2mathml')
    html = pytest.importorskip('genopt.tools.site.html', exc_type=ImportError)
    from fontTools.ttLib import TTFont
    res = html.math(r"\sqrt{\operatorname{newton\_schulz} u_t''} + \lVert \eta \rVert")
    assert '<msqrt>' in res and '<mtext>newton_schulz</mtext>' in res and res.count('stretchy="false"')==2
    with pytest.raises(ValueError, match='not converted'): html.math(r'\nosuchthing{x}')
    font = TTFont(io.BytesIO(html.font()))
    assert 'MATH' in font and {ord(c) for c in '√η'}<=font.getBestCmap().keys()

def test_row_of_the_trials_is_shown():
    pytest.importorskip('latex2mathml')
    from genopt.tools.site import trials
    of_one = {'SGD': dict(results=dict(ill=[dict(seeds='00000054'), dict(seeds='0000000')])), 'SGD(momentum=0.9)': dict(results=dict(gone=[dict(refused='no')])),
              'Lion': dict(results={})}
    tried  = dict(rates=[.001], seeds=5, needed=4, rows=of_one, tasks=dict(ill=dict(reason='scales', degrees=[1, 2]), gone=dict(reason='x', degrees=[1])))
    text   = '\n'.join(trials.rows_of('SGD', tried))
    assert '| ill | scales | 1 of 2 | 0.1 to 0.3 |' in text and '| gone | x | refused |  |' in text and '### SGD(momentum=0.9)' in text
    assert [*trials.rows_of('Adam', tried)]==[*trials.rows_of('Lion', tried)]==['It has not been tried yet.']

def test_site_is_built_in_a_clone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['site'])==2 and 'run this in a clone' in capsys.readouterr().err

def test_links_of_the_repository_lead_to_pages():
    from genopt.tools.site.repository import Repository
    repo = Repository(root)
    def turned(text): return repo.rehome(text, 'CONTRIBUTING.md')
    assert turned('[page](docs/catalogue.md#the-blocks)')=='[page](blocks/index.md)' and turned('[a](docs/catalogue.md#Adam)')=='[a](catalogue/Adam.md)'
    assert turned('[b](nbs/02_contract.ipynb#Coming-from-fastai)')=='[b](tutorials/02_contract.ipynb#coming-from-fastai)'
    assert turned('[goals.py](benchmarks/goals.py)')=='`goals.py`' and turned('[x](https://a.org/b)')=='[x](https://a.org/b)'
    assert turned('![g](benchmarks/gpu.png), [G](benchmarks/GPU.md#goals)')=='![g](images/gpu.png), [G](gpu.md#goals)'
    assert turned('![p](nbs/images/compare.png)')=='![p](images/compare.png)' and turned('[up](README.md)')=='[up](index.md)'
    assert repo.rehome('[a](catalogue.md#the-blocks), [b](blocks/adam_step.md)', 'docs/choose.md')=='[a](blocks/index.md), [b](blocks/adam_step.md)'


# -- The site --

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The folder of the built site; processes of pytest-xdist build it once"
    if 'SITE' in os.environ: return Path(os.environ['SITE'])
    for module in ('mkdocs', 'mkdocs_jupyter', 'mkdocstrings', 'latex2mathml', 'ziamath'): pytest.importorskip(module)
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base
    with open(base/'site.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base/'built').exists():
            res = subprocess.run([sys.executable, '-m', 'genopt', 'site', '--out', base/'site'], cwd=root, capture_output=True, text=True)
            (base/'built').write_text(res.stdout+res.stderr if res.returncode else '')
    assert not (base/'built').read_text(), (base/'built').read_text()
    return base/'site'

def pages(site): return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if p.name!='404.html')

@pytest.mark.slow
def test_every_link_leads_somewhere(site):
    "to a page that is there, and to an anchor that it has; nothing is loaded from another host"
    text = {p: (site/p).read_text(encoding='utf-8') for p in pages(site)}
    ids  = {p: {*re.findall(r'\bid="?([^"\s>]+)', t)} for p,t in text.items()}
    assert len(text)>220
    broken,foreign = [],[]
    for p,t in text.items():
        loaded = re.findall(r'<(?:script|img|iframe|source)\b[^>]*?\bsrc="?([^"\s>]+)', t) + re.findall(r'<link\b[^>]*?rel="?(?:stylesheet|icon)[^>]*?href="?([^"\s>]+)', t)
        foreign += [(p, u) for u in loaded if re.match(r'(https?:)?//', u)]
        for link in {*loaded, *re.findall(r'<a\b[^>]*?\bhref="?([^"\s>]+)', t)}:
            if re.match(r'[a-z]+:|//', link): continue
            target,anchor = urldefrag(urljoin('/'+p, unquote(link)))
            target = target.lstrip('/') + ('index.html' if target.endswith('/') else '')
            if not (site/target).is_file() or anchor and target in ids and anchor not in ids[target] and anchor!='__codelineno': broken.append((p, link))
    assert not foreign
    assert not broken

@pytest.mark.slow
def test_llms_txt_names_pages_that_are_there(site):
    links = re.findall(r'\]\(([^)]*)\)', (site/'llms.txt').read_text())
    assert len(links)>220 and all((site/link/'index.html').is_file() for link in links)


# -- In a browser --

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='module')
def address(site):
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='module')
def browser():
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium,driver = (shutil.which(n) for n in ('chromium', 'chromedriver'))
    if not chromium or not driver: pytest.skip('needs Chromium and its driver')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--hide-scrollbars', '--force-device-scale-factor=1',
                 '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1'): options.add_argument(flag)      # another host is an error
    options.set_capability('goog:loggingPrefs', dict(browser='ALL'))
    options.page_load_strategy = 'normal'
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as chrome: yield chrome

look = """
const found = [], width = window.innerWidth, content = document.querySelector('.md-content') || document.body;
for (const img of content.querySelectorAll('img')) if (!img.complete || !img.naturalWidth) found.push('missing picture ' + img.src);
if (document.documentElement.scrollWidth > width + 1) {
  const wide = [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > width + 1 && getComputedStyle(e).position != 'fixed');
  found.push('wider than the window: ' + document.documentElement.scrollWidth + ' ' + wide.slice(0, 3).map(e => e.tagName + '.' + e.className).join(', '));
}
const scrolls = e => { for (; e && e != document.body; e = e.parentElement) if (/auto|scroll/.test(getComputedStyle(e).overflowX)) return true; return false; };
for (const t of content.querySelectorAll('table, pre, math[display=block]'))
  if (t.getBoundingClientRect().right > width + 1 && !scrolls(t)) found.push('overflows: ' + t.tagName + ' ' + t.textContent.slice(0, 60));
for (const m of content.querySelectorAll('math')) {
  const box = m.getBoundingClientRect();
  if (m.checkVisibility() && (box.width < 1 || box.height < 1)) found.push('empty formula ' + m.textContent);
  if (m.querySelector('merror') || /\\\\/.test(m.textContent)) found.push('not converted: ' + m.textContent);
}
const walker = document.createTreeWalker(content, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode;
  if (text.parentElement.closest('pre, code, script, style, math, annotation')) continue;
  if (/\\\\(frac|beta|left|text|sqrt)|\\$\\$|\\\\\\(|\\[\\[\\w+\\]\\]|\\{\\{/.test(text.data)) found.push('raw: ' + text.data.slice(0, 80));
}
return found;
"""

sizes = {'desk': (1280, 900, False), 'phone': (390, 844, True)}
shown_dark = 'index.html', 'catalogue/index.html', 'catalogue/AdamW/index.html', 'tutorials/01_adam_and_friends/index.html', 'blocks/adam_step/index.html', 'choose/index.html'

def resize(browser, size, height=None):
    width,usual,mobile = sizes[size]
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', dict(width=width, height=height or usual, deviceScaleFactor=1, mobile=mobile))

def show(browser, address, page, dark=False, sizes=sizes):
    "Open a page, look at it in these sizes, keep screenshots, and return what is wrong with it"
    found = []
    resize(browser, 'desk')
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[dict(name='prefers-color-scheme', value='dark' if dark else 'light')]))
    browser.execute_cdp_cmd('Storage.clearDataForOrigin', dict(origin=address, storageTypes='all'))      # the theme remembers light and dark
    browser.get(address+page)
    for size in sizes:
        resize(browser, size)
        found += [f'{page}, {size}: {f}' for f in browser.execute_script(look)]
        shot = root/'build'/'screenshots'/f"{size}{'-dark' if dark else ''}"/f"{page.removesuffix('/index.html').replace('/', '-')}.png"
        shot.parent.mkdir(parents=True, exist_ok=True)
        resize(browser, size, min(browser.execute_script('return document.documentElement.scrollHeight'), 6000))
        browser.save_screenshot(str(shot))
    return found + [f"{page}: {e['message']}" for e in browser.get_log('browser') if e['level'] in ('SEVERE', 'WARNING')]

@pytest.mark.slow
def test_every_page_in_a_browser(site, address, browser):
    found = [f for page in pages(site) for f in show(browser, address, page)]
    assert not found, '\n'.join(found)

@pytest.mark.slow
@pytest.mark.parametrize('page', shown_dark)
def test_pages_in_the_dark(address, browser, page):
    assert not show(browser, address, page, dark=True)
    def color(what, of): return browser.execute_script(f"return getComputedStyle(document.querySelector('{of}')).{what}.match(/\\d+/g).map(Number)")
    assert sum(color('backgroundColor', 'body')[:3])<200 and sum(color('color', '.md-content h1')[:3])>350

@pytest.mark.slow
def test_search_finds(address, browser):
    browser.get(address)
    index = browser.execute_async_script("const done = arguments[0]; fetch('search/search_index.json').then(r => r.json()).then(j => done(j.docs.map(d => d.title)))")
    assert {'AdamW', 'newton_schulz', 'The catalogue'}<={*index}

@pytest.mark.slow
def test_the_walk_sees_faults(tmp_path, browser):
    "A page with one fault of each kind"
    (tmp_path/'index.html').write_text("<body><div class='md-content'><img src='no.png'><table><tr><td style='min-width:3000px'>wide</td></tr></table>"
                                       r"<p>\frac{a}{b}</p><math><mi>\foo</mi></math><script>console.error('told'); missing()</script></div>")
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = '\n'.join(show(browser, f'http://127.0.0.1:{server.server_port}/', 'index.html'))
    server.shutdown()
    for fault in ('missing picture', 'wider than the window', 'overflows', 'raw', 'not converted', 'told', 'missing is not defined', '404'): assert fault in found, fault
