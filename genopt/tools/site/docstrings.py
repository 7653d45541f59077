"""An extension of griffe, which reads the docstrings for the page API: lines of arguments that begin with a name in backticks become a list."""

import re
import griffe

__all__ = ['Arguments']


class Arguments(griffe.Extension):
    def on_object(self, *, obj, **kwargs):
        if obj.docstring: obj.docstring.value = as_list(obj.docstring.value)

def as_list(text):
    """`text` with a bullet before each line that explains an argument, as in

        Arguments:

        `params`: the parameters,
            and more about them
        `cbs`: the callbacks"""
    lines,inside = [],False
    for line in text.split('\n'):
        begins = re.match(r'`\w+`(, `\w+`)*: ', line)
        if begins and not inside and lines and lines[-1]: lines.append('')
        inside = bool(begins) or inside and line.startswith(' ')
        lines.append(f'- {line}' if begins else line)
    return '\n'.join(lines)
