"A teacher that is served, by a real server and by one that fails on purpose: nothing is lost or asked twice, and no key gets out."
import json, logging, os, signal, socket, subprocess, sys, time, traceback, urllib.request
from collections import Counter
from dataclasses import fields, replace
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest, torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from fault_server import FAULTS, OFTEN, drawn, fault_server, recorded
from vlm_selfimprove.data.journal import read_stages, run_stage
from vlm_selfimprove.data.prompts import TEXT_MICRO
from vlm_selfimprove.models.micro import micro_path
from vlm_selfimprove.models.teacher import Endpoint, Reply, ask_teacher, counted, load_teacher, teacher_key
from vlm_selfimprove.models.vlm import load_vlm
from vlm_selfimprove.world.scenes import mk_scene
from vlm_selfimprove.world.tasks import decision_json, mk_row, situation_words

SECRET = 'sk-planted-9f8e7d6c5b4a'


@pytest.fixture(scope='module')
def lm(): return load_teacher(micro_path('micro-lm'))


def asking(n): return [dict(id=f'a{i}', prompt=f'question {i}') for i in range(n)]
def endpoint(s, **kw): return load_teacher(f'{s.url}#m', **dict(key_env='', backoff=.002, timeout=20.) | kw)


def situations():
    "Twelve decisions, which take a few tokens, and six requests for a question, two of which are cut."
    rng, scenes = np.random.default_rng(7), [mk_scene(1_000_000 + i, 'situation') for i in range(18)]
    decide = [TEXT_MICRO['train'].format(situation=situation_words(s), question=mk_row(1_000_000 + i, 'decision')['prompt'])
              for i, s in enumerate(scenes[:12])]
    write = [TEXT_MICRO['request'].format(examples=decision_json(s, rng), n=1) for s in scenes[12:]]
    rows = [dict(id=f's{i}', prompt=p) for i, p in enumerate(decide + write)]
    return [(rows[:16], 120), (rows[16:], 20)]


# --- a real server ---

@pytest.fixture(scope='module')
def served(tmp_path_factory):
    "`transformers serve` with the language model that ships: its address and the model's name there."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    said, model = tmp_path_factory.mktemp('serve')/'said.txt', str(micro_path('micro-lm'))
    command = [Path(sys.executable).with_name('transformers'), 'serve', model, '--host', '127.0.0.1', '--port', str(port),
               '--device', 'cpu', '--dtype', 'float32']
    with open(said, 'w') as f: p = subprocess.Popen(command, stdout=f, stderr=f)
    try:
        for _ in range(1200):
            assert p.poll() is None, said.read_text()[-3000:]
            try: urllib.request.urlopen(f'http://127.0.0.1:{port}/health').close()
            except OSError: time.sleep(.25)
            else: break
        else: pytest.fail(said.read_text()[-3000:])
        yield SimpleNamespace(url=f'http://127.0.0.1:{port}/v1', model=model, port=port)
    finally:
        p.terminate()
        p.wait(60)


def test_a_real_server_says_what_the_model_says_here(served, lm):
    "The same weights behind an address: the same texts, the same ends, the same tokens counted."
    there = load_teacher(f'{served.url}#{served.model}', key_env='', concurrency=2)
    for asks, most in situations():
        here, far = (ask_teacher(t, asks, most, temperature=0.) for t in (lm, there))
        assert [r.text for r in far] == [r.text for r in here] and all(r.text for r in here)
        assert far == here
        assert {r.finish for r in here} == ({'stop'} if most > 100 else {'length'})
        told = counted(far, there)
        assert told['uncounted'] == 0 and told['tokens_out'] == counted(here, lm)['tokens_out'] > 0


def test_a_real_server_refuses(served):
    "What it says of a model that it has not, and at an address where it has nothing."
    asks = asking(2)
    said = ask_teacher(load_teacher(f'{served.url}#another', key_env=''), asks, 4)
    assert {r.fault[:8] for r in said} == {'HTTP 400'} and all('another' in r.fault or 'pinned' in r.fault for r in said), said
    with pytest.raises(ValueError, match=r'HTTP 404.*\(url\)'):
        ask_teacher(load_teacher(f'http://127.0.0.1:{served.port}/v9#m', key_env=''), asks, 4)


# --- a server that fails on purpose ---

