r"""Loops in a recording. A variable that is made again and again in one way has a loop:

    for _ in range(5): x = a*x + b*(x @ x.T) @ x

leaves the nodes x0, x1, ... x5. How each is made of the one before is a turn, symbols and expressions:

    A_k     = X_k \, {X_k}^{\top}
    X_{k+1} = a \, X_k + b \, A_k \, X_k

Turns are alike if they differ in numbers alone. Such a number gets a letter, and the letter a series."""

from itertools import count
from ...lower.values import Value
from .expressions import iterated,leaves,skeleton,symbol,with_letters

__all__ = ['loop_of']


def loop_of(rec, nodes):
    "The start and the end of the loop that made the `nodes` of the recording `rec`, and its expression; None if there are not two turns alike"
    turns = [turn_of(rec, a, b) for a,b in zip(nodes, nodes[1:])]
    n = alike_at_the_end(turns)
    if n<2: return None
    letters,series = series_of(turns[-n:])
    place = count()
    body  = [(left, with_letters(e, lambda: letters.get(next(place)))) for left,e in turns[-1]]
    rec.forget_expressions()
    return nodes[-1-n],nodes[-1],iterated(rec.expr(nodes[-1-n]), n, body, series)

def alike_at_the_end(turns):
    "How many of the last turns are alike"
    def form(turn): return [skeleton(e) for _,e in turn]
    if not turns or not turns[-1]: return 0
    alike = [bool(turn) and form(turn)==form(turns[-1]) for turn in reversed(turns)]
    return [*alike, False].index(False)

def series_of(turns):
    "The numbers that change from turn to turn: place of a number -> its letter, and letters with their values"
    numbers = [[leaf.args[0] for _,e in turn for leaf in leaves(e) if leaf.op=='num'] for turn in turns]
    changes = [i for i,column in enumerate(zip(*numbers)) if len({*column})>1]
    letters = {i: symbol(f'{letter}_k') for i,letter in zip(changes, 'abcdefgh')}
    return letters,[(sign.args[0], tuple(turn[i] for turn in numbers)) for i,sign in letters.items()]

def turn_of(rec, a, b):
    """What makes the node `b` of the node `a`, which is `X_k`: symbols and expressions of what is used more than once between them, `A_k` and so on,
    and of `b`. None if `b` is not made of `a`, or if the letters do not suffice"""
    if not isinstance(a, Value) or not isinstance(b, Value) or not a.example.ndim: return None
    rec.forget_expressions()
    rec.name(a, symbol('X_k', True))
    found,letters = [],'ABCDEFGH'
    between = [node for node in rec.worth_a_name([b], [a]) if isinstance(node, Value) and node.example.ndim]
    if len(between)>len(letters): return None
    for node,letter in zip(between, letters):
        sign = symbol(f'{letter}_k', True)
        found.append((sign, rec.expr(node)))
        rec.name(node, sign)
    found.append((symbol('X_{k+1}', True), rec.expr(b)))
    return found if any(leaf.args[0]=='X_k' for _,e in found for leaf in leaves(e)) else None
