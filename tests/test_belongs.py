"A finished run, every file of it spoiled in every simple way: readers give the right result, or one line that names the file."
import io, json, os, random, shutil
from functools import cache
from pathlib import Path
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from vlm_selfimprove.app.cli import main
from vlm_selfimprove.data.journal import SEALS, seal
from vlm_selfimprove.data.microset import micro_images
from vlm_selfimprove.models.vlm import load_vlm
from vlm_selfimprove.runs.belongs import ADAPTER, check_adapter_belongs
from vlm_selfimprove.runs import report
from vlm_selfimprove.runs.compare import against, read_run, settings_text
from vlm_selfimprove.runs.export import adapter_card, data_card, export_run, read_data, write_adapter
from vlm_selfimprove.runs.page import curve_svg
from vlm_selfimprove.runs.recipes import load_recipe
from vlm_selfimprove.runs.report import load_run, report_html, rewrite_report, write_report
from vlm_selfimprove.runs.run import begin

SMALL = 'gen_batch=8 batch=4 micro_batch=4 lora_r=4 lora_alpha=8 batch2=4 save_steps=2'.split()
SECRET = b'taken at home'


@pytest.fixture(scope='module')
def finished(tmp_path_factory, micro):
    "Eight images, eight instruction rows, six questions; all paths as a user types them, relative to where the run is started."
    d = tmp_path_factory.mktemp('belongs')
    with pytest.MonkeyPatch.context() as m:
        m.chdir(d)
        micro_images('data', 8, rows=8)
        for f in Path('data/images').iterdir():  # photographs carry more than pixels
            exif = Image.Exif()
            exif[0x010e] = SECRET.decode()
            note = PngInfo()
            note.add_text('Comment', SECRET.decode())
            Image.open(f).save(f, exif=exif, pnginfo=note, icc_profile=SECRET)
        lines = Path('data/instructions.jsonl').read_text().splitlines()
        Path('data/questions.jsonl').write_text('\n'.join(lines[:6]) + '\n')
        assert main(['stic', '--images', 'data/images', '--model', micro, '--out', 'run', '--evaluation', 'data/questions.jsonl',
                     '--instructions', 'data/instructions.jsonl', '--set', *SMALL]) == 0
    return d/'run'


@pytest.fixture
def copy(finished, tmp_path):
    "A copy to spoil, in a folder with another name above it."
    return Path(shutil.copytree(finished, tmp_path/'run'))


@pytest.fixture
def quick(monkeypatch):
    "The same pictures and curves are drawn once, not hundreds of times."
    draw = cache(lambda history, *rest: curve_svg(json.loads(history), *rest))
    monkeypatch.setattr(report, 'thumbnail_html', cache(report.thumbnail_html))
    monkeypatch.setattr(report, 'curve_svg', lambda history, *rest: draw(json.dumps(history), *rest))


def bytes_below(folder): return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob('*') if f.is_file()}


def reported(run): return report_html(load_run(run))


def compared(run):
    R = read_run(run)
    return R['results']['table'], {k: v for k, v in R['after'].items() if k not in ('key', 'sha')}


def exported(run):
    R = read_data(run)
    out = run.parent/'adapter-out'
    shutil.rmtree(out, ignore_errors=True)
    if (run/ADAPTER).exists() and 'adapter_sha256' in R['results']: write_adapter(R, out)
    rows = [[{k: v for k, v in x.items() if k != 'image'} for x in R[kind]] for kind in ('dpo', 'sft')]  # opened when written
    return (*rows, R['settings']), bytes_below(out) if out.exists() else {}


