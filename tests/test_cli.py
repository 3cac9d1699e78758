"The command line: what a user may type, and what comes of it. Nothing here trains."
import os, shutil, subprocess, sys
from pathlib import Path
from unittest.mock import Mock
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import RepositoryNotFoundError
from vlm_selfimprove.app import cli
from vlm_selfimprove.app.cli import COMMANDS, main
from vlm_selfimprove.data.microset import micro_images
from vlm_selfimprove.evaluation import benchmarks
from vlm_selfimprove.evaluation.decisions import save_as_viva, situations
from vlm_selfimprove.models.micro import micro_path
from vlm_selfimprove.runs import run as runs_run


@pytest.fixture
def here(tmp_path, monkeypatch):
    "An empty folder to stand in, and what a command would have given to `improve`."
    monkeypatch.chdir(tmp_path)
    given = []
    def improve(train, recipe, out, images=None, measure=None, limit=0, rejects=(), **inputs):
        given.append(dict(recipe=recipe, out=str(out), images=images, limit=limit, rejects=rejects))
    monkeypatch.setattr(runs_run, 'improve', improve)
    tmp_path.joinpath('photos').mkdir()
    return given


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    "What the hub left in its cache: one model, as far as its settings tell."
    cache = tmp_path_factory.mktemp('hub')
    monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(cache))
    model = cache/'models--llava-hf--llava-1.5-7b-hf'
    for f, text in (('refs/main', 'c0ffee'), ('snapshots/c0ffee/config.json', '{}')):
        (model/f).parent.mkdir(parents=True)
        (model/f).write_text(text)


def refused(capsys, *argv, code=1):
    "What a command that must fail says in its last line."
    try: ended = main([*map(str, argv)])
    except SystemExit as e: ended = e.code
    err = capsys.readouterr().err
    assert ended == code and 'Traceback' not in err, err
    if code == 1: assert err.count('\n') == 1, err
    return err.strip().splitlines()[-1]


def test_every_set_counts(here):
    "Settings may stand behind one --set or several."
    assert main('stic --images photos --set lr=1e-3 seed=4 --set batch=4 --set micro_batch=2'.split()) == 0
    r = here[0]['recipe']
    assert (r.lr, r.seed, r.batch, r.micro_batch) == (1e-3, 4, 4, 2)


def test_an_explicit_model_wins(here, hub, capsys):
    "--model beats the recipe's; two explicit ones that differ are refused; a recipe without one says so."
    Path('named.yaml').write_text('method: stic\nmodel: llava-hf/llava-1.5-7b-hf\n')
    Path('bare.yaml').write_text('method: stic\n')
    Path('short.yaml').write_text('method: stic\nmodel: micro-weak\n')
    assert main('run --recipe named.yaml --images photos --model micro'.split()) == 0
    assert main('run --recipe named.yaml --images photos --set model=micro'.split()) == 0
    assert main('run --recipe short.yaml --images photos'.split()) == 0
    assert main('run --recipe named.yaml --images photos'.split()) == 0
    assert [x['recipe'].model for x in here] == [
        str(micro_path()), str(micro_path()), str(micro_path('micro-weak')), 'llava-hf/llava-1.5-7b-hf']
    assert 'names no model: give one with --model' in refused(capsys, *'run --recipe bare.yaml'.split())
    assert 'give one of them' in refused(capsys, *'run --model micro --set model=micro-weak'.split())


SETTINGS = '''norm=foo prompts=papr batch=0 batch=-8 gen_batch=0 max_new_tokens=0 save_steps=0 bare=7 bare=-0.1
temperature=-1 alpha=nan alpha=-1 beta=inf lr=inf lr=0 lr=-1e-4 lr2=nan lora_r=2.7 lora_r=0 lora_r=8.0 seed=-1 seed=true
seed=1e3 epochs=0 epochs=nan epochs2=-1 instruct_rows=0 round=-1 micro_batch2=0 lora_alpha= batch2=[ prompts=[a]'''.split()