def test_five_thousand_asks_at_twenty_percent_faults():
    "Each is answered or counted as failed with its reason; none is lost or answered twice; order and counts are right."
    asks = asking(5000)
    with fault_server(lambda prompt, attempt: drawn(0, prompt, attempt, .2, OFTEN)) as s:
        there = endpoint(s, retries=3, concurrency=32, timeout=15., price_in=2.5, price_out=10.)
        replies = ask_teacher(there, asks)
    told = counted(replies, there)
    injected = Counter()
    for kind, n in s.injected.items(): injected[FAULTS.get(kind)] += n
    del injected[None]
    assert told['faults'] == dict(injected) and sum(injected.values()) > 1000 and {*FAULTS} <= {*s.injected}
    assert told['tries'] == sum(s.asked.values()) == sum(injected.values()) + told['answered']
    assert {*s.answered.values()} == {1}, 'an ask was answered twice'
    assert [bool(s.answered[a['prompt']]) for a in asks] == [not r.fault for r in replies]
    for a, r in zip(asks, replies, strict=True):
        assert r.tries == s.asked[a['prompt']] <= 4
        faults = [FAULTS[k] for n in range(r.tries) if (k := drawn(0, a['prompt'], n, .2, OFTEN))]
        assert [f for f in [*r.mended.split(', '), r.fault] if f] == faults
        want = recorded(a['prompt'], s.replies)
        if not r.fault: assert (r.text, r.finish) == (want['text'], want['finish'])
        else: assert (r.text, r.finish, r.tries) == ('', 'failed', 4)
    ok = [recorded(a['prompt'], s.replies) for a, r in zip(asks, replies) if not r.fault]
    known = [w for w in ok if w['usage']]
    assert told['failed'] == sum(told['lost'].values()) == len(asks) - len(ok) > 0
    assert (told['tokens_in'], told['tokens_out']) == tuple(sum(w[k] for w in known) for k in ('tokens_in', 'tokens_out'))
    assert told['cut'] == sum(w['finish'] == 'length' for w in ok) > 0
    assert told['uncounted'] == len(ok) - len(known) > 0 and told['cost'] is None
    counts = [r for r in replies if r.tokens_in >= 0]
    assert counted(counts, there)['cost'] == pytest.approx((told['tokens_in'] * 2.5 + told['tokens_out'] * 10) / 1e6)


@pytest.mark.parametrize('kind', FAULTS)
def test_one_fault_is_mended_and_a_lasting_one_is_told(kind):
    "Each kind by itself: once, and for ever."
    for_ever = lambda prompt, attempt: kind if prompt == 'question 1' or attempt == 0 else ''
    with fault_server(for_ever) as s:
        there = endpoint(s, retries=1, timeout=3. if kind == 'slow' else 20.)
        one, lost, three = ask_teacher(there, asking(3))
    assert (one.tries, one.fault, one.mended) == (2, '', FAULTS[kind]) and one.text.endswith('[question 0]')
    assert (lost.tries, lost.fault, lost.finish) == (2, FAULTS[kind], 'failed') and three.text.endswith('[question 2]')


@pytest.mark.parametrize('seconds', [2, None])
def test_a_busy_server_is_left_alone(seconds):
    "By all asks, as long as it says, in seconds or as a date."
    rest = str(seconds) if seconds else formatdate(time.time() + 4, usegmt=True)
    with fault_server(lambda prompt, attempt: '429' if (prompt, attempt) == ('question 0', 0) else '', rest=rest, pause=.1) as s:
        replies = ask_teacher(endpoint(s, concurrency=2), asking(40))
    early = [t - s.times[0] for t in s.times if 1 < t - s.times[0] < 1.95]
    assert replies[0].mended == 'HTTP 429' and not early and len(s.times) == 41


def test_nobody_waits_for_ever():
    "Whatever a server asks for, the longest wait is a setting."
    with fault_server(lambda prompt, attempt: '' if attempt else '429', rest='40') as s:
        start = time.monotonic()
        assert ask_teacher(endpoint(s, longest=.2), asking(3))[2].mended == 'HTTP 429'
        assert .2 <= time.monotonic() - start < 35


