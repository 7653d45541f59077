"""Matrices: blocks that take a parameter as a matrix, with factored second moments, orthogonal updates, and preconditioners of both sides. From
simple to complex.

A parameter of more than two dimensions, such as a convolution's weight, counts as the matrix of its first dimension and of all others together.
Symbols as in `stats`; the gradient G is a matrix of m rows and n columns, and `X'` is the transpose of X."""

import math
from functools import cache,reduce
import torch
from ..contract import Init,Range,count,exact,fraction,nonneg,positive
from .stats import average
from .transforms import rms

__all__ = ['growing_sqr_mom', 'average_sqr_factors', 'dtype_eps', 'factored_step', 'average_padded_sqr_factors', 'padded_factored_step',
           'average_residual_factors', 'came_step', 'sm3_sqr_sum', 'adagrad_eps_root_step', 'newton_schulz', 'polar_express', 'scale_by_shape',
           'average_sqr_rows', 'normalize_rows', 'linear_minimization_oracle', 'sum_shampoo_factors', 'average_shampoo_factors',
           'shampoo_inverse_roots', 'shampoo_precondition', 'soap_first_step', 'rotate_to_eigenbasis', 'rotate_from_eigenbasis',
           'update_eigenbasis', 'psgd_update_schedule', 'gaussian_probe', 'psgd_balance_factors', 'psgd_update_factors', 'psgd_precondition']


def as_matrix(x):
    "`x` as the matrix of its first dimension and of all others together. Which parameters to take so, `genopt.matrices` decides"
    if x.ndim<2: raise ValueError("it takes matrices; let genopt.matrices find them, and give the other parameters to AdamW: "
                                  "Optimizer(groups(model, {matrices: dict(cbs=Muon), '*': dict(cbs=AdamW)}))")
    return x.flatten(1)


# -- The second moment in two factors --

def _per_row(p): return p.new_zeros(*p.shape[:-1], 1) if p.ndim>1 else torch.zeros_like(p)
def _per_col(p): return p.new_zeros(*p.shape[:-2], 1, p.shape[-1]) if p.ndim>1 else p.new_zeros(0)
per_row,per_col = Init(_per_row),Init(_per_col)                   # a vector has a row for each element, and no columns

def growing_sqr_mom(step, beta2_decay:Range('(-inf,0]')=-0.8):
    """Raises the decay rate with the steps, so that the average needs no bias correction: `sqr_mom = 1 - t^beta2_decay`. On the host. Adafactor,
    Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, section 7.2"""
    return dict(sqr_mom = 1 - step**beta2_decay)

def average_sqr_factors(grad, sqr_mom:fraction, row_avg=per_row, col_avg=per_col):
    """Averages the squared gradients of each row and of each column, over the last two dimensions: `r <- sqr_mom*r + (1-sqr_mom)*mean_row(g^2)`, and
    `c` likewise. Of a vector, `r` is the second moment itself. State: `row_avg`, one number for each row, and `col_avg`, one for each column.
    Adafactor, Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235"""
    return dict(zip(('row_avg', 'col_avg'), factor_averages(grad*grad, sqr_mom, row_avg, col_avg)))

def factor_averages(sqr, mom, row_avg, col_avg):
    if sqr.ndim<2: return average(row_avg, sqr, mom),col_avg
    return [average(avg, sqr.mean(dim, keepdim=True), mom) for avg,dim in ((row_avg, -1), (col_avg, -2))]

def dtype_eps(grad):
    "Sets eps to the machine epsilon of the dtype in which the step is computed: `eps <- finfo(dtype).eps`. As torch.optim.Adafactor."
    return dict(eps=torch.finfo(grad.dtype).eps)

def factored_step(grad, row_avg, col_avg, eps:nonneg=1e-8):
    """Divides the gradient by the root of the factored second moment: `g / max(sqrt(r*c/max(mean(r), eps)), eps)`. `eps` is where torch has it.
    Adafactor, Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235"""
    v = row_avg*(col_avg/row_avg.mean(-2, keepdim=True).clamp(min=eps)) if grad.ndim>1 else row_avg
    return grad*v.clamp(min=eps*eps).rsqrt()

