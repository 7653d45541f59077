"""Pieces of pages: formulas as MathML, which a browser shows without a script, tables in Markdown, and links between pages."""

import inspect,io,re,textwrap
from functools import cache
from html import escape,unescape
from pathlib import Path
import ziamath
from fontTools import subset
from latex2mathml.converter import convert
from ... import algorithms,blocks
from ...contract.names import global_names

__all__ = ['code', 'equations', 'font', 'linked', 'math', 'page_of', 'prose', 'reason', 'signature_code', 'source', 'symbols']


# -- Formulas --

used = {'√'}                                               # characters of all formulas; MathML has an element for the root

@cache
def math(text: str, block: bool=False) -> str:
    "TeX as MathML. Raises `ValueError` where a command is unknown"
    text = re.sub(r'\\operatorname(?=\{)', r'\\text', text)                 # names upright, in one piece
    text = re.sub(r"'{2,}", lambda m: '^{' + r'\prime'*len(m[0]) + '}', text)
    res  = convert(text, display='block' if block else 'inline').replace(r'\_', '_')
    res  = re.sub(r'<mo>(?=&#x02016;|&#x0007C;)', '<mo stretchy="false">', res)             # both bars of a norm are of one height
    if bad := re.search(r'>\s*\\[A-Za-z]*', res): raise ValueError(f"{text!r}: {bad[0]!r} was not converted")
    used.update(unescape(re.sub('<[^>]*>', '', res)))
    return res

def font() -> bytes:
    "STIX Two Math as WOFF2 with the characters that formulas use: roots, fractions and brackets need a font that knows how they grow"
    options = subset.Options(flavor='woff2', layout_features=['*'], notdef_outline=True, name_IDs=['*'])
    whole   = subset.load_font(str(Path(ziamath.__file__).parent/'fonts'/'STIXTwoMath-Regular.ttf'), options)
    subsetter = subset.Subsetter(options)
    italic = ''.join(map(chr, range(0x1d434, 0x1d468))) + '\u210e'           # a browser takes italic letters from there; h has a place of its own
    subsetter.populate(text=''.join(used) + italic)
    subsetter.subset(whole)
    out = io.BytesIO()
    whole.flavor = 'woff2'
    whole.save(out)
    return out.getvalue()

of_matrices = ("A product without a sign between two matrices is their matrix product. Powers, roots, fractions and ⊙ work on each element. A row or "
               "a column beside a matrix works on each of its rows or columns. The index <i>row</i> or <i>column</i> means: of each row or column.")
of_rows     = "With a sparse gradient the step computes only the rows that the gradient has. All other rows keep their values and their states."
of_brackets = "A condition in square brackets is 1 where it holds, and 0 elsewhere."

# kind of expression -> what a reader has to know about it
notes = dict(
    over_all = "The index <i>all</i> means: over all parameters of the model.",
    loss     = "<i>f</i> is the loss, a function of all parameters.",
    gradient = "∇<i>f</i> is the gradient of the loss, here at other values of all parameters.",
    hessian  = "∇<sup>2</sup><i>f</i> is the Hessian of the loss over all parameters. The sign ⊙ multiplies element by element.",
    draw     = "The sign ∼ draws a random number for each element, anew in each step: 𝒩 from a normal distribution with this mean and variance, "
               "𝒰 from a uniform one.",
    function = "A function of L or R acts on its eigenvalues.",
    part     = "The parts <i>rows</i> and <i>columns</i> of a vector: its numbers for each row, and those for each column.",
    index    = "<i>i</i> counts the elements of the parameter, row by row, and <i>j</i> the columns of a matrix. Both begin at 0.",
    xor      = "The sign ⊕ is the exclusive or of the bits of two whole numbers.")

def symbols(lines):
    "What the symbols of `formula.Line`s stand for, as HTML; names that are written out need no word"
    found = {n: t for line in lines for n,t in line.symbols.items() if not t.startswith(r'\text')}
    shown = ' '.join(f'<span>{math(t)} <code>{n}</code></span>' for n,t in found.items())
    kinds = set().union(*(line.operations for line in lines))
    told  = [note for kind,note in notes.items() if kind in kinds]
    if any(r'\left[' in text for line in lines for text in line.tex): told.append(of_brackets)
    if any(line.matrix for line in lines): told.append(of_matrices)
    return ''.join(f'<p class="symbols">{text}</p>' for text in (shown, ' '.join(told)) if text)

def equations(line, link):
    "The equations of a `formula.Line` as HTML. `link`: what stands beside them"
    shown = ''.join(f'<div class="equation">{math(t, True)}</div>' for t in line.tex)
    shown+= f'<div class="when">{of_rows}</div>' if line.rows else ''
    when  = f'<div class="when">where {" and ".join(map(math, line.when))}</div>' if line.when else ''
    return f'<div class="line"><div class="equations">{shown}{when}</div><div class="of">{link}</div></div>'

def reason(line):
    "A sentence that says why a callback has no formula. What `why` advises its author is left out"
    return f"`{line.name}` has no formula, because it {line.why.split(';')[0].removeprefix(f'{line.name} ')}."


# -- Text --

def prose(o) -> str:
    "The docstring of `o` as Markdown, with its addresses as links, and without characters that Markdown would take for its own"
    text = ' '.join((inspect.getdoc(o) or '').split())
    return linked(re.sub(r'\|(?![^`]*`)', r'\\|', text))

def linked(text):
    return re.sub(r'https?://[^\s)]+[^\s).,;]', lambda m: f'[{shown(m[0])}]({m[0]})', text)

def shown(url): return re.sub(r'https?://(www\.)?', '', url)

def code(text, language='python'): return f'```{language}\n{text.rstrip()}\n```'

def source(f):
    "The source code of a function, and of those functions of its module that it calls and that have no page of their own"
    found = {}
    def visit(f):
        if f in found: return
        found[f] = textwrap.dedent(inspect.getsource(f))
        for n in global_names(f.__code__):
            g = f.__globals__.get(n)
            if inspect.isfunction(g) and g.__module__==f.__module__ and not page_of(n): visit(g)
    visit(f)
    return '\n'.join(found.values())

def signature_code(name, signature, width=68):
    "A call with its arguments, one on each line where one line does not hold them"
    args = [str(p) for p in signature.parameters.values()]
    line = f"{name}({', '.join(args)})"
    return line if len(line)<=width else f"{name}(\n    " + ',\n    '.join(args) + ',\n)'



# -- Links --

def page_of(name):
    "The page of an algorithm or a block in the site, or None"
    if name in algorithms.__all__: return f'catalogue/{name}.md'
    return f'blocks/{name}.md' if name in blocks.__all__ else None

def tag(name, url): return f'<a href="{escape(url)}"><code>{escape(name)}</code></a>'
