"""Give committed results the hash of the present code, without running them again.

    python tests/restamp.py --old COMMIT [--repeat FOLDER] [--ask MODULE]

For a change that tidies and computes nothing else. Nothing is written unless

1. every committed result that has not the present hash carries the one that the code of COMMIT gives it;
2. without FOLDER: no weights have changed, and whatever changed in the modules of a result, it cannot be reached from what
   makes the result. Everything that runs when a module is imported counts as reached, each class, and each function or
   import whose name stands in what is reached, whoever it belongs to;
3. with FOLDER: FOLDER/results holds the main job of each method and base with such results, repeated with the present code:
   each item's score after seed 0 is the committed one.

    vlmsi reproduce stic.main --seeds 1 --out FOLDER
    vlmsi reproduce stic.main --seeds 1 --out FOLDER --model micro-weak --label weak
    vlmsi reproduce svp --seeds 1 --out FOLDER
    vlmsi reproduce textonly.main --seeds 1 --out FOLDER --model micro-told --label told
"""
import argparse, ast, json, os, subprocess, sys, tarfile, tempfile
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
import numpy as np
from vlm_selfimprove.reproduce.claims import (
    _shape_text, _weights_of, _without_docs, code_key, import_closure, read_scores)
from vlm_selfimprove.reproduce.svp import SVP_CLAIMS
from vlm_selfimprove.reproduce.tables import CLAIMS
from vlm_selfimprove.reproduce.textonly import TEXT_BASES, TEXT_CLAIMS

ROOT = Path(__file__).resolve().parents[1]
BASES = 'shipped', 'weak'
ASK = '''
import inspect, json, sys
from importlib import import_module
code_key = import_module(sys.argv[1]).code_key
name = 'made_by' if 'made_by' in inspect.signature(code_key).parameters else 'modules'
print(json.dumps([code_key(**{name: tuple(k)}) for k in json.load(sys.stdin)]))
'''


@cache
def present(made_by):
    "The hash that the code of this checkout gives."
    return code_key(made_by)


