"""What a notebook cannot state of questions: that whatever a teacher sends ends as questions and rejects, each well formed and counted.

A few hundred cases here; `VLMSI_CASES=5000 pytest tests/test_questions.py` tries as many of each."""
import json, os, random, re, time
from collections import Counter
from dataclasses import replace
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from vlm_selfimprove.data.prompts import TEXT_MICRO, TEXT_PAPER
from vlm_selfimprove.evaluation.calibration import judged_question
from vlm_selfimprove.training import questions as module
from vlm_selfimprove.training.questions import (
    LEAKS, LETTERS, REPEATS, SEEDS, TEACHER_REQUEST, Question, answer_letter, duplicates_of, leaks_of, parse_reply, request_prompt,
    shingles, shuffled_all, shuffled_options, situation_texts, training_row)
from vlm_selfimprove.world.scenes import HAZARDS, HELD_OUT, PERSONS, mk_scene
from vlm_selfimprove.world.tasks import RULES, decision_json, mk_row, rule_of

CASES = int(os.environ.get('VLMSI_CASES', 100))
tried = settings(max_examples=CASES, deadline=None, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
KINDS = 'paper', 'micro'
plain = lambda q: q.model_dump()


def read(text, kind):
    "A reply, read, with all that must hold of any reply."
    kept, left = parse_reply(text, kind)
    assert kept or left, 'a reply without an object is a reject'
    for q in kept:
        assert type(q) is dict and Question.model_validate(q).model_dump() == q, q
        assert q['answer'] in q['options'] and 2 <= len(q['options']) <= len(LETTERS)
        again = json.dumps(q, ensure_ascii=False).encode()  # a half of a pair cannot be written
        assert not re.search(rb'<image>|<\|[^<>]*\|>', again)
        if kind == 'micro': assert judged_question(json.dumps(q))[0], q
        if kind == 'paper': assert training_row(q, kind)['completion'] in LETTERS
    for r in left:
        assert [*r] == ['raw', 'reason', 'how'] and r['how'] in ('strict', 'repaired')
        assert r['reason'].strip() and '\n' not in r['reason'] and len(r['reason']) < 80, r['reason']
        assert len(r['raw']) < 2_100
        r['raw'].encode()
    return kept, left


# replies: any text, what looks like JSON, good ones damaged

def spelled(q, by_letter, indent):
    "A question as a model may write it."
    options = dict(zip(LETTERS, q.options)) if by_letter else [f'{a}. {o}' for a, o in zip(LETTERS, q.options)]
    return json.dumps(dict(situation=q.situation, question=q.question, options=options, answer=answer_letter(q), rationale=q.reason),
                      indent=indent)


good = [spelled(q, by, i) for q in SEEDS['paper'][:3] for by in (False, True) for i in (None, 1)] + [
    json.dumps({k: plain(q)[k] for k in ('situation', 'reason', 'answer', 'question', 'options')}) for q in SEEDS['micro'][:3]]
pieces = st.sampled_from((*'{}[]",:\\\'\n \ud83d\x00', '{"situation": "', '"options": [', '"answer": "A"', '{"A": "x", "B": "y"}', 'NaN', 'null',
                          '1e999', '\\ud83d', '\\u0000', '```json\n', '<image>', '"question": ', '//', '“', 'a', 'give water', '{"questions": ['))
garbage = st.one_of(st.text(max_size=60), st.lists(pieces, max_size=25).map(''.join))


@tried
@given(garbage, st.sampled_from(KINDS))
def test_any_text(text, kind):
    "No text is an error."
    read(text, kind)


@tried
@given(st.sampled_from(good), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), pieces), max_size=4), st.sampled_from(KINDS))
def test_any_damage(text, damage, kind):
    "Pieces put into a good reply, or in the place of some characters."
    for where, over, piece in damage:
        at = int(where * len(text))
        text = text[:at] + piece + text[at + over:]
    read(text, kind)


# every object is counted

scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8))
odd = st.dictionaries(st.text(max_size=8), st.one_of(scalar, st.lists(scalar, max_size=3)), max_size=4)
around = st.sampled_from(('list', 'lines', 'fence', 'prose', 'name', 'cut'))


def together(objects, how):
    "Objects as one reply."
    texts = [json.dumps(o) for o in objects]
    if how == 'lines': return '\n'.join(texts)
    if how == 'prose': return 'Sure!\n\n' + '\n\nAnd "another" one:\n'.join(texts) + '\n\nI hope that this helps.'
    text = f"[{', '.join(texts)}]"
    if how == 'name': return f'{{"questions": {text}}}'
    return {'fence': f'Here they are:\n```json\n{text}\n```', 'cut': text[:-1], 'list': text}[how]


@tried
@given(st.lists(st.one_of(st.sampled_from(SEEDS['paper']).map(plain), odd), min_size=1, max_size=6), around)
def test_every_object_is_counted(objects, how):
    "As many questions and rejects as there are objects, and the good ones in their order, however they come."
    kept, left = read(together(objects, how), 'paper')
    assert kept == [o for o in objects if 'situation' in o]
    assert len(kept) + len(left) == len(objects), (kept, left)


@pytest.mark.parametrize('by_letter', [False, True])
@pytest.mark.parametrize('indent', [None, 1])
def test_a_cut_reply_keeps_what_was_complete(by_letter, indent):
    "Wherever the tokens run out: the questions before, word for word, and one reject for the one that had begun."
    three = SEEDS['paper'][3:6]
    texts = [spelled(q, by_letter, indent) for q in three]
    whole, ends = '[' + ', '.join(texts), np.cumsum([1 + len(texts[0]), 2 + len(texts[1]), 2 + len(texts[2])])
    starts = ends - [*map(len, texts)]
    for cut in range(2, len(whole) + 1, 5):
        kept, left = read(whole[:cut], 'paper')
        assert kept == [plain(q) for q in three[:(ends <= cut).sum()]]
        assert len(kept) + len(left) == (starts < cut).sum(), (cut, left)


def marks(text):
    "Where the marks of JSON stand in it."
    shown = re.sub(r'"[^"]*"', lambda m: f'"{"." * (len(m[0]) - 2)}"', text)
    return [m.start() for m in re.finditer(r'[{}",:\[\]]', shown)]


def test_a_missing_mark_changes_no_question():
    "One mark of the JSON less, each in turn: the question as it was, or a reject; of others beside it, nothing is lost."
    came = Counter()
    for q, beside in zip(SEEDS['paper'], SEEDS['paper'][1:] + SEEDS['paper'][:1]):
        for by_letter, indent in ((False, None), (False, 1), (True, None), (True, 1)):
            text, other = spelled(q, by_letter, indent), spelled(beside, by_letter, indent)
            for at in marks(text):
                less = text[:at] + text[at + 1:]
                kept, left = read(less, 'paper')
                assert kept in ([], [plain(q)]), (less, kept)
                came[len(kept)] += 1
                if at % 3 == 0:
                    kept, left = read(f'[{less},\n{other}]', 'paper')
                    assert plain(beside) in kept, less
    assert came[1] > 3 * came[0], came


def test_damage_seldom_passes_for_another_question():
    "Two or three marks of the JSON gone or turned into others: of 2,000 questions at most one in a hundred is kept and says something else."
    rng, came = random.Random(0), Counter()
    words = lambda q: re.findall(r'\w+', ' '.join((q['situation'], q['question'], *q['options'], q['answer'], q['reason'])))
    for _ in range(2_000):
        q = rng.choice(SEEDS['paper'])
        text = spelled(q, rng.random() < .5, rng.choice((None, 1)))
        for _ in range(rng.choice((2, 3))):
            at = rng.choice(marks(text))
            text = text[:at] + rng.choice(('', *'{}",:[]\'\n')) + text[at + 1:]
        kept, _ = read(text, 'paper')
        came['rejected' if not kept else 'kept' if [*map(words, kept)] == [words(plain(q))] else 'changed'] += 1
    assert came['changed'] <= 20 and came['kept'] > 400, came