def test_how_many_at_a_time_and_a_minute():
    "As many threads as the settings say, and tries spread over the minute, over calls too."
    with fault_server(pause=.05) as s:
        ask_teacher(endpoint(s, concurrency=3), asking(12))
        assert 1 < s.most <= 3
    with fault_server(lambda prompt, attempt: '500' if attempt == 0 and prompt == 'question 1' else '') as s:
        there, start = endpoint(s, per_minute=240, concurrency=8), time.monotonic()
        for n in (5, 6): ask_teacher(there, asking(n))
        assert len(s.times) == 12 and time.monotonic() - start >= 11 * .25


def test_an_interrupt_stops_it():
    "What is under way is waited for; what is not, is not sent."
    def script(prompt, attempt):
        if prompt == 'question 20': os.kill(os.getpid(), signal.SIGINT)
        return '500' if prompt == 'question 22' else ''  # its tries would take 53 seconds or more
    # a program that was started in the background is deaf to interrupts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with fault_server(script) as s:
            start = time.monotonic()
            with pytest.raises(KeyboardInterrupt): ask_teacher(endpoint(s, concurrency=2, backoff=15., retries=3), asking(2000))
            assert len(s.times) < 1000 and time.monotonic() - start < 40
    finally: signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('status, body, setting', [
    (401, dict(error=dict(message='Incorrect API key')), 'key_env'), (404, dict(error=dict(message='no model m')), 'model'),
    (429, dict(error=dict(code='insufficient_quota')), 'no quota left')])
def test_what_would_fail_for_all_is_refused_at_once(status, body, setting):
    "A wrong key, an unknown model, an empty account."
    with fault_server(refused={a['prompt']: (status, body) for a in asking(500)}) as s:
        with pytest.raises(ValueError, match=setting): ask_teacher(endpoint(s, concurrency=2), asking(500))
        assert len(s.times) < 50 and {*s.asked.values()} == {1}


def test_one_refused_ask_takes_no_other_with_it():
    "A refusal is not tried again, its words are kept, and the others are answered, whatever comes after the first."
    with fault_server(refused={'question 1': (400, dict(error=dict(message='too\nlong ' * 99))), 'question 2': (404, {}),
                               'question 3': (422, dict(detail='temperature'))}) as s:
        replies = ask_teacher(endpoint(s), asking(6))
    assert [r.tries for r in replies] == [1] * 6 and [bool(r.fault) for r in replies] == [False, True, True, True, False, False]
    assert replies[1].fault.startswith('HTTP 400: too long too') and len(replies[1].fault) < 150
    assert replies[3].fault == 'HTTP 422: temperature'


def test_nobody_there():
    "All tries are used, for the server may be starting; then the address is named."
    with fault_server() as s: there = endpoint(s, retries=1)
    with pytest.raises(ValueError, match=r'no connection.*\(url\)'): ask_teacher(there, asking(40))
    assert ask_teacher(there, []) == []


def test_what_is_sent():
    "The model's name, both parts of the ask, what limits the answer, and a seed that hangs on the ask."
    with fault_server() as s:
        ask = dict(id='x', prompt='question', system='be brief')
        ask_teacher(endpoint(s), [ask], 9, .7, .9, seed=3)
        ask_teacher(endpoint(s), [ask], 9, .7, .9, seed=4)
        ask_teacher(endpoint(s, limit='max_completion_tokens'), [dict(ask, system='')], 9, 0.)
    first, second, third = s.requests
    seed = first.pop('seed')
    assert first == dict(model='m', temperature=.7, top_p=.9, max_tokens=9, messages=[
        dict(role='system', content='be brief'), dict(role='user', content='question')])
    assert isinstance(seed, int) and second['seed'] != seed
    assert third == dict(model='m', temperature=0., max_completion_tokens=9, messages=[dict(role='user', content='question')])


def test_a_run_that_is_stopped_goes_on(tmp_path):
    "Through a stage's journal: a server that dies in the middle costs the batch that it died in."
    def stage(there, batch):
        replies = ask_teacher(there, batch)
        if all(r.fault for r in replies): raise ConnectionError(replies[0].fault)
        return [dict(reject=r.fault) if r.fault else dict(text=r.text) for r in replies]
    run = lambda s, **kw: run_stage(tmp_path, 'replies', asking(60), lambda b: stage(endpoint(s, **kw), b), {}, batch_size=10)
    with fault_server(lambda prompt, attempt: '500' if int(prompt.split()[1]) >= 30 else '') as s:
        with pytest.raises(RuntimeError, match='HTTP 500'): run(s, retries=0)
        assert len(s.answered) == 30
    with fault_server(refused={'question 40': (400, {})}) as s: kept = run(s)
    assert len(kept) == 59 and {*s.answered} == {f'question {i}' for i in range(30, 60)} - {'question 40'}
    assert [r['text'].split('[')[-1] for r in kept] == [f'question {i}]' for i in range(60) if i != 40]
    assert sum(read_stages(tmp_path)[0]['reasons'].values()) == 1


