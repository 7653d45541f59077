"""How the names of the namespace are written in formulas."""

import re

__all__ = ['name_in_tex', 'primed']


# As the literature has them. Any other name is written out
letters = dict(
    p='p', grad='g', update='u', eval_p=r'\bar p', p0='p_0', first_p='p_0', step='t',
    lr=r'\eta', eta=r'\hat\eta', max_lr=r'\eta_{\max}', wd=r'\lambda', lambd=r'\lambda', eps=r'\epsilon', eps2=r'\epsilon_2',
    mom=r'\beta_1', sqr_mom=r'\beta_2', mom3=r'\beta_3', beta3=r'\beta_3', momentum=r'\mu', dampening=r'\tau',
    debias1='c_1', debias2='c_2', debias3='c_3',
    grad_avg='m', slow_avg=r'm^{\text{slow}}', sqr_avg='v', max_sqr_avg=r'v^{\max}', sqr_hat=r'\hat v', sqr_norm_avg='v', grad_var=r'\sigma^2',
    sqr_sum='s', grad_sum='z', grad_max='w', update_avg='b', sqr_update_avg=r'\bar u', row_avg='R', col_avg='C',
    prev_grad=r'g^{\text{prev}}', change='d', change_avg=r'\bar d', ahead=r'\tilde g', step_size='s', weight='w', max_norm='c',
    alpha=r'\alpha', beta=r'\beta', gamma=r'\gamma', delta=r'\delta', nu=r'\nu', nu1=r'\nu_1', nu2=r'\nu_2', rho=r'\rho', rho_inf=r'\rho_\infty',
    mu=r'\mu', mu_product=r'\bar\mu', mu_next=r'\mu^{\text{next}}', turn=r'\theta', rect='r', low=r'\ell', high='h',
    left='L', right='R', left_root=r'\hat L', right_root=r'\hat R', left_basis='Q^{L}', right_basis='Q^{R}', left_q='Q^{L}', right_q='Q^{R}',
    rotated=r'\tilde g', rotated_avg=r'\tilde m', residual_row_avg=r'R^{\text{res}}', residual_col_avg=r'C^{\text{res}}',
    noise=r'\xi', curvature=r'\hat h', curvature_avg='h', cover=r'\mu', weighted_sum='v', p0_norm=r'\lVert p_0 \rVert',
    d='D', d_hat=r'\hat D', d_max=r'D^{\max}', d0='D_0', far=r'\bar r', dist='r')

def name_in_tex(n):
    "The symbol of a name. `z` and `b1` are letters already"
    if n in letters: return letters[n]
    if m := re.fullmatch(r'([A-Za-z])(\d*)', n): return f'{m[1]}_{{{m[2]}}}' if m[2] else n
    return r'\text{' + n.replace('_', r'\_') + '}'

def primed(text, n): return f'{{{text}}}' + "'"*n if n and '^' in text else text + "'"*n
