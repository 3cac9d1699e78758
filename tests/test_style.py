"The style of the notebooks, measured. `pytest -q tests/test_style.py` prints the table."
import ast, json, re
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
def defines(c): return exported(c) and re.search(r'^(def|class|async def) ', c.source, re.M)
def hidden(c): return any(d.split()[0] in ('hide', 'hide_input') for d in directives(c) if d)
def shown(c): return c.cell_type == 'code' and not hidden(c) and not exported(c)
def size(source): return sum(bool(l.strip()) and not l.startswith('#|') for l in source.splitlines())
def demonstrated(cells, i): return any(shown(c) for c in cells[i+1:i+4])


def functions(tree):
    "Functions and methods, without those defined inside another function."
    for o in tree.body:
        if isinstance(o, ast.FunctionDef): yield o
        if isinstance(o, ast.ClassDef): yield from functions(o)


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
    defs = [demonstrated(n.cells, i) for n in notebooks for i, c in enumerate(n.cells) if defines(c)]
    cells = [size(c.source) for c in code if defines(c)]
    fns = [size(ast.get_source_segment(s, f)) for s in modules.values() for f in functions(ast.parse(s))]
    width = [len(l) for c in code for l in c.source.splitlines() if l.strip()]
    words = [len(c.source.split()) for n in notebooks for c in n.cells if c.cell_type == 'markdown']
    return dict(notebooks=len(notebooks), modules=len(modules), demonstrated=np.mean(defs),
                hidden=np.mean([hidden(c) for c in code]), export_median=np.median(cells),
                export_p90=np.percentile(cells, 90), function_median=np.median(fns),
                function_p90=np.percentile(fns, 90), module_max=max(size(s) for s in modules.values()),
                width_p95=np.percentile(width, 95), md_words_median=np.median(words),
                cells_max=max(len(n.cells) for n in notebooks),
                notebook_kb_max=max(n.path.stat().st_size for n in notebooks)/1024)


LIMITS = dict(demonstrated=('>=', .8), hidden=('<=', .15), export_p90=('<=', 22), function_p90=('<=', 20),
              module_max=('<=', 300), notebook_kb_max=('<=', 300))


def test_measures(measured, capsys):
    "The table, and what in it has a limit."
    ok = {k: v >= l if op == '>=' else v <= l for k, (op, l) in LIMITS.items() for v in (measured[k],)}
    with capsys.disabled():
        print()
        for k, v in measured.items():
            print(f"  {k:18}{v:9.2f}   {' '.join(map(str, LIMITS.get(k, ()))):9}{'' if ok.get(k, True) else '  TOO FAR'}")
    assert all(ok.values()), {k: float(measured[k]) for k, v in ok.items() if not v}


def test_every_module_is_short(modules):
    long = {p.name: size(s) for p, s in modules.items() if size(s) > 300}
    assert not long, long


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
    "Folders that serve every model name none in names or strings (docstrings and comments may)."
    found = [f'{p.name}:{line}: {s[:60]!r}' for p, src in modules.items() if p.parent.name in GENERAL
             for line, s in strings_and_names(ast.parse(src)) if MODEL_WORDS.search(s)]
    assert not found, found


def test_the_measures_measure(tmp_path):
    "The rulers themselves, on cells whose answer is known."
    from nbformat.v4 import new_code_cell as code, new_markdown_cell as md
    cells = [code('#| export\ndef f():\n\n    return 1'), md('so'), code('#| hide\nassert f()'), code('assert f() == 1'),
             code('#| export\nclass A: pass'), md('a'), md('b'), md('c'), code('A()'), code('#| export\nimport re')]
    assert [bool(defines(c)) for c in cells] == [i in (0, 4) for i in range(10)]
    assert demonstrated(cells, 0) and not demonstrated(cells, 4) and size(cells[0].source) == 2
    assert MACHINE_PATH.search('open("/home/me/x")') and MACHINE_PATH.search("'/tmp'")
    assert not MACHINE_PATH.search('prompts/work and a/tmp/b')
