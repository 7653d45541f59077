"""The symbols of names, as they change from one callback of a chain to the next."""

import itertools
from ...contract.state import count
from .expressions import symbol
from .letters import name_in_tex,primed
from .matrices import lengths

__all__ = ['Symbols']


reserved = {*lengths.values(), 'i', 'j', 'f'}                              # lengths, places of elements, the loss


class Symbols:
    """The symbols of names, as the fold of a chain goes on. `whole`: the chain is an algorithm, so that states have an index of time. `names` has the
    name of each symbol that was given.

        m_{t-1}, m_t      a state before and after it is written; one that is never written, and a counter, has no index
        p_{t-1}, p_t      the parameter before and after the move
        g_t, g_t', ...    the gradient, as callbacks change it; so with the update and with hyper-parameters
        x, x'             of a callback by itself: what it reads, and what it makes of that"""
    def __init__(self, chain, returns, whole):
        self.chain,self.whole = chain,whole
        self.read   = {n for b in chain.blocks for n in b.names}
        self.writes = {}                                                    # name -> how often callbacks write it, in all
        for b in chain.blocks:
            for n in returns.get(b, ()): self.writes[n] = self.writes.get(n, 0)+1
        self.done  = {}                                                     # and up to now
        self.names = {}

    @property
    def moved(self): return 'new_p' in self.done

    def wrote(self, n): self.done[n] = self.done.get(n, 0)+1
    def move(self): self.done.setdefault('new_p', 0)

    def now(self, n, tensor):
        "The symbol of the name `n` as it stands now"
        text = self.text(n)
        self.names[text] = n
        return symbol(text, tensor)

    def text(self, n):
        letter,k = name_in_tex('p' if n=='new_p' else n),self.done.get(n, 0)
        left = self.writes.get(n, 0)-k                                      # how often it is still written
        if self.chain.state.get(n)==count: return letter
        if not self.whole: return self.by_itself(n, letter, k)
        if n in self.chain.state: return letter if not self.writes.get(n) else primed(f'{letter}_t', left) if k else f'{letter}_{{t-1}}'
        if n=='new_p': return primed('p_t', left)
        if n=='p': return primed('p_{t-1}', k)
        if n=='grad': return primed('g_t', k)
        if n=='update': return primed('u_t', k-1)
        return primed(letter, k if n in self.chain.asks else k-1)

    def by_itself(self, n, letter, k):
        if n=='new_p' and n in self.read: letter = r'p^{\text{new}}'
        return primed(letter, k if n in self.read or n=='new_p' and 'p' in self.read else k-1)

    def variable(self, n, tensor, in_use):
        """A new symbol for a variable of a callback: x, and x_2 for the next of that name. A Greek letter and one with an index have a prime instead.
        `in_use`: symbols of variables that mean something still"""
        letter = name_in_tex(n)
        prime  = '_' in letter or '^' in letter or letter[0]=='\\' and not letter.startswith(r'\text')
        others = (primed(letter, k) if prime else f'{letter}_{{{k+1}}}' for k in itertools.count(1))
        taken  = {t for t,name in self.names.items() if name} | in_use | reserved
        text   = next(t for t in itertools.chain([letter], others) if t not in taken)
        self.names[text] = None
        return symbol(text, tensor)