@pytest.mark.parametrize('setting', SETTINGS)
def test_settings_are_checked_when_they_are_read(here, capsys, setting):
    "A setting of the wrong kind or out of its range is named with its value and its range; nothing is begun."
    name, value = setting.split('=', 1)
    said = refused(capsys, 'stic', '--images', 'photos', '--set', setting)
    assert f'setting {name}=' in said and ': use ' in said, said
    Path('r.yaml').write_text(f'method: stic\nmodel: micro\n{name}: {value if value != "[" else "{a: b}"}\n')
    assert f'setting {name}=' in refused(capsys, 'run', '--recipe', 'r.yaml', '--images', 'photos')
    assert not here and not Path('runs').exists()


@pytest.mark.parametrize('sizes, use', [('batch=7 micro_batch=2', 1), ('batch=12 micro_batch=8', 6), ('batch2=32 micro_batch2=5', 4)])
def test_a_step_is_kept_exactly_or_refused(here, capsys, sizes, use):
    "Forward passes are equal, and together the step that was asked for."
    assert f'use {use}' in refused(capsys, 'stic', '--images', 'photos', '--set', *sizes.split())


FILES = {'empty.yaml': ('', 'is empty'), 'list.yaml': ('- method: stic', 'names no method'), 'text.yaml': ('stic', 'names no method'),
         'open.yaml': ('method: [', 'not YAML'), 'bytes.yaml': (b'\xff\xfe\x00', 'not YAML'), 'json.yaml': ('[1, 2]', 'names no method'),
         'typo.yaml': ('method: stic\nlerning: 1', 'lerning'), 'key.yaml': ('method: stic\n1: 2', "'1'"),
         'none.yaml': ('method: sitc', "'sitc'"), 'broken.yaml': ('method: broken.py', 'SyntaxError'), 'gone.yaml': ('method: gone.py', 'no such file')}


@pytest.mark.parametrize('name', FILES)
def test_a_recipe_file_that_is_none(here, capsys, name):
    "One line, with the file or the setting."
    text, says = FILES[name]
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    Path('broken.py').write_text('def train(:')
    assert says in refused(capsys, 'run', '--recipe', name, '--images', 'photos')


PATHS = ['--images nowhere', '--images notes.txt', '--model /no/model', '--model ./model', '--model photos', '--model notes.txt',
         '--model a/b/c', '--evaluation nowhere.jsonl', '--evaluation photos', '--instructions nowhere.jsonl', '--out notes.txt',
         '--out notes.txt/run']


@pytest.mark.parametrize('wrong', PATHS)
def test_paths_are_checked_first(here, capsys, monkeypatch, wrong):
    "A path that is not there, or not what its option needs, is named before anything is loaded or made."
    Path('notes.txt').write_text('no picture')
    before = sorted(Path('.').rglob('*'))
    option, path = wrong.split()
    given = dict([('--images', 'photos'), ('--out', 'run'), (option, path)])
    said = refused(capsys, 'run', *[x for pair in given.items() for x in pair])
    assert f'{option} {path}: ' in said and ' no ' in said
    assert sorted(Path('.').rglob('*')) == before and not here


def test_a_hub_name_is_a_model_where_there_is_one(here, hub, capsys, monkeypatch):
    "In the cache, or on the hub; a name with a typo is one line, before rows are read or a folder is made."
    monkeypatch.setattr(cli, '_rows', lambda *a: pytest.fail('rows were read'))
    Path('rows.jsonl').write_text('{}')
    before, words = sorted(Path('.').rglob('*')), 'run --recipe stic --images photos --model'.split()
    for name, meant in (('llava-hf/llava-v1.6-mistral-7b-hff', 'llava-hf/llava-v1.6-mistral-7b-hf'), ('mikro', 'micro'), ('someone/else', '')):
        said = refused(capsys, *words, name, '--instructions', 'rows.jsonl')
        assert f'--model {name}: there is no folder' in said and "no such model in the hub's cache" in said
        assert said.endswith(f'; did you mean {meant!r}?') if meant else 'did you mean' not in said
    monkeypatch.setattr(HfApi, 'model_info', Mock(side_effect=RepositoryNotFoundError('none', response=Mock(headers={}))))
    assert 'the hub has no model of that name' in refused(capsys, *words, 'someone/else')
    assert sorted(Path('.').rglob('*')) == before and not here
    monkeypatch.setattr(HfApi, 'model_info', Mock())  # the hub has it
    for name in ('llava-hf/llava-1.5-7b-hf', 'someone/else'): assert main([*words, name]) == 0


