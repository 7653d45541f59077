"""Sections of a page that a script writes anew."""

import re

__all__ = ['read_section', 'write_section']


def find(page, heading):
    found = re.search(rf'(?ms)^## {re.escape(heading)}\n(.*?)(?=^## |\Z)', page.read_text(encoding='utf-8'))
    if found:
        return found
    raise ValueError(f"{page} has no heading '## {heading}'; put one where the section is to be")

def read_section(page, heading):
    "What the page says under the heading '## heading', up to the next one. Raises `ValueError` where there is no such heading"
    return find(page, heading)[1]

def write_section(page, heading, text):
    "Put `text` in place of what the page says under that heading"
    found      = find(page, heading)
    begin,end  = found.span(1)
    last       = end==len(found.string)
    page.write_text(found.string[:begin] + text + ('' if last else '\n') + found.string[end:], encoding='utf-8')
