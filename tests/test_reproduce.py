"`vlmsi reproduce stic`, `svp`, `textonly` and `compare` run from nothing on their smallest settings, write every result, and a second call only reads."
import contextlib, json, os, shutil, sys
from multiprocessing import forkserver
from pathlib import Path
from unittest.mock import patch
import pytest
from conftest import ROOT, tracked
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from vlm_selfimprove.app import cli
from vlm_selfimprove.models.micro import shipped
from vlm_selfimprove.reproduce import parts
from vlm_selfimprove.reproduce.authors import PLACE, UNSAID, with_numbers
from vlm_selfimprove.reproduce.claims import FIELDS, code_key, read_result
from vlm_selfimprove.reproduce.compare import COMPARE_AMOUNTS, COMPARE_CLAIMS, COMPARE_SMALL
from vlm_selfimprove.reproduce.drawing import TEXT_FULL, claim_and_base
from vlm_selfimprove.reproduce.ledger import PAGE_OF, PAPERS
from vlm_selfimprove.reproduce.more_arms import MORE_ARMS
from vlm_selfimprove.reproduce.studies import STUDIES
from vlm_selfimprove.reproduce.svp import SVP_AMOUNTS, SVP_CLAIMS, TRAININGS
from vlm_selfimprove.reproduce.textonly import TEXT_AMOUNTS, TEXT_BASES, TEXT_CLAIMS
from vlm_selfimprove.reproduce.tables import CLAIMS, CONTROLLED, FIGURES, GAINS, SETTINGS

RESULTS = ROOT/'nbs/papers/results'
PAGES = sorted(p for p in tracked('nbs/papers/*.ipynb'))


def spent():
    "Seconds of all cores: of this process, of those that it started, and of those that are forked for it from a server of its own."
    server = forkserver._forkserver._forkserver_pid
    ticks = Path(f'/proc/{server}/stat').read_text().rpartition(')')[2].split()[11:15] if server else []
    return sum(os.times()[:4]) + sum(map(int, ticks)) / os.sysconf('SC_CLK_TCK')


def reproduce(out, *more, paper='stic', workers=2):
    "A paper's results, and the seconds of all cores that they took. Two workers, as ever, are other processes; one is this one."
    words, before = ['reproduce', paper, '--smoke', '--out', str(out), '--workers', str(workers), *more], spent()
    with patch.object(sys, 'argv', ['vlmsi', *words]): assert cli.main(words) == 0
    found = {f.stem.removeprefix('stic_'): read_result(f) for f in sorted((out/'results').glob(f"{paper.removesuffix('only')}_*.json"))}
    return found, spent() - before


def numbers(results): return {k: {x: v[x] for x in ('compared', 'verdict', 'settings', 'items')} for k, v in results.items()}


def of_studies(*keys): return {f'{k}{end}' for k in keys for end in STUDIES[k].claims or ['']}


HEADLINES = {*(f'main_shipped_{k}' for k in CLAIMS), *(f'control_shipped_{k}' for k in CONTROLLED),
             *(f'{k}_shipped' for k in (*FIGURES, *of_studies('fig05', 'fig07'), 'fig08'))}
REST = {*(f'{k}_shipped' for k in (*of_studies(*STUDIES), *MORE_ARMS, 'supervised', 'stopping', 'headroom')), 'tab01_bases', 'headroom_weak',
        *(f'main_weak_{k}' for k in CLAIMS), *(f'{k}_weak' for k in GAINS),
        *(f'main_{b}-together_{k}' for b in ('shipped', 'weak') for k in CLAIMS),
        *(f'{k}_{b}-together' for b in ('shipped', 'weak') for k in ('tab01', 'tab01_direct'))}


OF_SAMPLES = {f'svp_{k}_shipped' for k in ('absent', 'there', 'ranks', 'truth')}  # claims without a training
SVP_HEADLINES = {f'svp_{k}_shipped' for k in SVP_CLAIMS}


@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "STIC's headlines: folder, results, core-seconds."
    out = tmp_path_factory.mktemp('smoke')/'run'
    return out, *reproduce(out)


@pytest.fixture(scope='module')
def everything(smoke):
    "`--full` of each paper, after the headlines: folder, results of STIC, of SVP, of text-only training, of all three."
    finished = '*/stage1/adapter/*.safetensors', '*-seven/*.json', '*/measured-*/*.json'
    made = {p: p.stat().st_mtime_ns for pattern in finished for p in smoke[0].glob(pattern)}
    full, _ = reproduce(smoke[0], '--full')
    assert len(made) > 10 and made == {p: p.stat().st_mtime_ns for p in made}, 'finished parts were made again'
    rest = dict(svp=['--full'], textonly=['--full'], compare=[])  # the comparison has no studies
    return smoke[0], full, *(reproduce(smoke[0], *more, paper=p)[0] for p, more in rest.items())