def test_each_command_has_a_folder_of_its_own(here):
    "The same command finds its folder again, also with a path written in full; another one never touches it."
    same = ['--images photos', '--images ./photos', f'--images {Path("photos").resolve()}', '--images photos --set seed=0']
    other = ['--images .', '--images photos --limit 2', '--images photos --set seed=1', '--images photos --model micro-weak',
             '--images photos --evaluation micro']
    for words in same + other: assert main(['stic', *words.split()]) == 0
    outs = [x['out'] for x in here]
    assert len(set(outs[:len(same)])) == 1 and len(set(outs)) == 1 + len(other)
    assert all(o.startswith('runs/stic-') for o in outs)


def test_how_long_a_teacher_is_waited_for_makes_no_other_run(here):
    "An address finds its folder again with other settings behind the model; another model does not."
    said = ('big&key_env=', 'big&timeout=600&key_env=', 'big&key_env=&concurrency=2', 'bigger&key_env=')
    for x in said: assert main(['textonly', '--teacher', f'http://127.0.0.1:9/v1#{x}']) == 0
    outs = [x['out'] for x in here]
    assert len(set(outs[:3])) == 1 and outs[3] not in outs[:3]


@pytest.mark.parametrize('key, says', [(None, 'the environment variable TEACHER_KEY is not set'), ('two words', 'is no key')])
def test_a_teachers_key_is_looked_at_first(here, capsys, monkeypatch, key, says):
    "By the teacher's own check, before anything is measured."
    monkeypatch.setenv('TEACHER_KEY', key) if key else monkeypatch.delenv('TEACHER_KEY', raising=False)
    assert says in refused(capsys, 'textonly', '--teacher', 'https://127.0.0.1:9/v1#m&key_env=TEACHER_KEY') and not here


WORLD = dict(stic='stic --images photos', svp='svp --images photos --set nouns=micro', textonly='textonly')  # method -> a command with its micro recipe


@pytest.mark.parametrize('method', WORLD)
def test_a_micro_recipe_is_for_the_micro_world(here, hub, capsys, method):
    "Another model is refused with the recipes there are for it, by name or by folder; a base that was trained here is taken."
    words, large = WORLD[method].split(), 'llava-hf/llava-1.5-7b-hf'
    for name in ('large', 'mine'):
        Path(name).mkdir()
        Path(name, 'config.json').write_text('{}')
    shutil.copy(micro_path('micro-weak')/'tokenizer.json', 'mine')
    for model in ('large', large):
        said = refused(capsys, *words, '--model', model)
        assert f"recipe '{method}_micro' is made for the models of the micro world, and {model} is none" in said
        assert f'use --recipe {method}, {method}_' in said and not here
        assert main([*words, '--model', model, '--recipe', method]) == 0 and here.pop()
    assert main([*words, '--model', 'mine']) == 0 and here
    assert [cli._own_prompts(m) for m in ('mine', 'large', large, 'micro-mllama')] == ['micro', 'paper', 'paper', 'micro']