def average_padded_sqr_factors(grad, sqr_mom:fraction, eps:nonneg=1e-30, row_avg=per_row, col_avg=per_col):
    """Averages the squared gradients of each row and of each column, with eps added to the squares: `r <- sqr_mom*r + (1-sqr_mom)*mean_row(g^2 +
    eps)`, and `c` likewise. `eps` is where the paper has it. State: `row_avg` and `col_avg`, as in `average_sqr_factors`. Adafactor, Shazeer and
    Stern 2018, https://arxiv.org/abs/1804.04235, algorithm 4"""
    return dict(zip(('row_avg', 'col_avg'), factor_averages(grad*grad + eps, sqr_mom, row_avg, col_avg)))

def padded_factored_step(grad, row_avg, col_avg):
    """Divides the gradient by the root of a factored second moment that is never 0: `g / sqrt(r*c/mean(r))`. Adafactor, Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235, algorithm 4"""
    return grad*rsqrt_of_factors(row_avg, col_avg)

def rsqrt_of_factors(row_avg, col_avg):
    return (row_avg/row_avg.mean(-2, keepdim=True)).rsqrt()*col_avg.rsqrt() if row_avg.ndim>1 else row_avg.rsqrt()

def average_residual_factors(update, update_avg, mom3:fraction=0.9999, eps2:nonneg=1e-16, residual_row_avg=per_row, residual_col_avg=per_col):
    """Averages the squared distance of updates from their average, in two factors: `r <- mom3*r + (1-mom3)*mean_row((u - m)^2 + eps2)`, and `c`
    likewise. m is the average of the updates. State: `residual_row_avg`, one number for each row, and `residual_col_avg`, one for each column. CAME,
    Luo et al. 2023, https://arxiv.org/abs/2307.02047"""
    sqr = (update-update_avg).square() + eps2
    return dict(zip(('residual_row_avg', 'residual_col_avg'), factor_averages(sqr, mom3, residual_row_avg, residual_col_avg)))

def came_step(update_avg, residual_row_avg, residual_col_avg):
    """Divides the average update by the root of the factored residual: `m / sqrt(r*c/mean(r))`. Steady updates thus become longer. The update of a
    vector is `m`. CAME, Luo et al. 2023, https://arxiv.org/abs/2307.02047"""
    return update_avg*rsqrt_of_factors(residual_row_avg, residual_col_avg) if update_avg.ndim>1 else update_avg

def _per_slice(p): return p.new_zeros(sum(p.shape) if p.ndim else 1)
per_slice = Init(_per_slice)

def sm3_sqr_sum(grad, beta:fraction=0., cover=per_slice):
    """Bounds the sum of squares of each element by the least of the sums that its slices keep: `v = min(cover) + g^2; cover <- max_slice(v)`. A slice
    is one index of one dimension, such as a row or a column. `beta` turns the sums into averages. State: `cover`, one number for each slice. SM3-II,
    Anil et al. 2019, https://arxiv.org/abs/1901.11150"""
    dims  = range(grad.ndim)
    parts = [c.view([-1 if i==d else 1 for i in dims]) for d,c in zip(dims, cover.split(grad.shape or [1]))] or [cover.view(())]
    v     = (reduce(torch.minimum, parts)*(beta or 1)).addcmul(grad, grad, value=1-beta)
    new   = torch.cat([v.amax([i for i in dims if i!=d]) if grad.ndim>1 else v.reshape(-1) for d in dims or [0]])
    return dict(sqr_sum=v, cover=torch.maximum(cover, new) if beta else new)

def adagrad_eps_root_step(grad, sqr_sum, eps:nonneg=1e-30):
    """Divides the gradient by the root of the sum of its squares, with `eps` inside the root: `g / sqrt(v + eps)`. SM3, Anil et al. 2019,
    https://arxiv.org/abs/1901.11150"""
    return grad*(sqr_sum + eps).rsqrt()


