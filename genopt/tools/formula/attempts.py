"""The ways to record a callback, one after the other:

    on a row of elements, or on several at once if it runs over all parameters
    the same, where numbers may be looked at: an `if` takes one of two ways
    on a matrix

An `if` that has taken one way is recorded once more with the other, and both stand in the formula if one of them is short."""

import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
import torch
from ...contract.stand_ins import set_apart
from ...lower.reasons import MustBeCalled,NotRecorded
from .expressions import cases,size
from .matrices import RecordedMatrix
from .operations import tall
from .over_all import RecordedOverAll
from .recording import Recorded

__all__ = ['record']

longest_choice = 12                         # symbols and numbers of the other case of a formula. A longer one is not shown
failures = NotRecorded,MustBeCalled,TypeError,ValueError,RuntimeError,IndexError,AttributeError


def record(b, entries, is_setting):
    """The recording of the callback `b` and None, or None and why there is none. `is_setting(condition)`: whether a condition is on hyper-parameters
    alone. Choices stay open if they can; else they are made by the values"""
    if 'rows' in b.names: return None,f"{b} computes with the rows of a sparse gradient"
    closed = {n: replace(e, open=False) for n,e in entries.items()}
    for es in (entries, closed):
        way = partial(RecordedOverAll if b.is_global else Recorded, b, es)
        try:
            with quiet(): rec = of_any_number(way) if b.is_global else way()
        except failures as e: why = f'{b} {e}' if isinstance(e, NotRecorded) else f'{b} cannot be recorded'
        else: return (with_both_cases(rec, way, is_setting),None) if rec.outs else (None,f'{b} only looks')
    return (None,why) if b.is_global else record_on_a_matrix(b, closed, is_setting)

@contextmanager
def quiet():
    "Within, callbacks can be tried"
    with set_apart(torch.device('cpu')), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield

def of_any_number(way):
    "The recording over all parameters, if it is the same for another number of them"
    rec = way()
    if rec.results()!=way(n=3).results(): raise NotRecorded("counts the parameters")
    return rec


# -- On a matrix --

def record_on_a_matrix(b, entries, is_setting):
    "As `record`, of a callback that needs the shape of the parameter. It counts steps so that one that works every few steps does something"
    every = [n for e in entries.values() if type(e.value) is int and e.value>1 for n in (e.value, e.value+1)]
    why   = f'{b} cannot be recorded on a matrix'
    for start in (5, *every):
        way = partial(RecordedMatrix, b, entries, start=start)
        try:
            with quiet():
                rec   = way()
                other = way(shape=tall) if rec.by_lengths and not rec.loops else None
        except NotRecorded as e: return None,f'{b} {e}'
        except failures: return None,why
        if other: merge_shapes(rec, other)
        if other or any(rec.node(v) not in rec.inputs for v in rec.outs.values()): return with_both_cases(rec, way, is_setting),None
    return None,why

def merge_shapes(wide, tall):
    "Give the recording of a wide matrix a choice by the lengths, where these are all that it and the one of a tall matrix take for granted"
    if len(wide.taken)!=1 or len(tall.taken)!=1: return
    choices = {n: cases(tall.taken[0], tall.expr(tall.outs[n]), wide.expr(v)) for n,v in wide.outs.items()}
    if total_size(choices)<=longest_choice: wide.choices,wide.taken = choices,[]

def total_size(results): return sum(map(size, results.values()))


# -- Both cases of an `if` --

def with_both_cases(rec, way, is_setting):
    """The recording, with the other case beside it where a single `if` decides, one of the two is short, and steps may differ: a choice by
    hyper-parameters alone stays as it is. `way(flip=name)` records the other case. The longer one is written out"""
    if len(rec.decisions)!=1 or not rec.taken or rec.by_lengths or is_setting(rec.taken[0]): return rec
    try:
        with quiet(): other = way(flip=next(iter(rec.decisions)))
    except failures: return rec
    if len(other.decisions)!=1 or not alike(rec, other): return rec
    long,short = sorted((rec, other), key=lambda r: total_size(r.results()), reverse=True)
    written = long.results()
    others  = {n: e for n,e in short.results().items() if e!=written[n]}
    if short.is_plain and total_size(others)<=longest_choice: long.add_other_case(others)
    return long if long.otherwise else rec

def alike(a, b):
    "Whether the results of two recordings are of the same kinds, and equal where they are flags"
    return a.outs.keys()==b.outs.keys() and all(a.kind(v)==b.kind(b.outs[n]) and (a.kind(v)!='flag' or v==b.outs[n]) for n,v in a.outs.items())