def test_smoke(smoke, capsys):
    "STIC's headlines in less than four minutes of two cores."
    _, first, seconds = smoke
    with capsys.disabled(): print(f'\n  reproduce stic --smoke: {seconds:.0f} seconds of one core')
    assert set(first) == HEADLINES and seconds < 2 * 240
    trained = [k for k, r in first.items() if any(not who.startswith('base ') for c in r['compared'].values() for who in c['of'])]
    assert len(trained) == len(first) - 1 and all(first[k]['adapters'] for k in trained), 'whose adapters, and how to make them again'
    assert all('vlmsi reproduce' in a['command'] and len(a['sha256']) == 64 for r in first.values() for a in r['adapters'].values())


def test_second(smoke, capsys):
    "SVP's headlines in less than three minutes of two cores; a second call only reads."
    full, seconds = reproduce(smoke[0], paper='svp')
    made = {p: p.stat().st_mtime_ns for p in smoke[0].glob('svp-*/**/*.safetensors')}
    again, sooner = reproduce(smoke[0], paper='svp', workers=1)
    with capsys.disabled(): print(f'\n  reproduce svp --smoke: {seconds:.0f} seconds of one core, read again {sooner:.0f}')
    assert seconds < 2 * 180 and set(full) == SVP_HEADLINES
    assert len(made) >= len(TRAININGS) and made == {p: p.stat().st_mtime_ns for p in made}
    assert numbers(again) == numbers(full)
    assert all(full[k]['adapters'] for k in SVP_HEADLINES - OF_SAMPLES)


def test_third(smoke, capsys):
    "Text-only training's headlines on three bases, in less than three minutes of two cores."
    found, seconds = reproduce(smoke[0], paper='textonly')
    with capsys.disabled(): print(f'\n  reproduce textonly --smoke: {seconds:.0f} seconds of one core')
    there = [label for label, folder in TEXT_BASES.items() if folder in shipped()][:3]
    assert set(found) == {f'text_{k}_{b}' for k in TEXT_CLAIMS for b in there} and seconds < 2 * 180


def test_all_is_each(tmp_path, monkeypatch):
    "`vlmsi reproduce all` is each paper and the comparison, one after another, with the same settings."
    called = []
    for name in ('reproduce_all', 'reproduce_second', 'reproduce_third', 'reproduce_fourth'):
        monkeypatch.setattr(parts, name, lambda *given, name=name: called.append((name, str(tmp_path) in given, True in given)))
    cli.reproduce('all', out=str(tmp_path), smoke=True)
    assert called == [(f'reproduce_{k}', True, True) for k in ('all', 'second', 'third', 'fourth')]


OF_PAIRS = {f'{how}_{a}_{b}' for how in ('adds', 'keeps') for a, b in COMPARE_SMALL['orders']}


@pytest.mark.slow  # a minute and a half; notebook 103 always runs its parts
def test_fourth(tmp_path, capsys):
    "Three methods side by side, from nothing, in less than two minutes of one core; a second call only reads."
    found, seconds = reproduce(tmp_path, paper='compare', workers=1)
    made = {p: p.stat().st_mtime_ns for pattern in ('**/*.safetensors', '**/measured.json') for p in tmp_path.glob(pattern)}
    again, sooner = reproduce(tmp_path, paper='compare')
    with capsys.disabled(): print(f'\n  reproduce compare --smoke: {seconds:.0f} seconds of one core, read again {sooner:.0f}')
    assert set(found) == {f'compare_{k}_shipped' for k in {*COMPARE_CLAIMS, *OF_PAIRS, 'all'}} and seconds < 120
    assert len(made) > 15 and made == {p: p.stat().st_mtime_ns for p in made} and numbers(again) == numbers(found)
    assert all(r['adapters'] for r in found.values()) and {claim_and_base(k)[0] for k in found} <= set(PAGE_OF)
    assert all(one['written'] > one['learned'] > 0 for each in found['compare_all_shipped']['cost'].values() for one in each)


@pytest.mark.slow
def test_everything(smoke, everything):
    "`--full` goes on from the headlines, keeps what was made, and gives each claim of the ledger a result."
    _, first, _ = smoke
    _, full, svp, text, three = everything
    assert set(full) == HEADLINES | REST
    assert numbers(first).items() <= numbers(full).items()
    assert {claim_and_base(k)[0] for k in svp} == {k for k in PAGE_OF if k.startswith('svp_')}
    assert {claim_and_base(k)[0] for k in text} == {k for k in PAGE_OF if k.startswith('text_')}
    assert {claim_and_base(k)[0] for k in three} < {k for k in PAGE_OF if k.startswith('compare_')}  # not all orders


def said_by(page, home):
    "What a page says, run in a copy of the papers' folder with results of its own."
    path = home/'papers'/page.relative_to(ROOT/'nbs/papers')
    nb = read_nb(path)
    with contextlib.chdir(path.parent): CaptureShell(path=path.parent).run_all(nb, exc_stop=True)
    said = json.dumps([c.get('outputs', []) for c in nb.cells if c.cell_type == 'code'], default=str)
    return said, said.count('waits for its result') + said.count('Waiting for')


@pytest.fixture
def papers(tmp_path):
    "A copy of the pages, without results."
    shutil.copytree(ROOT/'nbs/papers', tmp_path/'papers', ignore=shutil.ignore_patterns('results'))
    return tmp_path