# -- Orthogonal updates --

class AddProduct(torch.autograd.Function):
    """`beta*x + alpha*(a @ b)`, rounded once. For a stack of matrices torch's own `vmap` rounds the product as well. So a stack would have other
    numbers than its members, and would take twice as long"""
    @staticmethod
    def forward(x, a, b, beta, alpha): return torch.addmm(x, a, b, beta=beta, alpha=alpha)
    @staticmethod
    def setup_context(ctx, inputs, output): pass
    @staticmethod
    def vmap(info, in_dims, *args):
        x,a,b = [t.movedim(d, 0) for t,d in zip(args[:3], in_dims)]
        beta,alpha = args[3:]
        return torch.baddbmm(x, a, b, beta=beta, alpha=alpha),0

def orthogonal(x, polynomials, eps, dtype, safety=None):
    """About the orthogonal factor `U V'` of `x = U S V'`. The singular values start at 1 or below. Each polynomial maps them, `s <- a*s + b*s^3 +
    c*s^5`, and brings them nearer to 1. Products are in `dtype`, which may be one where they are cheap. The operations are in torch's order, but a
    tall matrix is not transposed: its Gram matrix `X'X` is multiplied from the right"""
    dtype = getattr(torch, dtype)
    m     = as_matrix(x).to(dtype)
    wide  = m.shape[0]<=m.shape[1]
    norm  = m.norm()*safety if safety else m.norm()
    m     = m / norm.clamp(min=eps)
    for a,b,c in polynomials:
        gram   = m @ m.T if wide else m.T @ m
        factor = AddProduct.apply(gram, gram, gram, b, c)
        m      = AddProduct.apply(m, factor, m, a, 1.) if wide else AddProduct.apply(m, m, factor, a, 1.)
    return m.to(x.dtype).reshape(x.shape)

@cache
def newton_schulz_with(a, b, c):
    "The block `newton_schulz` with the coefficients of `s`, `s^3` and `s^5`"
    def newton_schulz(update, ns_steps=5, eps:nonneg=1e-7, ns_dtype='bfloat16'):
        """Replaces the update by the nearest orthogonal matrix, approximately: `X <- a*X + (b*A + c*A^2)*X` with `A = X X'`, `ns_steps` times from
        `u/|u|`. The singular values end up between 0.7 and 1.2. Muon, Jordan 2024, https://kellerjordan.github.io/posts/muon"""
        return orthogonal(update, ((a, b, c),)*ns_steps, eps, ns_dtype)
    newton_schulz.__qualname__ = 'newton_schulz'
    return newton_schulz

newton_schulz = newton_schulz_with(3.4445, -4.7750, 2.0315)

