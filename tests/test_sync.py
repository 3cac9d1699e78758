"Notebooks, package and folders say the same."
import sys
from collections import Counter
from conftest import ROOT, sh, tracked
from readme import PICTURE, picture, readme


def test_clean_and_export_change_nothing(clone):
    "A fresh clone, cleaned and exported, is as it was committed."
    sh(sys.executable, '-c', 'from nbdev.clean import nbdev_clean; nbdev_clean()', cwd=clone)
    sh(sys.executable, '-c', 'from nbdev.doclinks import nbdev_export; nbdev_export()', cwd=clone)
    drift = sh('git', 'status', '--porcelain', cwd=clone)
    assert not drift, f'run nbdev_clean and nbdev_export, then commit:\n{drift}'


def test_folder_is_sub_package(notebooks):
    "nbs/FOLDER/NN_name.ipynb exports FOLDER.something, and each exported module has one notebook."
    wrong = [f'{n.name} exports {n.module}' for n in notebooks
             if n.module and n.module.split('.')[:-1] != n.name.split('/')[:-1]]
    assert not wrong, wrong
    twice = [m for m, k in Counter(n.module for n in notebooks if n.module).items() if k > 1]
    assert not twice, twice
    mods = {p.relative_to(ROOT/'vlm_selfimprove').with_suffix('').as_posix().replace('/', '.')
            for p in tracked('vlm_selfimprove/*.py') if p.name not in ('__init__.py', '_modidx.py')}
    assert mods == {n.module for n in notebooks if n.module}, 'a module without its notebook, or the reverse'


def test_imports_became_relative():
    "nbdev leaves an import of the package as it is where its names take more than two lines."
    found = [f'{p.name}: {l}' for p in tracked('vlm_selfimprove/*/*.py')
             for l in p.read_text(encoding='utf-8').splitlines() if l.startswith('from vlm_selfimprove')]
    assert not found, found


def test_numbers(notebooks):
    "Notebooks that export are numbered, each number once; tutorials and papers are named; folders never have numbers."
    stem = lambda n: n.name.split('/')[-1]
    nums = Counter(stem(n).split('_')[0] for n in notebooks if n.module)
    assert all(k.isdigit() and v == 1 for k, v in nums.items()), nums
    assert not [n.name for n in notebooks if not n.module and stem(n)[0].isdigit()]
    assert not [n.name for n in notebooks if any(p[0].isdigit() for p in n.name.split('/')[:-1])]


def test_readme_is_the_index():
    assert (ROOT/'README.md').read_text(encoding='utf-8') == readme(), 'run make readme, then commit'


def test_picture_is_the_one_the_index_drew():
    assert PICTURE.read_bytes() == picture(), 'run make readme, then commit'