def test_a_description_has_the_papers_room(here, hub, monkeypatch):
    "What is asked with the paper's prompts may describe in 1,024 tokens, the micro world in 96, whatever the recipe trains on."
    asked = []
    monkeypatch.setattr(runs_run, 'measure_items', lambda items, prompts, batch, room, read: asked.append((prompts.name, room)))
    for words in ('stic --images photos', 'textonly', 'svp --images photos --set nouns=micro --recipe svp --model llava-hf/llava-1.5-7b-hf',
                  'stic --images photos --set max_new_tokens=8 --recipe stic --model llava-hf/llava-1.5-7b-hf'):
        assert main(words.split()) == 0
    assert asked == [('stic_micro', 96)] * 2 + [('stic_paper', 1024)] * 2


def test_what_viva_asks_is_not_told_before(here, hub, tmp_path):
    "Its file as an evaluation: the questions are its items, and what is written is kept away from them."
    told = []
    def improve(train, recipe, out, images, measure, limit, rejects, benchmark={}): told.append((benchmark, rejects))
    runs_run.improve = improve  # `here` puts it back
    file = save_as_viva(situations(3, 1_000_000), 'viva')
    (tmp_path/'viva/images/2.png').write_text('no picture')
    assert main(['textonly', '--recipe', 'textonly', '--model', 'llava-hf/llava-1.5-7b-hf', '--evaluation', str(file)]) == 0
    assert {k.split()[0] for k in told[0][0]} == {'viva-1', 'viva-2', 'viva-3'}
    assert [(r['stage'], r['id']) for r in told[0][1]] == [('evaluation', 'viva-2')]


def test_demo_makes_the_data_it_is_asked_for(here):
    "Fewer or more images in the same folder: the data are those of the call."
    count = lambda: len(list(Path(here[-1]['images']).iterdir()))
    for n in (2, 3, 2):
        assert main(['demo', '--n', str(n), '--rows', '2', '--out', 'd']) == 0
        assert count() == n
    assert main(['demo', '--n', '2', '--rows', '2']) == 0 and main(['demo', '--n', '2', '--rows', '2', '--seed', '1']) == 0
    assert here[-1]['out'] != here[-2]['out']


def stopped(*a, **kw): raise KeyboardInterrupt
def surprised(*a, **kw): raise ZeroDivisionError('by\nzero\x1b[2J')
def full(*a, **kw): raise OSError(28, 'No space left on device')


def test_ctrl_c_says_how_to_go_on(here, capsys, monkeypatch):
    "One line, quoted for a shell, and the exit code of an interrupted command."
    monkeypatch.setattr(runs_run, 'improve', stopped)
    Path('my photos').mkdir()
    said = refused(capsys, 'stic', '--images', 'my photos', code=130)
    assert said == "vlmsi stic: stopped; to go on: vlmsi stic --images 'my photos'"


def test_any_other_exception_is_one_line(here, capsys, monkeypatch):
    "A mistake of the program too; --debug shows where."
    monkeypatch.setattr(runs_run, 'improve', surprised)
    said = refused(capsys, 'stic', '--images', 'photos')
    assert said == r'vlmsi stic: ZeroDivisionError: by zero\x1b[2J; --debug shows where'
    assert main(['stic', '--images', 'photos', '--debug']) == 1
    assert 'Traceback' in capsys.readouterr().err
    monkeypatch.setattr(runs_run, 'improve', full)
    assert 'make room' in refused(capsys, 'stic', '--images', 'photos')


