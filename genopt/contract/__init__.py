"""The contract, in one sentence:

A callback is a plain function for one parameter: **its argument names say what it reads, its defaults say what it
declares, and what it returns says what it changes.**

    def average_grad(grad, mom=0.9, grad_avg=zeros):         # reads grad, declares the hyper mom and the state grad_avg
        return dict(grad_avg = grad_avg*mom + grad*(1-mom))  # changes grad_avg

An algorithm is a list of callbacks. A step folds that list over a `Namespace`. The namespace starts with the parameter `p`, its
`grad`, its state and its hypers. Each callback gets the names that it asks for, and what it returns is put back under its name.
Nothing is written in place. The parameter moves at the end, or as soon as a callback asks for `new_p`: `new_p = p - lr*update`.

A callback is a pure function: what it returns depends on what it reads alone. So the launch and foreach backends need not run its
Python code at each step; they run the operations that `lower` has recorded. Three kinds of callback are called at each step all the
same, for each parameter: one that returns `{}`, one that holds a list or dict from outside, and one that asks what a tensor holds.

These files only say what a chain of callbacks *is*. `lower` decides how one is run, and `run` runs it; `optim.rehearsal` refuses what
cannot work; `optim.optimizer` owns parameters and state. In the order of reading: `state` (initializers), `ranges`, `choice` (`where`),
`names` (signatures), `block` (one callback), `chain` (the namespace and the chain). How values are stored: `code` (states in few bits),
which `code_trial` tries, `codes` (those that come with genopt) and `weights`. `tensors`, `sharded` and `messages` are helpers."""

from .block import *
from .chain import *
from .choice import *
from .code import *
from .names import *
from .ranges import *
from .state import *
