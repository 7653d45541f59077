"""The contract, in one sentence:

A callback is a plain function for one parameter: **its argument names say what it reads, its defaults say what it
declares, and what it returns says what it changes.**

    def average_grad(grad, mom=0.9, grad_avg=zeros):         # reads grad, declares the hyper mom and the state grad_avg
        return dict(grad_avg = grad_avg*mom + grad*(1-mom))  # changes grad_avg

An algorithm is a list of callbacks. A step folds that list over a `Namespace` that starts as the parameter `p`, its `grad`,
its state and its hypers: each callback is given the names it asks for, and what it returns is put back. Nothing is written
in place. At the end, or as soon as a callback asks for `new_p`, the parameter moves: `new_p = p - lr*update`.

A callback is a pure function. All ways but `foreach=False` run the operations that `lower` has recorded, and not its Python code. One that returns
`{}`, that holds a list or dict from outside, or that looks at what a tensor holds is called for each parameter at each step.

This file only says what a chain of callbacks *is*; `lower` and `run` run it, `check` refuses what cannot work, `optimizer` owns
parameters and state. Order here: initializers, ranges, a choice, one callback, the namespace, the chain."""

from .block import *
from .chain import *
from .choice import *
from .names import *
from .ranges import *
from .state import *