# spellings

word = st.text(st.sampled_from('abcdefghijklmnopqrstuvwxyzäé'), min_size=2, max_size=8)
text_of = lambda n: st.lists(word, min_size=2, max_size=n).map(' '.join)
question = st.builds(lambda s, q, o, r: (s, q, [f'{t} {i}x' for i, t in enumerate(o)], r), text_of(12), text_of(6),
                     st.lists(text_of(5), min_size=2, max_size=6), text_of(8))
KEYS = dict(situation=('situation', 'Context', 'SCENARIO', 'situation description'), question=('question', 'Multiple-choice question'),
            options=('options', 'Choices'), answer=('answer', 'correct_answer', 'Correct Answer'), reason=('reason', 'rationale', 'Explanation'))


@tried
@given(question, st.randoms(use_true_random=False))
def test_spellings(parts, rng):
    "Keys, options and answers as real models spell them come to the same question."
    situation, asked, options, reason = parts
    right, k = options[rng.randrange(len(options))], lambda f: rng.choice(KEYS[f])
    letters = LETTERS[:len(options)] if rng.random() < .5 else LETTERS[:len(options)].lower()
    x = letters[options.index(right)]
    listed = rng.choice((options, [f'{a}. {o}' for a, o in zip(letters, options)], [f'({a}) {o}' for a, o in zip(letters, options)],
                         [f'{a}: {o}' for a, o in zip(letters, options)], dict(zip(letters, options)),
                         {f'Option {a}': o for a, o in zip(letters, options)}))
    said = rng.choice((x, x.swapcase(), f'{x}.', f'({x})', f'Option {x}', f'The correct answer is {x}', f'{x}. {right}', f'{x}) {right}', right, right.upper()))
    o = {k('situation'): situation, k('question'): asked, k('options'): listed, k('answer'): said, k('reason'): reason, 'difficulty': 3}
    kept, left = read(json.dumps(o), 'paper')
    assert kept == [dict(situation=situation, question=asked, options=options, answer=right, reason=reason)], (o, left)


FAULTS = dict(
    no_answer=(dict(answer='F'), 'answer matches no option'), two_answers=(dict(answer='A. wait'), 'answer matches no option'),
    number=(dict(answer=2), 'answer is no text'), one=(dict(options=['go']), 'fewer than 2 options'),
    many=(dict(options=[f'go {i}' for i in range(7)], answer='go 1'), 'more than 6 options'),
    same=(dict(options=['go', 'wait', 'Go.']), 'options repeat'), letters=(dict(options=['A', 'B', 'C']), 'options are letters without texts'),
    gap=(dict(options=['A. go', 'C. wait', 'D. run']), 'letters of the options have gaps'),
    nothing=(dict(situation=' '), 'situation is empty'), marks=(dict(question='?!'), 'question is empty'),
    gone=(dict(situation=None), 'situation is missing'), no_list=(dict(options='go, wait'), 'options is no list'),
    nan=(dict(reason=float('nan')), 'reason is no text'), inner=(dict(options=['go', 7, 'run']), 'an option is no text'),
    token=(dict(situation='look <image> there'), 'situation holds a token of a chat template'),
    half=(dict(question='what \ud83d now'), 'question holds a character that cannot be written'),
    long=(dict(situation='on and on ' * 500), 'situation is too long'))


@pytest.mark.parametrize('fault', FAULTS)
def test_faults_have_plain_reasons(fault):
    "One fault, one reason."
    change, reason = FAULTS[fault]
    o = dict(situation='a tree falls', question='what now?', options=['go', 'wait', 'run'], answer='go', reason='because') | change
    kept, left = read(json.dumps(o), 'paper')
    assert [r['reason'] for r in left] == [reason] and not kept and left[0]['how'] == 'strict'


