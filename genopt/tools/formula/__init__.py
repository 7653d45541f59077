r"""The formulas of a chain as TeX, made from the recording of its callbacks. A rule of your own gets its formula in the same way as Adam:

    for line in formula(opt): print(line.name, line.tex)

    average_grad        m_t = \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t
    ...
    the move            p_t = p_{t-1} - \eta \, u_t

    letters        how names are written
    expressions    trees of symbols and operations
    writing        expressions as TeX
    operations     what each operation of torch is in a formula
    numbers        arithmetic on plain numbers, as it is recorded
    recording      one callback on a row of elements: it is recorded by itself, so that its equations stay short
    over_all       a callback over all parameters, and what it asks of the model
    matrices       a callback that needs the shape of a matrix, with its `loops`
    attempts       these three tried one after the other, and both cases of an `if`
    lines          the equations of one callback
    symbols        names as they change from one callback to the next
    chain          the equations of all callbacks"""

from .chain import formula,formula_of_block,kinds_of
from .lines import Line

__all__ = ['Line', 'formula', 'formula_of_block', 'kinds_of']
