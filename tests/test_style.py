"The style of the notebooks, measured. `pytest -q tests/test_style.py` prints the table."
import ast, io, json, re, tokenize
import numpy as np
import pytest
from conftest import tracked

DIRECTIVE, EXPORT = re.compile(r'^#\|\s*(.*)$', re.M), re.compile(r'^(export|exports|exporti|exec_doc export)\b')
MACHINE_PATH = re.compile(r'''(?<![\w./}-])/(home|root|work|tmp)(?=[/\s'"\\)]|$)''')
# Code between loading a model and reporting on it must not know which model it was given.
MODEL_WORDS = re.compile(r'llava|idefics|qwen|internvl|paligemma|blip|vicuna|mistral|smolvlm|is_micro', re.I)
GENERAL = 'data', 'training', 'evaluation', 'methods'


def directives(c): return DIRECTIVE.findall(c.source) if c.cell_type == 'code' else []
def exported(c): return any(EXPORT.match(d) for d in directives(c))
def hidden(c): return any(d.split()[0] in ('hide', 'hide_input') for d in directives(c) if d)
def shown(c): return c.cell_type == 'code' and not hidden(c) and not exported(c)
def size(source): return sum(bool(l.strip()) and not l.startswith('#|') for l in source.splitlines())
def housekeeping(c): return 'nbdev_export()' in c.source


def defines(c):
    "Public functions and classes that a cell exports."
    if not exported(c): return []
    return [o.name for o in ast.parse(c.source).body
            if isinstance(o, (ast.FunctionDef, ast.ClassDef)) and not o.name.startswith('_')]


def demonstrated(cells, i):
    "For each of them: does a visible cell, at most three cells later, name it?"
    after = '\n'.join(c.source for c in cells[i+1:i+4] if shown(c))
    return [bool(re.search(rf'\b{name}\b', after)) for name in defines(cells[i])]


def semicolons(source):
    "Statements that share a line with another."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(t.type == tokenize.OP and t.string == ';' for t in tokens)


def documented(source):
    "For each public function of a module: has it a docstring, and each argument its comment?"
    lines = source.splitlines()
    for f in ast.parse(source).body:
        if not isinstance(f, ast.FunctionDef) or f.name.startswith('_'): continue
        args = [*f.args.args, *f.args.kwonlyargs, *filter(None, (f.args.vararg, f.args.kwarg))]
        yield bool(ast.get_docstring(f)) and all('#' in lines[a.lineno - 1] for a in args)


def functions(tree):
    "Functions and methods, without those defined inside another function."
    for o in tree.body:
        if isinstance(o, ast.FunctionDef): yield o
        if isinstance(o, ast.ClassDef): yield from functions(o)


