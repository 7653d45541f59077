r"""The formulas of a chain as TeX, made from the recording of its callbacks. A rule of your own gets its formula in the same way as Adam:

    for line in formula(opt): print(line.name, line.tex)

    average_grad        m_t = \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t
    ...
    the move            p_t = p_{t-1} - \eta \, u_t

    letters        how names are written
    expressions    trees of symbols and operations, which write themselves
    operations     what each operation of torch is in a formula
    recording      one callback: it is recorded by itself, on stand-ins, so that its equations stay short
    chain          the equations of all callbacks, with the symbols as they change from one to the next"""

from .chain import Line,formula,formula_of_block,kinds_of

__all__ = ['Line', 'formula', 'formula_of_block', 'kinds_of']
