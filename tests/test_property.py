"""Generated recipes, rows, images and damaged folders have two outcomes only: a right result, or a named refusal with nothing lost.

A few hundred cases here; `VLMSI_CASES=5000 pytest tests/test_property.py` tries as many of each."""
import io, json, os, shutil
from pathlib import Path
import numpy as np, pytest, yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from vlm_selfimprove.data.images import ImageRejected, decode
from vlm_selfimprove.data.journal import SEALS, run_stage, seal, unseal
from vlm_selfimprove.data.rows import read_rows
from vlm_selfimprove.methods.stic import STICRecipe
from vlm_selfimprove.runs.recipes import load_recipe

CASES = int(os.environ.get('VLMSI_CASES', 60))
tried = settings(max_examples=CASES, deadline=None, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
DAMAGE = 'flip', 'cut', 'empty', 'delete', 'list', 'twice'


def one_line(e):
    "Is an error a line that a user can act on?"
    text = str(e)
    assert text.strip() and len(text.strip().splitlines()) == 1 and 'Traceback' not in text, text
    return True


def damage(path, how, where):
    "Spoil one file; `where`, 0 to 1, says in what place."
    data = path.read_bytes()
    at = min(int(where * len(data)), max(0, len(data) - 1))
    if how == 'delete': return path.unlink()
    spoiled = dict(flip=data[:at] + bytes([data[at] ^ 16] if data else b'') + data[at + 1:], cut=data[:at], empty=b'',
                   list=b'[]', twice=data + data)
    path.write_bytes(spoiled[how])


# recipes

numbers = st.one_of(st.integers(-3, 70), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from((1e-4, .5, 2.7, 0, -1, 1e30)))
values = st.one_of(numbers, st.text(max_size=6), st.booleans(), st.none(), st.sampled_from(('micro', 'paper', 'sum', 'token', 'foo', '7')))
fields = list(STICRecipe.__dataclass_fields__)


@tried
@given(st.dictionaries(st.sampled_from([*fields, 'learning_rate']), values, max_size=3), st.booleans())
def test_recipes(tmp_path, given_settings, as_file):
    "A recipe that is taken has sound settings, exactly those that were given; another is refused by the setting's name."
    named = tmp_path/'r.yaml'
    named.write_text(yaml.safe_dump(dict(method='stic') | given_settings))
    try: r = load_recipe(str(named)) if as_file else load_recipe('stic_micro', given_settings)
    except ValueError as e:
        one_line(e)
        assert any(k in str(e) for k in [*given_settings, 'batch', 'method']), (given_settings, str(e))
        return
    for k, v in vars(r).items():
        kind = STICRecipe.__dataclass_fields__[k].type
        assert type(v) is kind or (kind is float and type(v) is int), (k, v)
        if isinstance(v, (int, float)): assert np.isfinite(v), (k, v)
    for k, v in given_settings.items():
        now = getattr(r, k)
        same = now == v or str(now) == str(v) or (v is None and now == '')
        assert same or float(v) == now, f'{k}: {v!r} became {now!r}'
    assert r.batch % min(r.batch, r.micro_batch) == 0 and min(r.batch, r.batch2, r.lora_r, r.max_new_tokens, r.gen_batch) > 0
    assert 0 <= r.bare <= 1 and r.temperature >= 0 and r.lr > 0


# images

@pytest.fixture(scope='module')
def pictures():
    "Whole files of several formats."
    rng = np.random.default_rng(0)
    im, out = Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)), {}
    for f in ('PNG', 'JPEG', 'GIF', 'WEBP', 'BMP', 'TIFF'):
        buf = io.BytesIO()
        im.save(buf, f)
        out[f] = buf.getvalue()
    return out


@tried
@given(st.sampled_from(('PNG', 'JPEG', 'GIF', 'WEBP', 'BMP', 'TIFF')), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
       st.floats(0, 1), st.booleans())
def test_images(pictures, form, bytes_put, cut, whole):
    "Any bytes are an upright RGB picture, or rejected with a reason that has a way out."
    data = bytearray(pictures[form])
    for at, b in bytes_put: data[min(int(at * len(data)), len(data) - 1)] = b
    data = bytes(data) if whole else bytes(data[:int(cut * len(data))])
    try: img, kinds = decode(data)
    except ImageRejected as e:
        one_line(e)
        return
    assert img.mode == 'RGB' and min(img.size) > 0 and isinstance(kinds, list)


# seals

plain = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
                     lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(st.text(max_size=3), x, max_size=3)), max_leaves=8)


@tried
@given(st.dictionaries(st.text(max_size=3).filter(lambda k: k not in SEALS), plain, min_size=1, max_size=4), st.sampled_from(sorted(SEALS)),
       st.floats(0, 1), st.integers(0, 7))
def test_seals(o, name, where, bit):
    "What was sealed is read back; with a wrong bit in its text it is refused, or says the very same."
    text = json.dumps(seal(o, name)).encode()
    same = lambda x: json.dumps(x, sort_keys=True) == json.dumps(o, sort_keys=True)
    assert same(unseal(json.loads(text), name))
    at = int(where * (len(text) - 1))
    flipped = text[:at] + bytes([text[at] ^ 1 << bit]) + text[at + 1:]
    try: assert same(unseal(json.loads(flipped), name)), flipped
    except ValueError: pass