def test_keys_that_occur_twice():
    "Two answers are none, in sound JSON and in broken JSON."
    text = '{"situation": "a tree falls", "question": "what now?", "options": ["go", "wait"], "answer": "A", "answer": "B"}'
    reasons = [read(t, kind)[1][0]['reason'] for t in (text, text.replace('"A",', '"A"')) for kind in KINDS]
    assert reasons == ['a key occurs twice'] * 2 + ['no JSON, and a repair would change its words'] * 2


def test_micro_has_five_options_and_words():
    "Letters and four options are other worlds' habits."
    q = plain(SEEDS['micro'][0])
    assert read(json.dumps(q), 'micro')[0] == [q]
    for change in (dict(answer='A'), dict(options=[o for o in q['options'] if o != 'push indoors'])):
        assert not read(json.dumps(q | change), 'micro')[0]


# hostile replies

HOSTILE = dict(
    objects='{"a": ' * 180_000, lists='[' * 10**6, nested='{"a": [' * 150_000, in_a_text='{"situation": "' + '{"a": [' * 150_000,
    half_keys='{"a" ' * 200_000, few_half_keys=('{"a" ' * 15 + 'x' * 50 + '}' * 15) * 4_000, empties='{}' * 500_000, quotes='{"a": ' + '"' * 10**6,
    escapes='{"a": "' + '\\"' * 500_000, backslashes='{"a": "' + '\\' * 10**6, spaces='{' + ' ' * 10**6, keys='{"abc": 1, ' * 90_000,
    unclosed='{"abc": "x", ' * 80_000, word='{"situation": "' + 'word ' * 200_000 + '"}', commas='{"situation": "' + '", "' * 250_000,
    number='{"answer": ' + '9' * 10**6 + '}', lines='{"a": "x\n' * 110_000, tuples='{"a": ' + '("a"' * 250_000,
    many=json.dumps([plain(q) for q in SEEDS['paper']] * 80))


@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_replies_take_bounded_time(name):
    "A megabyte made to keep a parser busy: it is read to a limit, and the rest is one reject."
    start = time.process_time()
    kept, left = read(HOSTILE[name], 'paper')
    assert time.process_time() - start < 20, 'a reply that keeps a core busy'
    assert left[-1]['reason'].startswith('beyond the first') and left[-1]['raw'].endswith('characters)')
    if name == 'many': assert len(kept) > 50 and {r['reason'][:10] for r in left} == {'not closed', 'beyond the'}