@contextmanager
def as_of(commit):
    "The repository of a commit, in a folder that goes away again."
    tar = subprocess.run(['git', 'archive', commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as d:
        tarfile.open(fileobj=BytesIO(tar)).extractall(d, filter='data')
        yield Path(d)


def old_keys(commit, module, kinds):
    "What the code of a commit says the hashes of these lists of modules are."
    with as_of(commit) as d:
        p = subprocess.run([sys.executable, '-c', ASK, module], cwd=d, env=os.environ | dict(PYTHONPATH=str(d)),
                           input=json.dumps(kinds), text=True, capture_output=True)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def check_old(results, commit, module):
    "Every result is what that commit's code made."
    kinds = [list(k) for k in {tuple(r['made_by']) for r in results.values()}]
    keys = {tuple(k): key for k, key in zip(kinds, old_keys(commit, module, kinds))}
    wrong = [p.name for p, r in results.items() if r['code'] != keys[tuple(r['made_by'])]]
    assert not wrong, f'not made by the code of {commit}, make them again: {wrong}'


FUNCTIONS, CLASSES, IMPORTS = (ast.FunctionDef, ast.AsyncFunctionDef), ast.ClassDef, (ast.Import, ast.ImportFrom)


def statements(modules):
    "What a module's top level holds, without imports, texts and `__all__`: (module, name or number) -> tree."
    kept = lambda tree: [o for o in _without_docs(tree.body) if not isinstance(o, IMPORTS)]
    return {(module, getattr(o, 'name', i)): o for module, tree in modules.items()
            for i, o in enumerate(sorted(kept(tree), key=lambda o: isinstance(o, (*FUNCTIONS, CLASSES))))}


def imports(modules):
    "(module, name there) -> where from, and the name there; where a module imports a name twice, both."
    found = {}
    for module, tree in modules.items():
        for o in (o for o in ast.walk(tree) if isinstance(o, IMPORTS)):
            for a in o.names:
                of = '.' * getattr(o, 'level', 0) + (getattr(o, 'module', None) or '')
                found.setdefault((module, a.asname or a.name.partition('.')[0]), []).append((of, a.name))
    return found


def said_in(trees):
    "Every name in these trees, and every string that could be one."
    return {str(x) for tree in trees for o in ast.walk(tree)
            for x in (getattr(o, 'id', ''), getattr(o, 'attr', ''), getattr(o, 'value', '')) if str(x).isidentifier()}


def reached(modules, entries):
    "Keys of `statements` and of `imports` that can matter where a result is made, and more."
    held, imported = statements(modules), imports(modules)
    functions = {k: o for k, o in held.items() if isinstance(o, FUNCTIONS)}
    at_import = [x for o in functions.values() for x in (*o.decorator_list, o.args)]
    found = {k for k in held if k not in functions or k[0] in entries}
    names = said_in([*at_import, *(held[k] for k in found)])
    while True:
        used = {k for k in imported if k[1] in names}
        names |= {name for k in used for _, name in imported[k]}
        more = {k for k in functions if k[1] in names} - found
        if not more and used == {k for k in imported if k[1] in names}: return found | used
        found, names = found | more, names | said_in(held[k] for k in more)


def unheard(added, before):
    "Those imports among the added ones whose names the module did not say before: nothing that stood there can mean them."
    return {(module, name) for module, name in added
            if module in before and name not in said_in([before[module]]) and (module, name) not in imports(before) | statements(before)}


def check_unreached(results, commit):
    "Nothing that changed since the commit can be reached from what makes these results."
    def code_of(made_by, root):
        bases = [m for m in made_by if m.startswith('weights/')]
        modules = import_closure(tuple(m for m in made_by if m not in bases), root)
        return modules, {k: _shape_text(o) for k, o in statements(modules).items()}, imports(modules), _weights_of(root, bases)
    differ = lambda was, now: {k for k in was.keys() | now.keys() if was.get(k) != now.get(k)}
    with as_of(commit) as d:
        for made_by in {tuple(r['made_by']) for r in results.values()}:
            (before, *was), (after, *now) = (code_of(made_by, root/'vlm_selfimprove') for root in (d, ROOT))
            code, names, weights = map(differ, was, now)
            names -= unheard(now[1].keys() - was[1].keys(), before)
            there = (code | names) & (reached(before, made_by) | reached(after, made_by)) | weights
            assert code | names and not there, f'{made_by}: changed, and perhaps in use: {sorted(map(str, there))}'
            print(f"{made_by[0]:30} changed, and out of reach: {', '.join(sorted(f'{m}.{name}' for m, name in code))}")


def main_jobs(names):
    "The results of the main jobs of methods and bases that have some among these."
    stic = [f'stic_main_{b}_{k}.json' for b in BASES for k in CLAIMS if f'stic_main_{b}_facts.json' in names]
    svp = [f'svp_{k}_shipped.json' for k in SVP_CLAIMS if f'svp_{k}_shipped.json' in names]
    text = [f'text_{k}_{b}.json' for b in TEXT_BASES for k in TEXT_CLAIMS if f'text_{k}_{b}.json' in names]
    assert stic or svp or text, 'no main job among them: nothing to compare a repetition with'
    return stic + svp + text


def same(part, was, now):
    "Are two arrays of scores the same in their first training? Of training images, seeds together keep as many as all have."
    was, now = was[0], now[0]
    return np.array_equal(was, now[:len(was)] if part == 'images' else now)


def check_repeat(results, folder):
    "The main jobs have repeated item for item, with the present code."
    committed = {p.name: p for p in results}
    for name in main_jobs(committed):
        path = Path(folder)/'results'/name
        old, new = results[committed[name]], json.loads(path.read_text())
        assert new['seeds'][0] == old['seeds'][0] == 0, f'{name}: the first seed is not 0'
        assert new['code'] == present(tuple(new['made_by'])), f'{name}: repeated with other code'
        was, now = read_scores(committed[name]), read_scores(path)
        other = [f'{who}/{k}' for who in was for k in was[who] if not same(k, was[who][k], now[who][k])]
        assert was.keys() == now.keys() and not other, f'{name}: other scores of {other}'
        print(f'{name:40} the same, item for item')


def restamp(results):
    "Write the present code's hash."
    for path, r in results.items():
        path.write_text(json.dumps(r | dict(code=present(tuple(r['made_by']))), indent=1) + '\n')
    print(f'{len(results)} results carry the present hash; no number was changed')


if __name__ == '__main__':
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--old', required=True, help='commit whose code made the results')
    args.add_argument('--repeat', help='the --out of the repeated main job; without it, nothing that changed may be in reach')
    args.add_argument('--ask', default='vlm_selfimprove.reproduce.claims', help="module of that commit's code_key")
    a = args.parse_args()
    found = {p: json.loads(p.read_text()) for p in sorted((ROOT/'nbs/papers/results').glob('*.json'))}
    found = {p: r for p, r in found.items() if r['code'] != present(tuple(r['made_by']))}
    assert found, 'every result carries the present hash'
    check_old(found, a.old, a.ask)
    check_repeat(found, a.repeat) if a.repeat else check_unreached(found, a.old)
    restamp(found)