# --- the key ---

def chain(e):
    "An exception and all that hangs on it."
    while e is not None:
        yield from (str(e), repr(e), str(vars(e)), ''.join(traceback.format_exception(e)))
        e = e.__cause__ or e.__context__


def test_a_planted_key_gets_nowhere_but_to_the_server(caplog, capfd, monkeypatch, tmp_path):
    "A server that repeats it in errors and answers: no reply, count, log, manifest, exception or printed object has it."
    monkeypatch.setenv('TEACHER_KEY', f' {SECRET}\n')  # as it comes out of a file
    caplog.set_level(logging.DEBUG)
    refused = {'question 3': (400, dict(error=dict(message=f'{SECRET} is wrong'))),
               'question 4': (418, f'Bearer {SECRET}'.encode()), 'question 5': (400, dict(error=dict(message='x' * 100 + SECRET)))}
    echo = lambda prompt, attempt: 'echo' if attempt == 0 or prompt == 'question 2' else ''
    with fault_server(echo, refused) as s:
        there = endpoint(s, key_env='TEACHER_KEY', retries=1)
        asks = [dict(id='k', prompt='repeat my key'), *asking(6)]
        replies = ask_teacher(there, asks)
        rows = lambda batch: [dict(text=r.text, fault=r.fault, mended=r.mended) for r in ask_teacher(there, batch)]
        run_stage(tmp_path, 'replies', asks, rows, dict(teacher=teacher_key(there), settings=there), batch_size=4)
    said = [repr(there), repr(replies), str(counted(replies, there)), teacher_key(there)]
    assert replies[0].text == 'Bearer [key]' and '[key]' in replies[4].fault, 'the server got the key, and told it'
    with fault_server(refused={'question 0': (401, dict(error=dict(message=f'Incorrect API key provided: {SECRET}')))}) as s:
        for bad in (endpoint(s, key_env='TEACHER_KEY'), replace(there, retries=0)):
            with pytest.raises(ValueError) as e: ask_teacher(bad, asking(1))
            said += chain(e.value)
    for settings in (dict(api_key=SECRET), dict(key=SECRET), dict(key_env=SECRET)):
        with pytest.raises(ValueError) as e: load_teacher('http://127.0.0.1:1/v1#m', **settings)
        said += chain(e.value)
    for url in (f'http://me:{SECRET}@127.0.0.1/v1#m', f'http://127.0.0.1/v1?key={SECRET}#m', f'http://{SECRET}@h/v1#m'):
        with pytest.raises(ValueError) as e: load_teacher(url)
        said += chain(e.value)
    monkeypatch.setenv('TEACHER_KEY', f'{SECRET} ü')
    with pytest.raises(ValueError, match='TEACHER_KEY holds is no key') as e: ask_teacher(there, asking(1))
    said += chain(e.value)
    files = [f for f in tmp_path.rglob('*') if f.is_file()]
    said += [f.read_bytes().decode('latin-1') for f in files] + [caplog.text, *capfd.readouterr()]
    assert len(files) > 2 and 'HTTP 401' in caplog.text and 'Incorrect API key provided: [key]' in ''.join(said)
    assert not [t for t in said if SECRET in t or SECRET[3:] in t or SECRET[:12] in t]


def test_a_missing_key_names_its_variable(monkeypatch):
    "And where none is wanted, none is sent, not even one that the environment has."
    monkeypatch.delenv('TEACHER_KEY', raising=False)
    with fault_server() as s:
        with pytest.raises(ValueError, match='variable TEACHER_KEY is not set'):
            ask_teacher(endpoint(s, key_env='TEACHER_KEY'), asking(1))
        assert not s.times
        monkeypatch.setenv('OPENAI_API_KEY', SECRET)
        assert ask_teacher(endpoint(s), [dict(id='a', prompt='repeat my key')])[0].text == 'Bearer none'
        assert SECRET not in json.dumps(s.requests)
    assert not [f.name for f in fields(Endpoint) if f.name in ('key', 'api_key', 'token')]