def spoiled(data):
    "Name of a damage -> what is left of the file; None: nothing."
    flip = lambda at: data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
    return {'cut': data[:len(data) // 2], 'empty': b'', 'list': b'[]', 'object': b'{}', 'deleted': None, 'not UTF-8': b'\xff' + data[1:]} | {
        f'bit {at}': flip(at) for at in {len(data) // 3, len(data) - 2} if data}


def outcome(read, run, good, *may_lack):
    "What a reader made of a spoiled run: 'right', or a line."
    try: found = read(run)
    except (ValueError, OSError) as e:
        text = str(e)
        assert len(text.splitlines()) == 1 and str(run) in text and ('start the run again' in text or 'put the' in text), text
        return text
    return 'right' if found == good else found


def test_every_single_damage(finished, tmp_path, capsys, quick):
    "One file spoiled: reports go on and say so; comparisons and exports give what they gave, or refuse. Nothing else happens."
    run = Path(shutil.copytree(finished, tmp_path/'run'))
    unread = 'journal.jsonl', 'log.jsonl', 'README.md'
    files = [f for f in sorted(run.rglob('*')) if f.is_file() and f.suffix not in ('.html', '.png') and f.name[0] != '.'
             and f.name not in unread]
    good = {read: read(run) for read in (reported, compared, exported)}
    assert good[exported][1], 'the adapter is exported'
    seen = []
    for f in files:
        data, name = f.read_bytes(), f.relative_to(run).as_posix()
        for how, left in spoiled(data).items():
            f.unlink() if left is None else f.write_bytes(left)
            for read in (compared, exported):
                got = outcome(read, run, good[read])
                if read is exported and isinstance(got, tuple):  # without an adapter, which the export says
                    assert name in (ADAPTER, 'results.json') and how == 'deleted', (name, how)
                    assert (got[0], got[1]) == (good[read][0], {}), (name, how)
                else: assert isinstance(got, str), (read.__name__, name, how, got)
                seen.append((name, how, read.__name__, got if isinstance(got, str) else 'no adapter'))
            page = outcome(reported, run, good[reported])
            if page != 'right':
                assert any(s in page for s in (f'{name} is damaged', f'{name} is missing', 'has not finished', f.parent.name)), (name, how)
            f.write_bytes(data)
    told = {(name, read) for name, _, read, got in seen if got not in ('right', 'no adapter')}
    for name in ('results.json', 'recipe.yaml', 'run.json', 'pairs/data.parquet', 'pairs/manifest.json', 'stage1/training.json'):
        assert (name, 'exported') in told, name
    for name in ('results.json', 'recipe.yaml', 'after.json'): assert (name, 'compared') in told, name
    for name, how, read, got in seen:  # a wrong byte in what a reader shows is never a right result
        if read == 'exported' and name in ('results.json', 'pairs/data.parquet', 'infused/data.parquet', 'adapter/adapter_config.json', ADAPTER):
            assert got != 'right' or how == 'deleted', (name, how)
    with capsys.disabled(): print(f'\n  {len(files)} files, {len(seen)} readings, {sum(s[3] != "right" for s in seen)} refused')


ODD = [None, True, -1, 1.5, float('nan'), float('inf'), 10**400, '', 'x', '\x1b[31m', '\u2028', '\ud800', 'a\0b', '/' * 5000, [], {}, [[]],
       [None], [{}], {'a': None}]


def put(o, rng):
    "A JSON value with something odd in one place, near the top more often than below."
    places, todo = [], [(o, k) for k in o]
    while todo:
        x, k = todo.pop()
        places.append((x, k))
        if isinstance(x[k], (dict, list)) and x[k]: todo += [(x[k], j) for j in (x[k] if isinstance(x[k], dict) else range(len(x[k])))]
    x, k = rng.choice(places if rng.random() < .7 else [(o, k) for k in o])
    x[k] = rng.choice(ODD)
    return o


def test_wrong_shapes(copy, quick):
    "JSON that is whole and says something odd, in a folder that no hash protects, under a right seal: used where it can be, or refused in one line."
    told, rng = json.loads((copy/'results.json').read_text()), random.Random(0)
    for k in ('sha256', 'files'): del told[k]
    (copy/'results.json').write_text(json.dumps(told))
    def compare(run):
        R = read_run(run)
        return settings_text([R, R]), against(R, R, told['table'][0]['name'])
    def export(run):
        R = read_data(run)
        return data_card(R), adapter_card(R['results'])
    files = [*copy.glob('*.json'), *copy.glob('*/*.json')]
    for _ in range(int(os.environ.get('VLMSI_CASES', 60))):
        f = rng.choice(files)
        data = f.read_bytes()
        o = put(json.loads(data), rng)
        for name in SEALS.keys() & o.keys(): o = seal(o, name)
        f.write_text(json.dumps(o))
        for read in (lambda run: reported(run).encode('utf-8', 'replace'), compare, export): outcome(read, copy, '')
        f.write_bytes(data)


def test_changed_settings_are_not_published(copy):
    "The recipe was edited, or another run's adapter lies in the folder: no report, comparison, export or evaluation."
    page = (copy/'report.html').read_bytes()
    recipe = (copy/'recipe.yaml').read_text()
    (copy/'recipe.yaml').write_text(recipe.replace('seed: 0', 'seed: 1'))
    readers = (rewrite_report, read_run, lambda run: export_run(run, 'hub'), lambda run: check_adapter_belongs(run/'adapter'))
    for read in readers:
        with pytest.raises(ValueError, match='seed is 1 in recipe.yaml and 0 in run.json'): read(copy)
    (copy/'recipe.yaml').write_text(recipe)
    weights = (copy/ADAPTER).read_bytes()
    (copy/ADAPTER).write_bytes(weights[:-4] + b'\0\0\0\1')
    for read in readers:
        with pytest.raises(ValueError, match='is not the adapter that results.json measured'): read(copy)
    assert (copy/'report.html').read_bytes() == page and not (copy/'export-hub').exists()
    (copy/ADAPTER).write_bytes(weights)
    for read in readers: read(copy)


def test_settings_changed_then_killed(copy):
    "From the moment other settings begin, nothing that the old ones made is shown or published under them."
    begin(copy, 'another key', load_recipe(copy/'recipe.yaml', dict(max_new_tokens=40)))  # and here the power fails
    for _ in range(2):  # and once more, started again and killed again
        page = write_report(copy).read_text()
        assert not load_run(copy)['trainings'] and '<svg' not in page, 'a curve of the old training'
        begin(copy, 'another key', load_recipe(copy/'recipe.yaml'))
    assert 'has no results' in page and 'question accuracy' not in page and 'class="card"' not in page
    with pytest.raises(ValueError, match='nothing to export: .*pairs has not finished'): export_run(copy, 'hub')
    assert not (copy/'adapter').exists()


def test_an_older_edition(copy):
    "Without keys nothing shows that the adapter belongs: the report says so, an export refuses."
    told = json.loads((copy/'results.json').read_text())
    for k in ('run_key', 'adapter_sha256', 'files', 'sha256'): told.pop(k, None)
    (copy/'results.json').write_text(json.dumps(told))
    (copy/'run.json').unlink()
    assert 'older edition' in write_report(copy).read_text()
    assert read_run(copy)['results']['table']
    with pytest.raises(ValueError, match='older edition'): export_run(copy, 'hub')


def test_from_any_folder(finished, tmp_path, monkeypatch):
    "The run was started with relative paths; reports and exports made elsewhere are the same."
    monkeypatch.chdir(finished.parent)
    page, here = write_report('run').read_bytes(), bytes_below(export_run('run', 'swift', tmp_path/'here'))
    for cwd, name in ((tmp_path, finished), (finished, Path('.'))):
        monkeypatch.chdir(cwd)
        assert write_report(name).read_bytes() == page
        out = tmp_path/f'away-{cwd.name}'
        assert bytes_below(export_run(name, 'swift', out)) == here


def test_nothing_but_pixels(finished, tmp_path):
    "No export holds what a photograph's file told besides its pixels, nor a path of this machine."
    photo = finished.parent/'data/images'
    assert all(SECRET in f.read_bytes() for f in photo.iterdir())
    for to in ('trl', 'llamafactory', 'swift', 'hub'):
        for name, data in bytes_below(export_run(finished, to, tmp_path/to)).items():
            assert SECRET not in data, f'{to}/{name}'
            if name.endswith('.png'): assert not Image.open(io.BytesIO(data)).info, f'{to}/{name}'
            if not name.endswith('.arrow'): assert str(finished.parent).encode() not in data, f'{to}/{name}'


def test_published_adapter(finished, tmp_path, micro):
    "The card names the base by its folder's name, the measures with intervals and the licence; the adapter loads."
    out = export_run(finished, 'hub', tmp_path/'hub')/'adapter'
    card, conf = (out/'README.md').read_text(), json.loads((out/'adapter_config.json').read_text())
    base = Path(micro).name
    assert conf['base_model_name_or_path'] == base and micro not in card and f'On {base}' in card
    assert all(f'## {head}' in card for head in ('Measured', 'Settings', 'Licence')) and '| question accuracy, direct |' in card
    assert sorted(f.name for f in out.iterdir()) == ['README.md', 'adapter_config.json', 'adapter_model.safetensors']
    assert '+' in load_vlm(micro, str(out)).name


def test_commands_are_quoted(finished, tmp_path, capsys):
    "Names with spaces and control characters, printed so that they can be typed and a terminal obeys nothing."
    run = Path(shutil.copytree(finished, tmp_path/'my run\x1b[31m'))
    export_run(run, 'swift')
    rewrite_report(run)
    said = capsys.readouterr().out
    assert '\x1b' not in said and "ROOT_IMAGE_DIR='" in said
