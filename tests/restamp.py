"""Give committed results the hash of the present code, without running them again.

    python tests/restamp.py --old COMMIT --repeat FOLDER [--ask MODULE]

For a change that tidies and computes nothing else. Nothing is written unless

1. every committed result that has not the present hash carries the one that the code of COMMIT gives it;
2. FOLDER/results holds the main job of each method and base with such results, repeated with the present code: each item's
   score after seed 0 is the committed one.

    vlmsi reproduce stic.main --seeds 1 --out FOLDER
    vlmsi reproduce stic.main --seeds 1 --out FOLDER --model micro-weak --label weak
    vlmsi reproduce svp --seeds 1 --out FOLDER
    vlmsi reproduce textonly.main --seeds 1 --out FOLDER --model micro-told --label told
"""
import argparse, json, os, subprocess, sys, tarfile, tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
import numpy as np
from vlm_selfimprove.reproduce.claims import code_key, read_scores
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


def old_keys(commit, module, kinds):
    "What the code of a commit says the hashes of these lists of modules are."
    tar = subprocess.run(['git', 'archive', commit], cwd=ROOT, capture_output=True, check=True).stdout
    with tempfile.TemporaryDirectory() as d:
        tarfile.open(fileobj=BytesIO(tar)).extractall(d, filter='data')
        p = subprocess.run([sys.executable, '-c', ASK, module], cwd=d, env=os.environ | dict(PYTHONPATH=d),
                           input=json.dumps(kinds), text=True, capture_output=True)
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout)


def check_old(results, commit, module):
    "Every result is what that commit's code made."
    kinds = [list(k) for k in {tuple(r['made_by']) for r in results.values()}]
    keys = {tuple(k): key for k, key in zip(kinds, old_keys(commit, module, kinds))}
    wrong = [p.name for p, r in results.items() if r['code'] != keys[tuple(r['made_by'])]]
    assert not wrong, f'not made by the code of {commit}, make them again: {wrong}'


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
    args.add_argument('--repeat', required=True, help='the --out of the repeated main job')
    args.add_argument('--ask', default='vlm_selfimprove.reproduce.claims', help="module of that commit's code_key")
    a = args.parse_args()
    found = {p: json.loads(p.read_text()) for p in sorted((ROOT/'nbs/papers/results').glob('*.json'))}
    found = {p: r for p, r in found.items() if r['code'] != present(tuple(r['made_by']))}
    assert found, 'every result carries the present hash'
    check_old(found, a.old, a.ask)
    check_repeat(found, a.repeat)
    restamp(found)
