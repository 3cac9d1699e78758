"The house: rooms in order, imports that point down only, one meaning a name."
import ast, re, subprocess, sys
from collections import defaultdict
from functools import cache
from graphlib import TopologicalSorter
import yaml
from conftest import ROOT, tracked
from vlm_selfimprove.reproduce.claims import SHOWS

ROOMS = 'world', 'data', 'models', 'training', 'evaluation', 'methods', 'runs', 'reproduce', 'app'
TWO_MEANINGS = {'train', 'RECIPES'}  # public names that several modules may export: what every method has


@cache
def modules():
    "Module name below the package -> syntax tree."
    paths = [p.relative_to(ROOT/'vlm_selfimprove') for p in tracked('vlm_selfimprove/*/*.py') if p.name != '__init__.py']
    read = lambda p: ast.parse((ROOT/'vlm_selfimprove'/p).read_text(encoding='utf-8'))
    return {'.'.join(p.with_suffix('').parts): read(p) for p in paths}


def imported(tree, room, known):
    "Modules of the package that a module imports, at its top or inside a function."
    for o in ast.walk(tree):
        if isinstance(o, ast.Import): names = [a.name.removeprefix('vlm_selfimprove.') for a in o.names]
        elif isinstance(o, ast.ImportFrom):
            base = dict([(0, ''), (1, f'{room}.')])
            start = base.get(o.level, '') + (o.module or '')
            start = start.removeprefix('vlm_selfimprove').strip('.')
            names = [start, *(f'{start}.{a.name}'.strip('.') for a in o.names)]
        else: continue
        yield from (n for n in names if n in known)


@cache
def arrows():
    "Module -> modules it imports."
    known = modules()
    return {name: {n for n in imported(tree, name.split('.')[0], known) if n != name} for name, tree in known.items()}


def test_no_arrow_points_up():
    "A module imports from its own room and from those below it."
    floor = {room: i for i, room in enumerate(ROOMS)}
    up = [f'{a} imports {b}' for a, found in arrows().items() for b in found
          if floor[b.split('.')[0]] > floor[a.split('.')[0]]]
    assert not up, up


def test_no_circles():
    "Modules can be read in an order in which each needs only earlier ones."
    order = [*TopologicalSorter(arrows()).static_order()]
    assert len(order) == len(modules())


def test_rooms_folders_and_sidebar_are_one_list(notebooks):
    "Sub-packages, folders of exporting notebooks, sections of the sidebar."
    packages = {name.split('.')[0] for name in modules()}
    folders = {n.name.split('/')[0] for n in notebooks if n.module}
    side = yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    sections = [o['section'].lower() for o in side if isinstance(o, dict) and o['section'].lower() in ROOMS]
    assert packages == folders == set(sections) == set(ROOMS)
    for o in side:
        if not isinstance(o, dict) or o['section'].lower() not in ROOMS: continue
        pages = [c if isinstance(c, str) else c['href'] for c in o['contents']]
        wrong = [p for p in pages if not p.startswith(o['section'].lower() + '/')]
        assert not wrong, f"{wrong} stand in the section {o['section']}"


def test_one_meaning_a_name():
    "No public name is exported by two modules."
    where = defaultdict(set)
    for name, tree in modules().items():
        for o in tree.body:
            if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__':
                for public in ast.literal_eval(o.value): where[public].add(name)
    twice = {k: sorted(v) for k, v in where.items() if len(v) > 1 and k not in TWO_MEANINGS}
    assert not twice, twice


def test_what_draws_imports_no_trainer():
    "A page that shows bars opens at once: what draws it loads neither TRL nor PEFT nor Transformers."
    shows = [f'vlm_selfimprove.{m}' for m in modules() if m in ('reproduce.claims', *SHOWS) and m.startswith('reproduce.')]
    assert len(shows) > 2
    code = (f'import sys\nfrom importlib import import_module\nfor m in {sorted(shows)!r}: import_module(m)\n'
            "print(sorted({'trl', 'peft', 'transformers'} & set(sys.modules)))")
    p = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert p.stdout.strip() == '[]', f'{sorted(shows)} load {p.stdout}'


def test_readers_know_no_method():
    "Reports, comparisons and exports read folders: they import no method and name none."
    known = arrows()
    for name in ('runs.page', 'runs.report', 'runs.compare', 'runs.export', 'runs.run'):
        assert not [m for m in known[name] if m.startswith('methods.')], name
        named = [o.value for o in ast.walk(modules()[name]) if isinstance(o, ast.Constant) and isinstance(o.value, str)
                 and re.search(r'\bstic\b', o.value, re.I)]
        assert not named, (name, named)
