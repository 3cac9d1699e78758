"`vlmsi reproduce stic` runs from nothing on its smallest settings, writes every result, and a second call only reads."
import json, subprocess, sys, time
import pytest
from conftest import ROOT
from vlm_selfimprove.app.figures import FIGURES
from vlm_selfimprove.app.reproduce import CLAIMS
from vlm_selfimprove.app.studies import STUDIES

NEED = 'paper', 'name', 'claim', 'verdict', 'effect', 'interval', 'seeds', 'rows', 'settings', 'command', 'commit', 'versions', 'hardware', 'seconds'


def reproduce(out):
    t = time.time()
    code = 'import sys; from vlm_selfimprove.app.cli import main; sys.exit(main())'
    p = subprocess.run([sys.executable, '-c', code, 'reproduce', 'stic', '--smoke', '--out', str(out)], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr[-2000:]
    return {f.name: json.loads(f.read_text()) for f in sorted((out/'results').glob('*.json'))}, time.time() - t


def same(a, b):
    "Equal but for the seconds, and a commit made in between."
    drop = 'seconds', 'commit'
    return {k: {x: y for x, y in v.items() if x not in drop} for k, v in a.items()} == {k: {x: y for x, y in v.items() if x not in drop} for k, v in b.items()}


def test_smoke(tmp_path, capsys):
    "Under three minutes, every headline there, resumable."
    got, seconds = reproduce(tmp_path/'run')
    with capsys.disabled(): print(f'\n  reproduce stic --smoke: {seconds:.0f} s')
    assert all(k in r for r in got.values() for k in NEED)
    parts = {n.split('_')[1] for n in got}
    assert {'main', 'fig05', 'fig07', 'fig08', *(k.split('_')[0] for k in FIGURES)} - {'tab03'} <= parts, parts
    assert sum('_weak_' in n and 'main' in n for n in got) == len(CLAIMS) and 'stic_tab01_bases.json' in got
    again, short = reproduce(tmp_path/'run')
    assert same(got, again) and short < seconds / 2
    assert seconds < 180


def committed(): return {p.stem: json.loads(p.read_text()) for p in (ROOT/'nbs/papers/results').glob('*.json')}


@pytest.mark.parametrize('name', [*(f'main_shipped_{k}' for k in CLAIMS), *(f'{k}_shipped' for k in FIGURES), *(f'{k}_shipped' for k in STUDIES), 'fig08_shipped', 'supervised_shipped', 'stopping_shipped'])
def test_ledger_is_complete(name):
    "Every claim and study of the code has a committed result with all its fields; claims with at least three seeds."
    r = committed()[f'stic_{name}']
    assert all(k in r for k in NEED)
    assert r['verdict'] in ('reproduced', 'direction only', 'not reproduced') and len(r['seeds']) >= 3 if r['claimed'] else r['verdict'] is None
