"""Structures that Python fills and C reads. Both are made of one table of fields."""

import ctypes

__all__ = ['structure']


def structure(name, **fields):
    """A `ctypes.Structure` of these `fields`, whose types are those of C: `int64_t`, or a pointer. Its
    `source` is the same structure in C"""
    kinds = [
        (n, ctypes.c_int64 if t == 'int64_t' else ctypes.c_void_p)
        for n, t in fields.items()
    ]
    lines = ''.join(f'  {t} {n};\n' for n, t in fields.items())
    source = f'typedef struct {{\n{lines}}} {name};\n'
    return type(name, (ctypes.Structure,), dict(_fields_=kinds, source=source))
