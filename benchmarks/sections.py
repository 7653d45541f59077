"""Sections of a page that a script writes anew."""

import re

__all__ = ['read_section', 'write_section']


def pattern(heading): return re.compile(rf'(?ms)^(## {re.escape(heading)}\n)(.*?)(?=^## |\Z)')

def read_section(page, heading):
    "What the page says under the heading '## heading', up to the next one. Raises `ValueError` where there is no such heading"
    found = pattern(heading).search(page.read_text(encoding='utf-8'))
    if not found:
        raise ValueError(f"{page} has no heading '## {heading}'; put one where the section is to be")
    return found[2]

def write_section(page, heading, text):
    "Put `text` in place of what the page says under that heading"
    read_section(page, heading)
    old = page.read_text(encoding='utf-8')
    end = '' if old.endswith(read_section(page, heading)) else '\n'
    page.write_text(pattern(heading).sub(lambda m: m[1] + text + end, old), encoding='utf-8')