def test_small_hostile_objects_take_bounded_time():
    "The slowest that a search found for the repair, at its limits: a hundred thousand characters of them."
    start = time.process_time()
    for unit in ('("a"', '“]', '{"a": "x" "', '[1"\'1"', '{"a" ["x '):
        one = '{"situation": "' + unit * (4_900 // len(unit)) + '}'
        read(f'{one}\n' * (99_000 // len(one)), 'paper')
    assert time.process_time() - start < 60


# seeds and requests

def test_seeds():
    "Ten of each kind: diverse, right, unlike each other, and none of the benchmark's."
    for kind, seeds in SEEDS.items():
        assert len(seeds) == 10 and not duplicates_of(list(seeds), .2 if kind == 'paper' else REPEATS[kind])
        assert parse_reply(request_prompt(kind, seeds, 5), kind) == ([*map(plain, seeds)], [])
    assert Counter(map(answer_letter, SEEDS['paper'])) == dict.fromkeys('ABCDE', 2)
    longest = sum(max(q.options, key=len) == q.answer for q in SEEDS['paper'])
    assert longest <= 2, 'the longest option must not give the answer away'
    told = [(*(w for w in re.findall(r'\w+', q.situation) if w in (*PERSONS, *HAZARDS)), q.answer) for q in SEEDS['micro']]
    assert all(RULES[person, hazard] == answer for person, hazard, answer in told) and len({*told}) == 10
    assert {p for p, *_ in told} == {*PERSONS} and {h for _, h, _ in told} == {*HAZARDS}
    form = [json.dumps({k: plain(q)[k] for k in ('situation', 'reason', 'answer', 'question', 'options')}) for q in SEEDS['micro']]
    assert all(judged_question(t) == (True, True) for t in form) and all(q.options == sorted(q.options) for q in SEEDS['micro'])
    for start in (HELD_OUT, HELD_OUT + 100_000, 2 * HELD_OUT):
        rows = [mk_row(i, 'decision') for i in range(start, start + 150)]
        assert not leaks_of(SEEDS['micro'], situation_texts(rows), LEAKS['micro'], 'micro')


def test_requests():
    "The end of the paper's prompt is the one that is kept out of every base; the micro one is what the counterpart is calibrated on."
    assert TEACHER_REQUEST['paper'].endswith(TEXT_PAPER['request']) and TEACHER_REQUEST['micro'] == TEXT_MICRO['request']
    texts = [decision_json(mk_scene(i, 'situation'), np.random.default_rng(i)) for i in range(2)]
    asked = request_prompt('micro', [json.loads(t) for t in texts], 1)
    assert asked == TEXT_MICRO['request'].format(examples='\n'.join(texts), n=1)
    braces = plain(SEEDS['paper'][0]) | dict(situation='a sign says {n} and {examples}')
    assert '{n} and {examples}' in request_prompt('paper', [braces], 5)


# repeats

few = st.lists(st.sampled_from('abcdef'), min_size=1, max_size=5).map(' '.join)
small = st.builds(lambda s, q, o: dict(situation=s, question=q, options=o), few, few, st.lists(few, min_size=2, max_size=3))


@tried
@given(st.lists(small, max_size=12), st.sampled_from((.3, .5, .7, 1.)))
def test_repeats_are_those_of_each_with_each(qs, threshold):
    "First come, first kept: what is found is what a comparison of all pairs finds."
    sets, want = [*map(shingles, qs)], {}
    for i, x in enumerate(sets):
        near = [j for j in range(i) if j not in want and len(x & sets[j]) / len(x | sets[j]) >= threshold]
        if near: want[i] = near[0]
    assert duplicates_of(qs, threshold) == want


def drawn(rng, words):
    say = lambda n: ' '.join(rng.choice(words, n))
    return dict(situation=say(60), question=say(8), options=[say(12) for _ in range(5)])


def test_few_pairs_are_compared(monkeypatch):
    "Fifteen hundred prose questions with a hundred planted repeats: a few comparisons each, not hundreds, and no repeat missed."
    rng, words = np.random.default_rng(0), [w for q in SEEDS['paper'] for w in q.situation.split()]
    qs = [*map(plain, SEEDS['paper']), *(drawn(rng, words) for _ in range(1_390))]
    swap = lambda q: q | dict(situation=q['situation'].replace(' the ', ' that '), options=q['options'][::-1])
    done, compare = [], module._jaccard
    monkeypatch.setattr(module, '_jaccard', lambda a, b: done.append(1) or compare(a, b))
    assert duplicates_of([*qs, *map(swap, qs[:100])], REPEATS['paper']) == {1_400 + i: i for i in range(100)}
    assert len(done) < 3 * 1_500, len(done)


def test_thresholds_out_of_range():
    for t in (0, -1, 1.01, .001):
        with pytest.raises(ValueError, match='use .05 to 1'): duplicates_of(list(SEEDS['paper']), t)


# leaks

def told(s):
    "What a situation in words tells of a scene."
    return (*rule_of(s), s.place, frozenset(o.noun for o in s.objects if o.noun not in (*PERSONS, *HAZARDS)))


def test_micro_leaks_are_equal_situations():
    "Against the scenes themselves: the same person, hazard, place and company, in any order, and nothing else."
    rows = [mk_row(i, 'decision') for i in range(HELD_OUT, HELD_OUT + 400)]
    bench = {}
    for r in rows: bench.setdefault(told(mk_scene(r['seed'], 'situation')), r['id'])
    turned = [replace(s, objects=s.objects[::-1]) for i in range(0, 400, 20) for s in [mk_scene(HELD_OUT + i, 'situation')]]
    scenes = [mk_scene(i, 'situation') for i in range(400)] + turned
    wrote = [json.loads(decision_json(s, np.random.default_rng(0))) for s in scenes]
    want = {i: (bench[told(s)], 1.) for i, s in enumerate(scenes) if told(s) in bench}
    assert len(want) >= 20 and leaks_of(wrote, situation_texts(rows), LEAKS['micro'], 'micro') == want
    assert leaks_of(wrote, [*situation_texts(rows).values()], LEAKS['micro'], 'micro').keys() == want.keys(), 'a list will do'


def test_planted_leaks_are_found():
    "A benchmark sentence inside a longer situation, or its options in another order; nothing else of two thousand."
    rng, words = np.random.default_rng(1), [w for q in SEEDS['paper'] for w in q.situation.split()]
    qs = [drawn(rng, words) for _ in range(2_000)]
    items = [dict(id=f'i{k}', situation=q.situation, options=q.options) for k, q in enumerate(SEEDS['paper'])]
    qs[7] = qs[7] | dict(situation=f"{qs[7]['situation']} {items[3]['situation']}")
    qs[1999] = qs[1999] | dict(options=items[5]['options'][::-1])
    found = leaks_of(qs, situation_texts(items), LEAKS['paper'])
    assert {i: name for i, (name, _) in found.items()} == {7: 'i3 situation', 1999: 'i5 options'}
    assert found[7][1] == 1. and found[1999][1] > .7
    with pytest.raises(ValueError, match="'b' holds nothing"): leaks_of(qs[:2], dict(a='some words', b='?!'), .5)


# letters and rows

def test_answers_stand_everywhere_equally_often():
    "Exactly so in each block, for four options and for five, wherever the teacher had them; always the same letter gains nothing."
    four, five = ([q for q in SEEDS['paper'] if len(q.options) == n] for n in (4, 5))
    made = shuffled_all([*four, *five] * 30, 3)
    for n, mine in ((4, four), (5, five)):
        letters = [answer_letter(q) for q in made if len(q['options']) == n]
        blocks = [letters[i:i + n] for i in range(0, len(letters), n)]
        assert all(sorted(b) == [*LETTERS[:n]] for b in blocks if len(b) == n) and len({*map(tuple, blocks)}) > 3
        assert letters.count('A') == len(letters) / n
    assert made == shuffled_all([*four, *five] * 30, 3) != shuffled_all([*four, *five] * 30, 4)
    for q, x in zip([*four, *five] * 30, made):
        assert {**plain(q), 'options': 0} == {**x, 'options': 0} and sorted(q.options) == sorted(x['options'])


@tried
@given(st.sampled_from([*SEEDS['paper'], *SEEDS['micro']]), st.integers(0, 2**32), st.integers(0, 5), st.randoms(use_true_random=False))
def test_an_earlier_order_is_forgotten(q, seed, number, rng):
    "The order hangs on question, seed and number alone."
    other = plain(q) | dict(options=rng.sample(q.options, len(q.options)))
    for k in (None, number): assert shuffled_options(q, seed, k) == shuffled_options(other, seed, k)


def test_rows():
    "Each prompt is its layout with nothing left open; letters and words name the same option; no reason is not learned as one."
    for q in SEEDS['paper']:
        row, words = training_row(q, 'paper'), training_row(q, 'paper', 'words')
        assert row['prompt'] == words['prompt'] and row['prompt'].startswith(TEXT_PAPER['train'][:40])
        assert f"\n{row['completion']}. {words['completion']}\n" in row['prompt'] and words['completion'] == q.answer
        said = training_row(q, 'paper', rationale=True)['completion']
        assert said == f"Reason: {q.reason}\nAnswer: {row['completion']}"
        assert not re.match(r'[^A-Za-z]*[A-F][. ]', said), "the benchmark's parser takes a first 'A ' for the letter"
    with pytest.raises(ValueError, match='has no reason'): training_row(plain(q) | dict(reason=''), 'paper', rationale=True)
    with pytest.raises(ValueError, match="use one of"): training_row(q, 'stic')
    braces = plain(q) | dict(situation='a {question} of {options}')
    assert 'a {question} of {options}' in training_row(braces, 'paper')['prompt']