fast_polynomials = ((8.28721201814563, -23.595886519098837, 17.300387312530933), (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                    (3.9486908534822946, -2.908902115962949, 0.5518191394370137), (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                    (2.300652019954817, -1.6689039845747493, 0.4188073119525673), (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248))
fast_polynomials = *((a/1.01, b/1.01**3, c/1.01**5) for a,b,c in fast_polynomials),       # the paper's safety factor against rounding

def polar_express(update, ns_steps=5, eps:nonneg=1e-7, ns_dtype='bfloat16'):
    """Replaces the update by the nearest orthogonal matrix, approximately, with the best polynomial for each step, from `u/(1.01*|u|)`. The steps
    converge; in the limit they are `15/8*s - 5/4*s^3 + 3/8*s^5`. Amsel et al. 2025, https://arxiv.org/abs/2505.16932"""
    polynomials = fast_polynomials[:ns_steps] + ((1.875, -1.25, 0.375),)*(ns_steps-len(fast_polynomials))
    return orthogonal(update, polynomials, eps, ns_dtype, safety=1.01)

def scale_by_shape(update, adjust_lr_fn='original'):
    """Scales an orthogonal update of m rows and n columns, so that one learning rate suits all shapes: `u * sqrt(max(1, m/n))`, `u * 0.2*sqrt(max(m,
    n))` or `u * sqrt(m/n)`. `adjust_lr_fn` chooses: `'original'`, Jordan 2024, https://kellerjordan.github.io/posts/muon; `'match_rms_adamw'`, Liu et
    al. 2025, https://arxiv.org/abs/2502.16982; `'spectral_unclamped'`, Bernstein 2025, https://jeremybernste.in/writing/deriving-muon"""
    m,n = as_matrix(update).shape
    if adjust_lr_fn=='match_rms_adamw':           return update*(0.2*max(m, n)**0.5)
    if adjust_lr_fn=='spectral_unclamped':        return update*(m/n)**0.5
    if adjust_lr_fn in ('original', None, False): return update*(m/n)**0.5 if m>n else update
    raise ValueError(f"adjust_lr_fn must be 'original', 'match_rms_adamw' or 'spectral_unclamped'; got {adjust_lr_fn!r}")

def _per_output(p): return p.new_zeros(p.shape[:1])
per_output = Init(_per_output)

def average_sqr_rows(update, sqr_mom:fraction=0.95, row_avg=per_output):
    """Averages the squared update of each row: `r <- sqr_mom*r + (1-sqr_mom)*mean_row(u^2)`. State: `row_avg`, one number for each row. NorMuon, Li
    et al. 2025, https://arxiv.org/abs/2510.05491"""
    return dict(row_avg = average(row_avg, as_matrix(update).square().mean(1), sqr_mom))

def normalize_rows(update, row_avg, eps:nonneg=1e-10):
    """Divides each row of the update by its root mean square: `u / (sqrt(r) + eps)`. All outputs of a layer then learn at the same speed. NorMuon, Li
    et al. 2025, https://arxiv.org/abs/2510.05491"""
    return (as_matrix(update) / (row_avg.sqrt() + eps)[:,None]).reshape(update.shape)

def linear_minimization_oracle(update, norm='auto', scale:positive=1., eps:nonneg=1e-8, ns_steps=5, ns_eps:nonneg=1e-7, ns_dtype='bfloat16'):
    """Finds the steepest step of norm `scale`: `scale*sqrt(m/n)/k * U V'`, `scale * u/rms(u)` or `scale/n * sign(u)`. `norm` chooses: `'spectral'`,
    with m outputs, n inputs and a kernel of k places; `'rms'`; or `'sign'`, for a last layer. `'auto'` is spectral, and rms for vectors. Scion,
    Pethick et al. 2025, https://arxiv.org/abs/2502.07529, table 2"""
    if norm=='auto': norm = 'spectral' if update.ndim>1 else 'rms'
    if norm=='rms':  return update*scale / (rms(update) + eps)
    if norm=='sign': return update.sign()*scale / update.shape[1]
    if norm!='spectral': raise ValueError(f"norm must be 'auto', 'spectral', 'rms' or 'sign'; got {norm!r}")
    m,n,*kernel = update.shape
    return newton_schulz(update, ns_steps, ns_eps, ns_dtype)*scale * ((m/n)**0.5/math.prod(kernel))


# -- Preconditioners of both sides --

longest = 10_000                                                  # a longer side has no factor

def _square(p, side, least=2):
    "Zeros for each pair of elements of one side of `p`. None if `p` has less than `least` dimensions, or if the side is too long"
    length = [*(as_matrix(p).shape if p.ndim>1 else p.shape), 0, 0][side] if p.ndim>=least else 0
    return p.new_zeros((length, length) if length<=longest else (0, 0))
left_side,right_side,left_or_whole = map(exact, (Init(_square, 0), Init(_square, 1), Init(_square, 0, 1)))

def between(left, x, right):
    "`left x right`, with `x` as a matrix. An empty side is left out"
    y = as_matrix(x) if x.ndim>1 else x
    y = left @ y if left.numel() else y
    return (y @ right if right.numel() else y).reshape(x.shape)

def gram_matrices(grad, left, right):
    "`G G'` and `G' G`, for each side that is not empty"
    g = as_matrix(grad) if grad.ndim>1 else grad.reshape(-1, 1)
    return g @ g.T if left.numel() else left,g.T @ g if right.numel() else right

def sum_shampoo_factors(grad, left=left_or_whole, right=right_side):
    """Sums the Gram matrices of the gradient, Shampoo's factors: `L <- L + G G'`, `R <- R + G' G`. State: `left`, m x m, and `right`, n x n. A side
    of more than 10000 elements has no factor. A vector has `left` alone. Gupta et al. 2018, https://arxiv.org/abs/1802.09568"""
    l,r = gram_matrices(grad, left, right)
    return dict(left=left+l, right=right+r)

def average_shampoo_factors(grad, gram_mom:fraction=0.95, left=left_side, right=right_side):
    """Averages the Gram matrices of the gradient, Shampoo's factors: `L <- gram_mom*L + (1-gram_mom)*G G'`, and `R` likewise. State: `left`, m x m,
    and `right`, n x n. A side of more than 10000 elements, and a vector, have no factor. SOAP, Vyas et al. 2024, https://arxiv.org/abs/2409.11321"""
    l,r = gram_matrices(grad, left, right)
    return dict(left=average(left, l, gram_mom), right=average(right, r, gram_mom))

def inverse_root(x, eps, root):
    "`(x + eps)^(-1/root)` of a positive semidefinite matrix"
    if not x.numel(): return x
    values,vectors = torch.linalg.eigh(x)
    return vectors*(values.clamp(min=0) + eps)**(-1/root) @ vectors.T

def shampoo_inverse_roots(left, right, step, precondition_frequency:positive=1, eps:nonneg=1e-6, left_root=left_or_whole, right_root=right_side):
    """Computes the inverse roots of Shampoo's factors: `(L + eps)^(-1/4)` and `(R + eps)^(-1/4)`, or `(L + eps)^(-1/2)` for a vector. It does so
    every `precondition_frequency` steps. For a vector, this is Adagrad with the full matrix. State: `left_root` and `right_root`, of the factors'
    shapes. Gupta et al. 2018, https://arxiv.org/abs/1802.09568"""
    if (step-1)%precondition_frequency: return dict(left_root=left_root, right_root=right_root)
    root = 4 if right.numel() else 2
    return dict(left_root=inverse_root(left, eps, root), right_root=inverse_root(right, eps, root))

def shampoo_precondition(update, left_root, right_root):
    "Multiplies the update by the inverse roots of Shampoo's factors: `u <- L^(-1/4) u R^(-1/4)`. Gupta et al. 2018, https://arxiv.org/abs/1802.09568"
    return between(left_root, update, right_root)

def soap_first_step(grad, step, lr):
    """Uses the first gradient for the eigenbasis alone, without a move and without averages. `turn` counts the steps after it. SOAP, Vyas et al.
    2024, https://arxiv.org/abs/2409.11321, as in the authors' code"""
    return dict(grad=torch.zeros_like(grad), lr=0., turn=1) if step==1 else dict(grad=grad, lr=lr, turn=step-1)

def rotate_to_eigenbasis(grad, left_basis=left_side, right_basis=right_side):
    """Rotates the gradient into the eigenbasis of Shampoo's factors: `Q_L' G Q_R`. State: `left_basis`, m x m, and `right_basis`, n x n. SOAP, Vyas
    et al. 2024, https://arxiv.org/abs/2409.11321"""
    return dict(rotated=between(left_basis.mT, grad, right_basis))

def rotate_from_eigenbasis(update, left_basis, right_basis):
    "Rotates the update back from the eigenbasis of Shampoo's factors: `u <- Q_L u Q_R'`. SOAP, Vyas et al. 2024, https://arxiv.org/abs/2409.11321"
    return between(left_basis, update, right_basis.mT)

def eigenbasis(x): return torch.linalg.eigh(x)[1].flip(1) if x.numel() else x

def turned(x, basis):
    "A step of power iteration from `basis` towards the eigenvectors of `x`, those of large eigenvalues first, and the order of the columns"
    y = x @ basis
    order = (basis*y).sum(0).argsort(descending=True)
    return torch.linalg.qr(y[:,order])[0],order

def update_eigenbasis(left, right, left_basis, right_basis, sqr_avg, step, precondition_frequency:positive=10):
    """Updates the eigenbasis of Shampoo's factors by a step of power iteration: `Q <- qr(L Q)`. It does so every `precondition_frequency` steps; at
    the first step, `eigh` computes the basis. Eigenvectors are in the order of their eigenvalues, and the block puts v in the same order. If an
    eigenvalue occurs several times, such as 0 for a tall first gradient, rounding determines its eigenvectors. SOAP, Vyas et al. 2024,
    https://arxiv.org/abs/2409.11321, algorithm 4"""
    if step==1: return dict(left_basis=eigenbasis(left), right_basis=eigenbasis(right), sqr_avg=sqr_avg)
    if (step-1)%precondition_frequency: return dict(left_basis=left_basis, right_basis=right_basis, sqr_avg=sqr_avg)
    v = as_matrix(sqr_avg) if sqr_avg.ndim>1 else sqr_avg
    if left.numel():
        left_basis,order = turned(left, left_basis)
        v = v[order]
    if right.numel():
        right_basis,order = turned(right, right_basis)
        v = v[:,order]
    return dict(left_basis=left_basis, right_basis=right_basis, sqr_avg=v.reshape(sqr_avg.shape))


# -- Factors that are fitted --

def _identity(p, side):
    "The identity for one side of a matrix. Ones, its diagonal, for a side of length 1, for one that is too long, and for a vector"
    if side>=max(p.ndim, 1): return p.new_zeros(0)
    n = (as_matrix(p).shape if p.ndim>1 else [p.numel()])[side]
    return torch.eye(n, dtype=p.dtype, device=p.device) if p.ndim>1 and 1<n<=longest else p.new_ones(n)
left_identity,right_identity = exact(Init(_identity, 0)),exact(Init(_identity, 1))

def psgd_update_schedule(step, min_probability:Range('(0,1]')=0.03, flat_steps:nonneg=500, anneal:nonneg=1e-3, waited=count):
    """Decides whether this step updates the factors, which it does every 1/prob steps: `prob = max(min_probability, exp(-anneal*(t-1-flat_steps)))`.
    It is 1 for the first `flat_steps` steps. On the host. State: `waited`, a number. https://github.com/evanatyourservice/kron_torch"""
    prob = min(1., max(min_probability, math.exp(-anneal*max(0, step-1-flat_steps))))
    fit  = waited+1 >= 1/prob
    return dict(fit=fit, waited=0 if fit else waited+1)

def gaussian_probe(grad, step):
    """Makes a vector that looks drawn from N(0, 1), as a function of the step and of each element's position. It is the same in each process, in each
    way to run, and after a checkpoint. The block hashes counters, and makes them normal as Box and Muller 1958,
    https://doi.org/10.1214/aoms/1177706645"""
    place = torch.arange(grad.numel(), device=grad.device).reshape(grad.shape)
    seed  = (grad.new_zeros(()) + step).to(torch.int64)*2              # not hashed itself: a compiler may write out `x` at each use, then 16 times 16
    u,v   = [(hashed(place ^ ((seed+i)*0x9e3779b1 & (2**31-1))).to(grad.dtype) + .5)/2**31 for i in (0, 1)]
    return dict(probe = (u.log()*-2).sqrt() * (v*(2*math.pi)).cos())

def hashed(x):
    "Hashes of whole numbers, from 0 to 2^31, by products that stay below 2^63"
    for shift,k in ((16, 0x7feb352d), (15, 0x31848bab), (16, 0x5bd1e995)): x = ((x ^ (x>>shift))*k) & (2**31-1)
    return x ^ (x>>15)

def times(q, x):
    "A factor times the rows of `x`. A factor is a matrix, or a vector that stands for a diagonal"
    return q @ x if q.ndim>1 else q[:,None]*x

def divided(q, x):
    "`q'^-1 x` for a triangular or diagonal factor `q`"
    return torch.linalg.solve_triangular(q.T, x, upper=False) if q.ndim>1 else x/q[:,None]

def fitted(q, a, b, rate, tiny):
    "One factor, moved along `(a a' - b b') q`. `rate` is in units of the size of `a a' + b b'`"
    aa,bb = (a @ a.T,b @ b.T) if q.ndim>1 else (a.square().sum(1),b.square().sum(1))
    top = (aa+bb).abs().amax()
    if q.ndim<2: return q - (aa-bb)*rate*(q/top.clamp(min=tiny))
    return q - (torch.triu((aa-bb)*rate)/spectral_norm(aa+bb, top).clamp(min=tiny)) @ q

def spectral_norm(x, top):
    "A lower bound, near the largest singular value of the symmetric `x`, from its longest column. `top` is its largest element"
    x = x/torch.where(top>0, top, 1.)
    at_longest = torch.arange(len(x), device=x.device)==x.square().sum(0).argmax()       # a mask, because an index cannot be stacked
    v = torch.where(at_longest, x, 0.).sum(1) @ x
    return (x @ (v/v.norm())).norm()*top

def psgd_update_factors(update, probe, fit, precond_lr:nonneg=0.1, left_q=left_identity, right_q=right_identity):
    """Fits the triangular factors of PSGD's preconditioner: `P = Q'Q`, `Q = Q_L x Q_R`, so that `E[P g g' P] = E[v v']`. v is the random vector of
    `gaussian_probe`. The block takes a gradient step on the group of triangular matrices, when `psgd_update_schedule` says so. State: `left_q`, m x
    m, and `right_q`, n x n, or a diagonal for a vector and for a side of more than 10000 elements. Li 2018, https://arxiv.org/abs/1512.04202"""
    if not fit: return dict(left_q=left_q, right_q=right_q)
    g = as_matrix(update) if update.ndim>1 else update.reshape(-1, 1)
    v = probe.reshape(g.shape)
    g = g.add(v*g.abs().mean(), alpha=2**-11.5)                    # damping, by the root of float32's epsilon
    one,tiny = g.new_ones(1),torch.finfo(g.dtype).tiny
    right = right_q if right_q.numel() else one
    a = times(right, times(left_q, g).T).T
    b = divided(right, divided(left_q, v).T).T
    return dict(left_q=fitted(left_q, a, b, precond_lr, tiny), right_q=fitted(right, a.T, b.T, precond_lr, tiny) if right_q.numel() else right_q)

def psgd_balance_factors(step, balance_frequency:positive=100, left_q=left_identity, right_q=right_identity):
    """Scales both factors of PSGD's preconditioner to the same largest element, every `balance_frequency` steps. Their product does not change.
    Without it one factor may grow while the other shrinks, until they lose precision. State: `left_q` and `right_q`, as in `psgd_update_factors`.
    https://github.com/evanatyourservice/kron_torch"""
    if step%balance_frequency or not right_q.numel(): return dict(left_q=left_q, right_q=right_q)
    l,r  = left_q.abs().amax(),right_q.abs().amax()
    mean = (l.log()+r.log()).mul(.5).exp()
    return dict(left_q=left_q*(mean/l), right_q=right_q*(mean/r))

def psgd_precondition(update, left_q, right_q):
    "Multiplies the update by PSGD's preconditioner: `u <- Q_L'Q_L u Q_R'Q_R`. Li 2018, https://arxiv.org/abs/1512.04202"
    x = as_matrix(update) if update.ndim>1 else update.reshape(-1, 1)
    x = times(left_q.mT if left_q.ndim>1 else left_q, times(left_q, x))
    if right_q.numel(): x = times(right_q.mT if right_q.ndim>1 else right_q, times(right_q, x.T)).T
    return x.reshape(update.shape)
