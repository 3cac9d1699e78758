"""Four defects of public STIC code. Each test measures behaviour, finds it sound here, and then runs the defect itself
through the same library to show that the measurement would have found it."""
from dataclasses import replace
import pytest, torch
from tinies import SHORT, mk_tiny, small_photos
from vlm_selfimprove.data.images import open_image
from vlm_selfimprove.data.records import PreferencePair
from vlm_selfimprove.evaluation import benchmarks
from vlm_selfimprove.methods import stic
from vlm_selfimprove.methods.variants import defect
from vlm_selfimprove.models.vlm import attach, detach, logprobs


@pytest.fixture(scope='module')
def records(photos, tmp_path_factory): return small_photos(photos, tmp_path_factory.mktemp('defects')/'photos', 10)


@pytest.fixture
def vlm(): return mk_tiny('llava')


@pytest.fixture(scope='module')
def pairs(records):
    return [PreferencePair(r['id'], r['path'], 'describe the image .', f'the red cat sat {i} .', f'a dog near {i} mats .', 'bad_prompt')
            for i, r in enumerate(records)]


# 1: at each position of the rejected text, the public code takes the best token that is NOT the text's

def rejected_change(vlm, pairs, out):
    "How much a preference training changes the log-probability of the rejected texts, measured from outside."
    asks = [dict(id=p.id, prompt=p.prompt, images=[open_image(dict(id=p.id, path=p.image))]) for p in pairs]
    score = lambda v: torch.stack([x.sum() for x in logprobs(v, asks, [p.rejected for p in pairs])]).mean().item()
    s = stic.stage1(vlm, pairs, out, replace(SHORT, alpha=0., lr=3e-3, epochs=3))
    tuned = attach(vlm, s['adapter'])
    after = score(tuned)
    detach(tuned)
    return after - score(vlm)


def test_rejected_texts_become_less_likely(vlm, pairs, tmp_path):
    "Preference training lowers the rejected texts themselves; the public numbers raise them."
    assert rejected_change(vlm, pairs, tmp_path/'ours') < -1
    with defect('rejected'): assert rejected_change(vlm, pairs, tmp_path/'public') > 0


# 2: the public code notes that an image was corrupted, and shows the clean one

def pictures(vlm, records, run, monkeypatch):
    "For each image: how its rejected answer was asked for, and whether the model was shown the same pixels both times."
    shown, real = [], vlm.model.generate
    monkeypatch.setattr(vlm.model, 'generate', lambda **kw: (shown.extend(kw['pixel_values']), real(**kw))[1])
    plan = stic.plan_pairs(records, stic.PROMPTS['micro'])
    stic.propose(vlm, records, run, SHORT)
    assert len(shown) == 2 * len(plan)
    return [(p['kind'], torch.equal(shown[2 * i], shown[2 * i + 1])) for i, p in enumerate(plan)]


def corrupted_where_said(seen): return all(same == (kind == 'bad_prompt') for kind, same in seen)


def test_corruption_reaches_the_model(vlm, records, tmp_path, monkeypatch):
    "Where a pair says 'lowres' or 'jitter', other pixels arrive at the model; where it says 'bad_prompt', the same ones."
    seen = pictures(vlm, records, tmp_path/'ours', monkeypatch)
    assert {k for k, _ in seen} == {'bad_prompt', 'lowres', 'jitter'}
    assert corrupted_where_said(seen)
    with defect('corruption'): assert not corrupted_where_said(pictures(mk_tiny('llava'), records, tmp_path/'public', monkeypatch))


# 3: the public training rows have no place for the image, so training does not see it

def seen_by_training(vlm, pairs, out):
    "How far the chosen texts' log-probability in the first step moves when each stands beside another picture."
    other = [replace(p, image=q.image) for p, q in zip(pairs, pairs[1:] + pairs[:1])]
    r = replace(SHORT, batch=len(pairs), micro_batch=len(pairs))
    a, b = (stic.stage1(vlm, x, out/n, r, max_steps=1)['history'][0]['logp_w'] for n, x in (('own', pairs), ('other', other)))
    return abs(a - b)


def test_training_sees_the_image(vlm, pairs, tmp_path):
    "The loss depends on the picture; with the pictures taken out of the rows it does not."
    assert seen_by_training(vlm, pairs, tmp_path/'ours') > 1e-3
    with defect('blind'): assert seen_by_training(vlm, pairs, tmp_path/'public') < 1e-4


# 4: the public describe-and-respond script asks for the description without the image

def described_apart(vlm, records):
    "How many different descriptions the same request gets for different photographs."
    rows = [dict(id=r['id'], image=r['path'], prompt='what is in this image ?') for r in records]
    return len(set(benchmarks.describe_and_respond(vlm, rows, max_new_tokens=64)[1]))


def test_descriptions_see_the_image(vlm, records):
    "Photographs are described differently; asked blindly, all of them get the same words."
    assert described_apart(vlm, records) > len(records) // 2
    with defect('describe'): assert described_apart(vlm, records) == 1
