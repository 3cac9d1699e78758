"`vlmsi reproduce stic` runs from nothing on its smallest settings, writes every result, and a second call only reads."
import json, subprocess, sys, time
import pytest
from conftest import ROOT
from vlm_selfimprove.reproduce.claims import FIELDS, code_key, judged
from vlm_selfimprove.reproduce.studies import STUDIES
from vlm_selfimprove.reproduce.tables import CLAIMS, FIGURES, SETTINGS


def reproduce(out, *more):
    t = time.time()
    code = 'import sys; from vlm_selfimprove.app.cli import main; sys.exit(main())'
    command = [sys.executable, '-c', code, 'reproduce', 'stic', '--smoke', '--out', str(out), *more]
    p = subprocess.run(command, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    return {f.name: json.loads(f.read_text()) for f in sorted((out/'results').glob('*.json'))}, time.time() - t


def numbers(results): return {k: {x: v[x] for x in ('rows', 'verdict', 'settings')} for k, v in results.items()}


def test_smoke(tmp_path, capsys):
    "Headlines in under three minutes; `--full` goes on from there, keeps what was made, and adds the rest."
    got, seconds = reproduce(tmp_path/'run')
    with capsys.disabled(): print(f'\n  reproduce stic --smoke: {seconds:.0f} s')
    assert all(k in r for r in got.values() for k in FIELDS)
    parts = {n.split('_')[1].removesuffix('.json') for n in got}
    assert {'main', 'fig05', 'fig07', 'fig08', *(k.split('_')[0] for k in FIGURES)} - {'tab03'} <= parts, parts
    assert sum('_weak_' in n and 'main' in n for n in got) == len(CLAIMS) and 'stic_tab01_bases.json' in got
    assert seconds < 180
    finished = '*/stage1/adapter/*.safetensors', '*-seven/*.json', '*/measured-*/*.json'
    made = {p: p.stat().st_mtime_ns for pattern in finished for p in (tmp_path/'run').glob(pattern)}
    full, _ = reproduce(tmp_path/'run', '--full')
    assert len(made) > 10 and made == {p: p.stat().st_mtime_ns for p in made}, 'finished parts were made again'
    assert numbers(got).items() <= numbers(full).items()
    alone = 'tab03', 'supervised', 'stopping', 'headroom', 'described'
    assert {f'stic_{k}_shipped.json' for k in (*STUDIES, *alone)} <= set(full)
    assert sum('_shipped-together' in n for n in full) == sum('_weak-together' in n for n in full) == len(CLAIMS) + 2


def committed(): return {p.stem: json.loads(p.read_text()) for p in (ROOT/'nbs/papers/results').glob('*.json')}


BASES, TOGETHER = ('shipped', 'weak'), ('shipped-together',)
NAMES = [*(f'main_{b}_{k}' for b in BASES + TOGETHER for k in CLAIMS),
         *(f'{k}_{b}' for b in BASES for k in FIGURES if not k.startswith('tab03')),
         'tab03_shipped', 'tab03_direct_shipped', 'tab01_bases',
         *(f'{k}_{b}' for b in TOGETHER for k in ('tab01', 'tab01_direct')), *(f'headroom_{b}' for b in BASES),
         *(f'{k}_shipped' for k in (*STUDIES, 'fig08', 'supervised', 'stopping', 'described'))]


@pytest.mark.parametrize('name', NAMES)
def test_ledger_is_complete(name):
    "Every claim and study of the code has a committed result with all its fields; claims with at least three seeds."
    r = committed()[f'stic_{name}']
    assert all(k in r for k in FIELDS)
    assert r['settings']['images'] in (SETTINGS['images'], SETTINGS['images'] // 4), 'other settings than those of the claims'
    assert set(r['seeds']) <= set(SETTINGS['seeds'])
    assert r['verdict'] == judged(r['rows'], r['claimed'])['verdict']
    assert r['verdict'] is None if not r['claimed'] else len(r['seeds']) >= 3


def test_no_result_is_stale():
    "Every committed result was made by the code at hand; what only tidies changes no hash."
    keys = {made_by: code_key(made_by) for made_by in {tuple(r['made_by']) for r in committed().values()}}
    stale = [name for name, r in committed().items() if r['code'] != keys[tuple(r['made_by'])]]
    assert not stale, f'the code that makes them has changed since, make them again: {stale}'


def test_the_ledger_is_as_long_as_the_code():
    assert len(NAMES) == len(set(NAMES)) == len(committed())