def test_a_measurement_goes_on_where_it_was_stopped(here, capsys, monkeypatch):
    "Out of memory in the second batch, then with smaller ones: what was answered is not asked again, and the numbers are those of one go."
    micro_images('data', 2, rows=6)
    words, real, asked = ['evaluate', '--evaluation', 'data/instructions.jsonl'], benchmarks.ask_all, []
    assert main([*words, '--out', 'whole']) == 0 and main(words) == 0
    kept, plain = capsys.readouterr().out.split('kept: whole/measured.json\n')
    assert kept.endswith(plain), 'the same lines, kept or not'
    def ask_all(vlm, rows, *a, **kw):
        asked.extend(r['id'] for r in rows)
        if len(asked) > 12: raise RuntimeError('CUDA out of memory.')
        return real(vlm, rows, *a, **kw)
    monkeypatch.setattr(benchmarks, 'ask_all', ask_all)
    for out in (['--out', 'parts'], []):
        asked.clear()
        assert main([*words, *out, '--batch', '3']) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.endswith('; lower --batch; with --out what was answered is kept')
        assert ('Finished batches are kept' in said) == bool(out)
    monkeypatch.setattr(benchmarks, 'ask_all', real)
    assert main([*words, '--out', 'parts', '--batch', '1']) == 0
    assert '3 of 6 rows reused' in capsys.readouterr().out
    assert Path('parts/measured.json').read_bytes() == Path('whole/measured.json').read_bytes()
    assert '--batch 0: use a number from 1' in refused(capsys, *words, '--batch', '0')
    Path('parts/run.json').write_text('{}')
    assert 'is the folder of a run' in refused(capsys, *words, '--out', 'parts')


@pytest.mark.parametrize('argv, says', [
    ('sitc', "did you mean 'stic'?"), ('micro imagse', "did you mean 'micro images'?"), ('micro', 'no command micro'),
    ('stic --imges photos', "did you mean '--images'?"), ('stic --image photos', "did you mean '--images'?"),
    ('compare a --outt', 'unknown: --outt'), ('stic --images a --images b', '--images is given twice'),
    ('run --limit -1', 'use a number from 0'), ('micro train --bias nan', 'use a number from 0')])
def test_typos_are_named(here, capsys, argv, says):
    "Wrong usage ends with 2 and the nearest word."
    try: ended = main(argv.split())
    except SystemExit as e: ended = e.code
    assert ended == 2 and says in capsys.readouterr().err


def test_words_of_an_option(here, capsys):
    "Prompt sets and styles that there are not."
    assert "did you mean 'paper'?" in refused(capsys, 'evaluate', '--prompts', 'papr')
    assert '--style foto: use one of' in refused(capsys, 'micro', 'images', '--style', 'foto')
    assert not Path('runs').exists()


def test_one_option_means_one_thing(capsys):
    "An option of the same name has the same kind in every command, and every command takes --debug."
    kinds = {}
    for name in [*COMMANDS] * 2:
        with pytest.raises(SystemExit): main([*name.split(), '--help'])
        text = capsys.readouterr().out
        assert '--debug' in text, name
        assert '(default: )' not in text, name
        for line in text.splitlines():
            words = line.split()
            if line.startswith('  --') and words[0] != '--debug': kinds.setdefault(words[0], set()).add(len(words) > 1 and words[1].isupper())
    assert all(len(v) == 1 for v in kinds.values()), kinds


def test_names_from_outside_are_harmless(here, capsys):
    "Control characters of a name are shown, not sent to the terminal."
    said = refused(capsys, 'stic', '--images', 'cow\x1b[2J\n.png')
    assert r'cow\x1b[2J' in said and '\x1b' not in said


SAME = """
from vlm_selfimprove.data.records import PreferencePair
from vlm_selfimprove.methods.variants import injected_pairs
says = ('a red cow north, a blue cow south', 'a green cat west', 'a green cat east')
pairs = [PreferencePair(str(i), 'x.png', 'describe.', f'in a park: {w}.', 'no.', 'jitter', '') for i, w in enumerate(says)]
print([p.rejected for p in injected_pairs(pairs)])
"""


@pytest.mark.slow
def test_injected_objects_are_the_same_in_every_process():
    "Words in a set have another order in each process; the injected objects have not."
    start = lambda seed: subprocess.Popen([sys.executable, '-c', SAME], text=True, stdout=subprocess.PIPE,
                                          env=os.environ | dict(PYTHONHASHSEED=str(seed)))
    said = [p.communicate(timeout=120)[0] for p in [start(s) for s in range(4)]]
    assert len(set(said)) == 1 and 'cow' in said[0]
