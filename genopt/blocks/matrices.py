"""What takes a parameter as a matrix: sums over rows and columns, orthogonal updates, preconditioners of both sides. Simplest first.

A parameter of more than two dimensions, such as a convolution's weight, is the matrix of its first dimension and of all others together.
Symbols as in `stats`; the matrix has m rows and n columns, `X'` is X transposed."""

from functools import cache
import torch
from ..core import Init,Range,fraction,nonneg

__all__ = ['growing_sqr_mom', 'average_sqr_factors', 'factored_step', 'newton_schulz', 'polar_express', 'scale_to_shape', 'average_sqr_rows',
           'normalize_rows']


def as_matrix(x):
    "`x` as a matrix: its first dimension, and all others together"
    if x.ndim<2: raise ValueError("it takes matrices; give biases, norms and other vectors to AdamW, in a group of their own: "
                                  "Optimizer(groups(model, {(2, 4): dict(cbs=Muon), '*': dict(cbs=AdamW)}))")
    return x.flatten(1)


# -- The second moment in two factors --

def _per_row(p): return p.new_zeros(*p.shape[:-1], 1) if p.ndim>1 else torch.zeros_like(p)
def _per_col(p): return p.new_zeros(*p.shape[:-2], 1, p.shape[-1]) if p.ndim>1 else p.new_zeros(0)
per_row,per_col = Init(_per_row),Init(_per_col)                   # a vector's elements are its rows, and it has no columns

def growing_sqr_mom(step, beta2_decay:Range('(-inf,0]')=-0.8):
    "A decay rate that grows, and needs no debiasing: `sqr_mom = 1 - t^beta2_decay`. On the host. https://arxiv.org/abs/1804.04235, section 7.2"
    return dict(sqr_mom = 1 - step**beta2_decay)

def average_sqr_factors(grad, sqr_mom:fraction, row_avg=per_row, col_avg=per_col):
    """Average of squared gradients in each row and in each column, of the last two dimensions: `r <- sqr_mom*r + (1-sqr_mom)*mean_row(g^2)`,
    `c` likewise. A vector is not factored: its `r` is the second moment. Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235"""
    sqr = grad*grad
    row = (row_avg*sqr_mom).add(sqr.mean(-1, keepdim=True) if grad.ndim>1 else sqr, alpha=1-sqr_mom)
    return dict(row_avg=row, col_avg=(col_avg*sqr_mom).add(sqr.mean(-2, keepdim=True), alpha=1-sqr_mom) if grad.ndim>1 else col_avg)

def factored_step(grad, row_avg, col_avg, eps):
    """Scaled by the root of the second moment, the product of its factors: `g / max(sqrt(r*c/max(mean(r), eps)), eps)`; `eps=None` is that of
    the dtype. Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, with `eps` where torch has it"""
    if eps is None: eps = torch.finfo(grad.dtype).eps
    v = row_avg*(col_avg/row_avg.mean(-2, keepdim=True).clamp(min=eps)) if grad.ndim>1 else row_avg
    return grad*v.clamp(min=eps*eps).rsqrt()


# -- Orthogonal updates --

def orthogonal(x, polynomials, eps, dtype, safety=1.):
    """The matrix `U V'` of `x = U S V'`: each of its singular values, at first at most 1, goes through `polynomials` that drive it to about 1,
    `s <- a*s + b*s^3 + c*s^5`. In `dtype`, where products are cheap; torch's order of operations"""
    dtype = getattr(torch, dtype)
    m = as_matrix(x).to(dtype)
    wide = m.shape[0]<=m.shape[1]
    m = m if wide else m.T
    m = m / (m.norm()*safety).clamp(min=eps)
    for a,b,c in polynomials:
        gram = m @ m.T
        m = torch.addmm(m, torch.addmm(gram, gram, gram, beta=b, alpha=c), m, beta=a)
    return (m if wide else m.T).to(x.dtype).reshape(x.shape)

