"The same calls serve three real architectures: tiny random models, real photographs of several sizes."
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from safetensors.torch import load_file
from tinies import SHORT, mk_tiny, small_photos
from vlm_selfimprove.evaluation.benchmarks import describe_and_respond
from vlm_selfimprove.methods.stic import infuse, propose, stage1, stage2
from vlm_selfimprove.models.tiny import ARCHS
from vlm_selfimprove.models.vlm import attach, detach, logprobs


@pytest.fixture(scope='module', params=ARCHS)
def job(request, tmp_path_factory, photos):
    "All of STIC on one architecture. No line here knows which one it is."
    d = tmp_path_factory.mktemp(request.param)
    vlm, records = mk_tiny(request.param), small_photos(photos, d/'photos')
    weights = {k: v.clone() for k, v in vlm.model.state_dict().items()}
    asked = [dict(id=r['id'], image=r['path'], prompt='what is in this image ?', answer=r['id'].split('.')[0]) for r in records]
    pairs = propose(vlm, records, d, SHORT)
    one = stage1(vlm, pairs, d/'stage1', replace(SHORT, epochs=3))
    tuned = attach(vlm, one['adapter'])
    rows = infuse(tuned, asked, d, SHORT)
    detach(tuned)
    two = stage2(vlm, rows, d/'stage2', replace(SHORT, epochs2=3), one['adapter'])
    final = attach(vlm, two['adapter'])
    answers, descriptions = describe_and_respond(final, asked, max_new_tokens=64)
    ask = [dict(id=r['id'], prompt=r['prompt'], images=[]) for r in asked]
    tuned_lp = logprobs(final, ask, [r['answer'] for r in asked])
    detach(final)
    base_lp = logprobs(vlm, ask, [r['answer'] for r in asked])
    return SimpleNamespace(**locals())


def test_the_whole_method_runs(job):
    "Both stages and describe-and-respond give finite losses, adapters that change the model, and something to read."
    assert len(job.pairs) >= 6 and {p.kind for p in job.pairs} > {'bad_prompt'} and len(job.rows) >= 6
    for s in (job.one, job.two): assert all(torch.isfinite(torch.tensor(h['loss'])) for h in s['history'])
    assert job.two['history'][-1]['loss'] < job.two['history'][0]['loss']
    assert len(job.answers) == len(job.descriptions) == len(job.records) and all(job.descriptions)
    gain = sum((a - b).sum() for a, b in zip(job.tuned_lp, job.base_lp))
    assert gain > 1, f'the attached adapter hardly changes the answers it was trained on: {gain:.3f}'


def test_adapters_touch_language_only(job):
    "Every tensor of both adapters belongs to a layer of the decoder, and every layer of the decoder has some."
    decoder = job.vlm.model.get_decoder()
    prefix = next(n for n, m in job.vlm.model.named_modules() if m is decoder)
    for s in (job.one, job.two):
        t = load_file(s['adapter'] + '/adapter_model.safetensors')
        outside = [k for k in t if not k.startswith(f'base_model.model.{prefix}.layers.')]
        assert t and not outside, outside
        for i in range(len(decoder.layers)): assert any(f'.layers.{i}.' in k and 'lora_B' in k and v.any() for k, v in t.items())


def test_base_stays_as_it_was(job):
    "After two trainings, two adapters on and off, no weight is different, of the vision side or any other."
    now = job.vlm.model.state_dict()
    assert now.keys() == job.weights.keys()
    changed = [k for k, v in job.weights.items() if not torch.equal(v, now[k])]
    assert not changed, changed
    assert any('vision' in k for k in now) and not any('lora' in k for k in now)


def test_images_matter_to_both_losses(job, tmp_path):
    "The first step's loss is different where each text stands beside another row's photograph."
    turn = lambda xs: xs[1:] + xs[:1]
    pairs = [replace(p, image=q.image) for p, q in zip(job.pairs, turn(job.pairs))]
    rows = [r | dict(image=q['image']) for r, q in zip(job.rows, turn(job.rows))]
    r = replace(SHORT, batch=len(pairs), batch2=len(rows), micro_batch=16)
    dpo = [stage1(job.vlm, x, tmp_path/n, r, max_steps=1)['history'][0]['logp_w'] for n, x in (('a', job.pairs), ('b', pairs))]
    sft = [stage2(job.vlm, x, tmp_path/n, r, max_steps=1)['history'][0]['loss'] for n, x in (('c', job.rows), ('d', rows))]
    assert abs(dpo[0] - dpo[1]) > 1e-3 and abs(sft[0] - sft[1]) > 1e-3, (dpo, sft)