# stages

def double(batch): return [dict(reject='odd') if r['n'] % 7 == 6 else dict(twice=2 * r['n']) for r in batch]


@tried
@given(n=st.integers(0, 12), more=st.integers(0, 3), size=st.integers(1, 5), seed=st.integers(0, 1),
       spoil=st.lists(st.tuples(st.sampled_from(('journal.jsonl', 'manifest.json', 'data.parquet')), st.sampled_from(DAMAGE), st.floats(0, 1)), max_size=3),
       stop=st.integers(0, 4))
def test_stages(tmp_path, capsys, n, more, size, seed, spoil, stop):
    "Whatever happened to a stage's folder, the stage ends with the rows of a fresh one, and good lines are not made again."
    d, rows = tmp_path/f'{os.urandom(6).hex()}', [dict(id=f'r{i}', n=i, path=f'{i}') for i in range(n)]
    keep = dict(where=dict(path='path'), batch_size=size)
    left = iter(range(stop))
    def stopped(batch):
        if next(left, None) is None: raise RuntimeError('power cut')
        return double(batch)
    try: run_stage(d, 's', rows, stopped, dict(a=seed), **keep)
    except RuntimeError as e: one_line(e)
    done = min(n, stop * size)
    for f, how, where in spoil:
        if (d/'s'/f).exists(): damage(d/'s'/f, how, where)
    after, calls = [dict(id=f'new{i}', n=100 + i, path='x') for i in range(more)] + [r | dict(path='/moved') for r in rows], []
    out = run_stage(d, 's', after, lambda b: calls.extend(b) or double(b), dict(a=seed), **keep)
    fresh = run_stage(d/'fresh', 's', after, double, dict(a=seed), **keep)
    assert out == fresh and (d/'s/data.parquet').read_bytes() == (d/'fresh/s/data.parquet').read_bytes()
    if not any(f == 'journal.jsonl' for f, *_ in spoil): assert len(calls) == len(after) - done
    calls.clear()
    assert run_stage(d, 's', after, lambda b: calls.extend(b) or double(b), dict(a=seed), **keep) == fresh and not calls
    run_stage(d, 's', after, lambda b: calls.extend(b) or double(b), dict(a=seed + 1), **keep)
    assert len(calls) == len(after), 'other settings: everything anew'
    shutil.rmtree(d)


# rows

TEXTS = ('is there a cow?', 'yes', 'two\u2028lines', '', '  ', '<image> what?', 7, None, ['yes'], '\x00\x1b[31m', 'é' * 20)
row = st.fixed_dictionaries(dict(id=st.sampled_from(('a', 'b', 'c', 1, 2.5, None, '', 'd')), prompt=st.sampled_from(TEXTS), answer=st.sampled_from(TEXTS),
                                 image=st.sampled_from(('good.png', 'bad.png', 'gone.png', '', 3, '../good.png'))))
broken = st.sampled_from(('{', '[]', '7', 'null', '{"id": "z"', '{"id": NaN}', ''))


def usable(r):
    "By the words of the tutorial: texts that say something, no placeholder, a picture that opens."
    text = lambda v: isinstance(v, str) and v.strip() and '<image>' not in v
    ids = r['id'] is None or isinstance(r['id'], int) or (isinstance(r['id'], str) and r['id'].strip())
    return bool(ids and text(r['prompt']) and text(r['answer']) and any(c.isalnum() for c in r['answer']) and r['image'] == 'good.png')


@tried
@given(st.lists(st.one_of(row, broken), max_size=5))
def test_rows(tmp_path, capsys, lines):
    "The rows that can be used, in order, each as it stood; the rest is named; an id that stands twice stops."
    Image.new('RGB', (8, 8)).save(tmp_path/'good.png')
    (tmp_path/'bad.png').write_bytes(b'no picture')
    write = lambda x: x if isinstance(x, str) else json.dumps(x, ensure_ascii=False)
    (tmp_path/'rows.jsonl').write_text('\n'.join(map(write, lines)) + '\n', encoding='utf-8')
    ids = [str(x['id']) for x in lines if isinstance(x, dict) and type(x['id']) in (str, int) and str(x['id']).strip()]
    want, rejects = [x for x in lines if isinstance(x, dict) and usable(x)], []
    try: got = read_rows(tmp_path/'rows.jsonl', rejects)
    except ValueError as e:
        one_line(e)
        assert len(set(ids)) < len(ids) or not want, str(e)
        return
    assert [(r['prompt'], r['answer']) for r in got] == [(x['prompt'], x['answer']) for x in want]
    assert len(got) + len(rejects) == sum(bool(write(x).strip()) for x in lines) and all(r['reason'] for r in rejects)
    assert len({r['id'] for r in got}) == len(got) and all(len(r['sha256']) == 64 for r in got)