def is_recipe(o, recipes):
    "A named recipe, which may name its model, the table of recipes, or the list of public names."
    return getattr(o, 'name', '') in recipes or (
        isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') in ('RECIPES', '__all__'))


def without_recipes(tree):
    "The module without its named recipes."
    recipes = {x.id for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == 'RECIPES'
               for x in ast.walk(o.value) if isinstance(x, ast.Name)}
    functions = {r for r in recipes if not r[0].isupper()}  # the class of recipes is general
    return ast.Module([o for o in tree.body if not is_recipe(o, functions)], [])


def strings_and_names(tree):
    "Every identifier and every string of a module that is not a docstring."
    docs = {id(o.body[0].value) for o in ast.walk(tree) if isinstance(o, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and o.body and isinstance(o.body[0], ast.Expr)}
    for o in ast.walk(tree):
        if isinstance(o, ast.Constant) and isinstance(o.value, str) and id(o) not in docs: yield o.lineno, o.value
        for a in ('id', 'attr', 'arg', 'name'):
            if isinstance(v := getattr(o, a, None), str): yield getattr(o, 'lineno', 0), v


@pytest.fixture(scope='module')
def modules():
    "Exported modules: path and source."
    return {p: p.read_text(encoding='utf-8') for p in tracked('vlm_selfimprove/*.py')
            if p.name not in ('__init__.py', '_modidx.py')}


@pytest.fixture(scope='module')
def measured(notebooks, modules):
    "Every measure with its value."
    code = [c for n in notebooks for c in n.cells if c.cell_type == 'code']
    demos = [d for n in notebooks for i in range(len(n.cells)) for d in demonstrated(n.cells, i)]
    cells = [size(c.source) for c in code if defines(c)]
    fns = [ast.get_source_segment(s, f) for s in modules.values() for f in functions(ast.parse(s))]
    body = [len(l.strip()) for f in fns for l in f.splitlines()[1:] if l.strip()]
    lines = [l for c in code for l in c.source.splitlines() if l.strip() and not l.startswith('#|')]
    width = [len(l) for l in lines]
    words = [len(c.source.split()) for n in notebooks for c in n.cells if c.cell_type == 'markdown']
    docs = [d for s in modules.values() for d in documented(s)]
    return dict(width_p95=np.percentile(width, 95), width_max=max(width),
                semicolons=1000 * sum(semicolons(c.source) for c in code if not housekeeping(c)) / len(lines),
                hidden=np.mean([hidden(c) for c in code]),
                notebook_kb_max=max(n.path.stat().st_size for n in notebooks)/1024,
                named_in_demo=np.mean(demos), documented=np.mean(docs),
                notebooks=len(notebooks), modules=len(modules), public=len(docs),
                export_median=np.median(cells), export_p90=np.percentile(cells, 90),
                function_median=np.median([*map(size, fns)]), function_p90=np.percentile([*map(size, fns)], 90),
                body_chars=np.mean(body), module_max=max(size(s) for s in modules.values()),
                md_words_median=np.median(words), cells_max=max(len(n.cells) for n in notebooks))


LIMITS = dict(width_p95=('<=', 100), width_max=('<=', 120), semicolons=('<=', 2), hidden=('<=', .15),
              notebook_kb_max=('<=', 300), named_in_demo=('>=', .8), documented=('>=', .95))


def test_measures(measured, capsys):
    "The table, and what in it has a limit. Sizes of cells, functions and modules are figures to look at, no limits."
    ok = {k: v >= l if op == '>=' else v <= l for k, (op, l) in LIMITS.items() for v in (measured[k],)}
    with capsys.disabled():
        print()
        for k, v in measured.items():
            print(f"  {k:18}{v:9.2f}   {' '.join(map(str, LIMITS.get(k, ()))):9}{'' if ok.get(k, True) else '  TOO FAR'}")
    assert all(ok.values()), {k: float(measured[k]) for k, v in ok.items() if not v}


def test_notebooks_are_small(notebooks):
    "A page loads fast and a diff can be read: 300 KB a notebook, 60 KB the outputs of a cell."
    big = {n.name: n.path.stat().st_size for n in notebooks if n.path.stat().st_size > 300*1024}
    outs = {f'{n.name}#{c.id}': k for n in notebooks for c in n.cells
            if (k := len(json.dumps(c.get('outputs', [])))) > 60*1024}
    assert not big and not outs, (big, outs)


def test_cell_ids(notebooks):
    "Each cell has an id of its own, stored in the file: nbdev writes it into the package."
    for n in notebooks:
        ids = [c.get('id') for c in json.loads(n.path.read_text(encoding='utf-8'))['cells']]
        assert all(ids) and len(set(ids)) == len(ids), f'{n.name}: cells without an id, or two with the same'


def test_no_machine_paths(notebooks):
    "Neither sources nor printed outputs name folders of the machine they were made on."
    def texts(c):
        yield c.source
        for o in c.get('outputs', []):
            yield o.get('text', '')
            yield from (v for k, v in o.get('data', {}).items() if k.startswith('text/'))
    found = [f'{n.name}#{c.id}: {m.group()}' for n in notebooks for c in n.cells for t in texts(c)
             if (m := MACHINE_PATH.search(t))]
    assert not found, found


def test_import_cells_are_pure(notebooks):
    "nbdev runs cells with imports when it makes a page, and only those: what else stands in one would run half-blind."
    def mixed(c):
        kinds = {type(o) for o in ast.walk(ast.parse(c.source))}
        return kinds & {ast.Import, ast.ImportFrom} and kinds & {ast.Expr, ast.Assign}
    found = [f'{n.name}#{c.id}' for n in notebooks if n.module for c in n.cells
             if c.cell_type == 'code' and not exported(c) and 'nbdev_export()' not in c.source and mixed(c)]
    assert not found, f'move the imports of these cells to a cell of their own: {found}'


def test_general_code_knows_no_model(modules):
    "Folders that serve every model name none in names or strings (docstrings, comments and named recipes may)."
    found = [f'{p.name}:{line}: {s[:60]!r}' for p, src in modules.items() if p.parent.name in GENERAL
             for line, s in strings_and_names(without_recipes(ast.parse(src))) if MODEL_WORDS.search(s)]
    assert not found, found
    seen = ast.parse("class R: x = 'llava'\ndef r(): return R('qwen')\ndef f(): return 'blip'\nRECIPES = dict(r=r, R=R)")
    left = [s for _, s in strings_and_names(without_recipes(seen)) if MODEL_WORDS.search(s)]
    assert left == ['llava', 'blip'], left


def test_the_measures_measure():
    "The rulers themselves, on cells whose answer is known."
    from nbformat.v4 import new_code_cell as code, new_markdown_cell as md
    cells = [code('#| export\ndef f():\n\n    return 1'), md('so'), code('#| hide\nassert f()'), code('assert f() == 1'),
             code('#| export\nclass A: pass'), md('a'), md('b'), md('c'), code('A()'),
             code('#| export\nimport re'), code('#| export\ndef g(): pass\ndef _h(): pass'), code('fg()\n"g"')]
    assert [i for i, c in enumerate(cells) if defines(c)] == [0, 4, 10] and size(cells[0].source) == 2
    assert demonstrated(cells, 0) == [True] and demonstrated(cells, 4) == [False]
    assert demonstrated(cells, 10) == [True] and demonstrated(cells[:-1] + [code('fg()')], 10) == [False]
    assert semicolons('a = 1; b = ";" # ;\nc') == 1
    args = 'def f(\n    a, # one\n    b,{}\n):\n    "Does."\n'
    assert [*documented(args.format(''))] == [False] and [*documented(args.format(' # two'))] == [True]
    assert MACHINE_PATH.search('open("/home/me/x")') and MACHINE_PATH.search("'/tmp'")
    assert not MACHINE_PATH.search('prompts/work and a/tmp/b')