@pytest.mark.slow
def test_pages_draw_results(everything, papers):
    "Every page of the papers, with a result for everything it shows: none waits, none fails."
    shutil.copytree(everything[0]/'results', papers/'papers/results')
    for page in PAGES:
        said, waits = said_by(page, papers)
        assert not waits and any(kind in said for kind in ('svg', 'text/markdown', 'text/html')), page.name


WAITING = ('index', 'side_by_side', 'stic/tab01_gains', 'stic/losses', 'stic/like_for_like', 'svp/tab03_benchmarks',
           'textonly/what_it_learns')


@pytest.mark.parametrize('name', WAITING)
def test_pages_wait_for_results(name, papers):
    "Without any result a page opens, and says in one line what makes it."
    assert said_by(ROOT/f'nbs/papers/{name}.ipynb', papers)[1] == 1


def test_the_ledger_is_as_long_as_the_code():
    "Each claim and study has its page and its place; the paper's claims are those that a stranger would look for."
    judged = {f'compare_{how}_{a}_{b}' for how in ('adds', 'keeps') for a, b in COMPARE_AMOUNTS['orders']}
    assert judged | {f'compare_{k}' for k in (*COMPARE_CLAIMS, 'all', 'alone')} == {k for k in PAGE_OF if k.startswith('compare_')}
    assert {claim_and_base(k)[0] for k in HEADLINES | REST} == {k for k in PAGE_OF if not k.startswith(('svp_', 'text_', 'compare_'))}
    assert {p.relative_to(ROOT/'nbs/papers').as_posix() for p in PAGES} >= set(PAGE_OF.values())
    assert all(len(pages) > (15 if paper in ('STIC', 'SVP') else 4) for paper, pages in PAPERS.items())


def test_sentences_go_the_way_of_their_results():
    "What is told to the authors of a paper still holds: no result has moved away from its sentence."
    pages = [p for p in PAGES if p.name == 'authors.ipynb']
    for page in pages:
        text = '\n'.join(c['source'] for c in read_nb(page).cells if c.cell_type == 'code')
        names = {m[1].partition('/')[0] for m in PLACE.finditer(text)}
        file = lambda name: RESULTS/f"{name if name.startswith(('svp_', 'text_', 'compare_')) else f'stic_{name}'}.json"
        assert UNSAID not in with_numbers(text, {k: json.loads(file(k).read_text()) for k in names}), page
        assert len(names) > 10, page
    assert {p.parent.name for p in pages} == {'stic', 'svp', 'textonly'}
    told = 'README.md', 'nbs/papers/bases.ipynb'  # the landing page's outputs, and a page's
    assert not [p for p in told if UNSAID in (ROOT/p).read_text(encoding='utf-8')]


# one training seed, and their pages say so
EXPLORATORY = ('stic_supervised', 'svp_samples', 'svp_iterations', 'svp_size', 'svp_detector', 'svp_distributions', 'svp_unequal',
               'compare_', *(k for k in TEXT_FULL if k != 'text_foreign'))
COMMITTED = sorted(RESULTS.glob('*.json'))


@pytest.mark.parametrize('path', COMMITTED, ids=[p.stem for p in COMMITTED])
def test_committed_results(path):
    "Each is what its items' scores say, and on the settings and seeds of the claims."
    r = read_result(path)  # computes effect, interval and verdict again
    assert all(k in r for k in FIELDS) and r['name'] == path.stem
    assert path.stem.removeprefix('stic_') in HEADLINES | REST if r['paper'] == 'STIC' else claim_and_base(path.stem)[0] in PAGE_OF
    amounts = {'SVP': [SVP_AMOUNTS['images']], 'STIC': [SETTINGS['images'], SETTINGS['images'] // 4], 'Three methods': [COMPARE_AMOUNTS['images']]}
    if r['paper'] == 'Text-only':
        wanted = {k: TEXT_AMOUNTS[k] for k in ('items', 'vqa', 'scenes')} | dict(sizes=list(TEXT_AMOUNTS['sizes']))
        assert {k: r['settings'][k] for k in wanted} == wanted and r['settings']['recipe']['questions'] == max(wanted['sizes'])
    else: assert r['settings']['images'] in amounts[r['paper']], 'other settings than those of the claims'
    assert set(r['seeds']) <= set(SETTINGS['seeds'])
    if r['form'] != 'study' and not path.stem.startswith(EXPLORATORY): assert len(r['seeds']) >= 3


def test_no_result_is_stale():
    "Every committed result was made by the code at hand; what only tidies changes no hash."
    results = {p.stem: json.loads(p.read_text()) for p in COMMITTED}
    keys = {made_by: code_key(made_by) for made_by in {tuple(r['made_by']) for r in results.values()}}
    stale = [name for name, r in results.items() if r['code'] != keys[tuple(r['made_by'])]]
    assert not stale, f'the code that makes them has changed since, make them again: {stale}'
    assert {p.name.removesuffix('.npz.xz') for p in RESULTS.glob('items/*')} == {p.stem for p in COMMITTED}, 'scores without a result'