# --- a model on this machine ---

def test_a_local_reply_hangs_on_its_ask_alone(lm):
    "Neither its neighbours nor the size of the batch change it; the id and the seed do."
    asks = situations()[0][0][8:]
    whole = ask_teacher(lm, asks, 60, .9, seed=5)
    for size in (1, 3): assert ask_teacher(lm, asks[::-1], 60, .9, seed=5, batch_size=size)[::-1] == whole
    texts = lambda **kw: [r.text for r in ask_teacher(lm, asks, 60, .9, **kw)]
    assert texts(seed=6) != [r.text for r in whole]
    assert [r.text for r in ask_teacher(lm, [dict(a, id=a['id'] + 'x') for a in asks], 60, .9, seed=5)] != [r.text for r in whole]


def test_a_model_with_eyes_can_be_asked_too(lm, micro):
    "With text alone, as `generate` asks it."
    vlm, asks = load_vlm(micro), situations()[0][0][10:14]
    said = ask_teacher(vlm, asks, 24, 0.)
    assert [r.text for r in said] == [t for t, in vlm.generate([dict(a, images=[]) for a in asks], max_new_tokens=24)]
    assert teacher_key(vlm) != teacher_key(lm)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    "A folder with a small language model of another architecture, untrained, without a chat template or a padding token."
    words = 'a b c d e f g h what is the answer be brief'.split()
    t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(['<end>', '<unk>', *words])}, unk_token='<unk>'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    d = tmp_path_factory.mktemp('plain')/'lm'
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<end>', unk_token='<unk>').save_pretrained(d)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words) + 2, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=0,
                               eos_token_id=0)).save_pretrained(d)
    return d


def test_any_language_model_is_a_teacher(plain, tmp_path):
    "Without a chat template the prompt stands as it is; what leaves no room fails alone; other weights are another teacher."
    t = load_teacher(plain)
    asks = [dict(id='a', prompt='what is the answer', system='be brief'), dict(id='b', prompt='a ' * 30), dict(id='c', prompt='a b')]
    a, b, c = ask_teacher(t, asks, 6, 1.)
    assert (b.finish, b.fault, b.tokens_in) == ('failed', 'no room for an answer in its context', 30)
    assert (a.tokens_in, c.tokens_in) == (6, 2) and {a.finish, c.finish} <= {'stop', 'length'} and a.tokens_out <= 6
    assert ask_teacher(t, asks[2:], 6, 1.) == [c]
    told = counted([a, b, c], t)
    assert told['lost'] == {b.fault: 1} and told['cost'] == 0 and told['tokens_in'] == 8
    assert teacher_key(t) == teacher_key(load_teacher(plain))
    t.model.transformer.h[0].mlp.c_fc.weight.data[0, 0] += 1
    assert teacher_key(t) != teacher_key(load_teacher(plain))


def test_bad_input_is_refused_with_the_way_out(lm, tmp_path):
    "Names, settings and asks."
    for name, why in ((tmp_path, 'save_pretrained'), ('no-such-teacher', 'http://host'), ('http://h/v1', '#model'),
                      ('ftp://h/v1#m', 'no language model'), ('http:///v1#m', 'url'), ('http://h/v1#', 'model')):
        with pytest.raises(ValueError, match=why): load_teacher(name)
    for settings in (dict(retries=-1), dict(concurrency=0), dict(per_minute=-1), dict(limit='x'), dict(device='cpu')):
        with pytest.raises(ValueError, match=next(iter(settings))): load_teacher('http://h/v1#m', **settings)
    with pytest.raises(ValueError, match='concurrency'): load_teacher(micro_path('micro-lm'), concurrency=2)
    for asks, why in (([dict(id='a')], "'prompt'"), ([dict(id=1, prompt='a')], "'id'"), ([dict(id='a', prompt='')], "'prompt'"),
                      (asking(1) * 2, 'twice'), ([dict(id='a', prompt='\ud83d')], 'no valid text')):
        for teacher in (lm, Endpoint('http://127.0.0.1:9/v1', 'm', '')):
            with pytest.raises(ValueError, match=why): ask_teacher(teacher, asks)