@cache
def newton_schulz_with(a, b, c):
    "The block `newton_schulz` with these coefficients of `s`, `s^3` and `s^5`"
    def newton_schulz(update, ns_steps=5, eps:nonneg=1e-7, ns_dtype='bfloat16'):
        """The nearest orthogonal matrix, roughly: singular values between 0.7 and 1.2 after `ns_steps` times `X <- a*X + (b*A + c*A^2)*X` with
        `A = X X'`, from `u/|u|` on. Jordan 2024, https://kellerjordan.github.io/posts/muon"""
        return orthogonal(update, ((a, b, c),)*ns_steps, eps, ns_dtype)
    newton_schulz.__qualname__ = 'newton_schulz'
    return newton_schulz

newton_schulz = newton_schulz_with(3.4445, -4.7750, 2.0315)

fast_polynomials = ((8.28721201814563, -23.595886519098837, 17.300387312530933), (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
                    (3.9486908534822946, -2.908902115962949, 0.5518191394370137), (3.3184196573706015, -2.488488024314874, 0.51004894012372),
                    (2.300652019954817, -1.6689039845747493, 0.4188073119525673), (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
                    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248))
fast_polynomials = *((a/1.01, b/1.01**3, c/1.01**5) for a,b,c in fast_polynomials),       # the paper's margin for rounding

def polar_express(update, ns_steps=5, eps:nonneg=1e-7, ns_dtype='bfloat16'):
    """The nearest orthogonal matrix, by the polynomial that is best at each step, from `u/(1.01*|u|)` on; converges, in the end with
    `15/8*s - 5/4*s^3 + 3/8*s^5`. Amsel et al. 2025, https://arxiv.org/abs/2505.16932"""
    polynomials = fast_polynomials[:ns_steps] + ((1.875, -1.25, 0.375),)*(ns_steps-len(fast_polynomials))
    return orthogonal(update, polynomials, eps, ns_dtype, safety=1.01)

def scale_to_shape(update, adjust_lr_fn='original'):
    """An orthogonal update of m rows and n columns made comparable between shapes: `u * sqrt(max(1, m/n))` (`'original'`, Jordan 2024,
    https://kellerjordan.github.io/posts/muon), `u * 0.2*sqrt(max(m, n))` (`'match_rms_adamw'`, Liu et al. 2025, https://arxiv.org/abs/2502.16982)
    or `u * sqrt(m/n)` (`'spectral_unclamped'`, Bernstein 2025, https://jeremybernste.in/writing/deriving-muon)"""
    m,n = as_matrix(update).shape
    if adjust_lr_fn=='match_rms_adamw':           return update*(0.2*max(m, n)**0.5)
    if adjust_lr_fn=='spectral_unclamped':        return update*(m/n)**0.5
    if adjust_lr_fn in ('original', None, False): return update*max(1, m/n)**0.5
    raise ValueError(f"adjust_lr_fn must be 'original', 'match_rms_adamw' or 'spectral_unclamped'; got {adjust_lr_fn!r}")

def _per_output(p): return p.new_zeros(p.shape[:1])

def average_sqr_rows(update, sqr_mom:fraction=0.95, row_avg=Init(_per_output)):
    "Average of squares in each row, of an update: `r <- sqr_mom*r + (1-sqr_mom)*mean_row(u^2)`. Li et al. 2025, https://arxiv.org/abs/2510.05491"
    return dict(row_avg = (row_avg*sqr_mom).add(as_matrix(update).square().mean(1), alpha=1-sqr_mom))

def normalize_rows(update, row_avg, eps:nonneg=1e-10):
    "Each row by its root mean square: `u / (sqrt(r) + eps)`, so that all outputs of a layer learn alike. https://arxiv.org/abs/2510.05491"
    return (as_matrix(update) / (row_avg.sqrt() + eps)[:,None]).reshape(update.shape)
