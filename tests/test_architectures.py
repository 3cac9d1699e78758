"The same calls serve three real architectures: tiny random models, real photographs of several sizes."
from dataclasses import replace
from types import SimpleNamespace
import pytest, torch
from PIL import Image
from safetensors.torch import load_file
from tinies import SHORT, mk_tiny, small_photos, tiny_paligemma, without_torchvision
from transformers.utils import is_torchvision_available
from vlm_selfimprove.evaluation.benchmarks import describe_and_respond
from vlm_selfimprove.methods.stic import infuse, propose, stage1, stage2
from vlm_selfimprove.models.tiny import ARCHS, tiny_vlm
from vlm_selfimprove.models.vlm import attach, detach, load_vlm, logprobs, messages, weights_key
from vlm_selfimprove.training.preflight import preflight
from vlm_selfimprove.training.train import train_dpo, train_sft
from vlm_selfimprove.training.trainset import to_dataset


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


def plain(vlm, row, answer):
    "Log-probabilities of an answer, from one forward of its row: the whole text in one piece, no padding, no other row."
    proc = vlm.processor
    prompt = proc.apply_chat_template(messages(row), add_generation_prompt=True)
    text = proc.apply_chat_template(messages(row, answer))
    n = len(proc.tokenizer(text[len(prompt):], add_special_tokens=False).input_ids)
    x = proc(text=[text], images=[row['images']], return_tensors='pt', add_special_tokens=False)
    with torch.no_grad(): lp = vlm.model(**x).logits[0, :-1].log_softmax(-1)
    return lp.gather(1, x['input_ids'][0, 1:, None])[-n:, 0]


@pytest.mark.parametrize('arch', ARCHS)
def test_loss_is_that_of_a_plain_forward(arch, tmp_path):
    "Scores and both losses of a padded batch are what each row gives alone; answers begin with a token of their own."
    vlm = tiny_vlm(arch)
    rows = [dict(id=f'{i}', prompt='what is this ?' * (i + 1), images=[Image.effect_noise((60 + 70 * i, 64), 80).convert('RGB')])
            for i in range(3)]
    good, bad = ['12 cats', '3 dogs on the red mat .', '4'], ['5 mats', '6', '7 red cats .']
    w, l = ([plain(vlm, r, t) for r, t in zip(rows, ts)] for ts in (good, bad))
    for a, b in zip(w + l, logprobs(vlm, rows, good) + logprobs(vlm, rows, bad)): assert torch.allclose(a, b, atol=1e-4), arch
    kw = dict(max_steps=1, batch_size=3)
    dpo = train_dpo(vlm, to_dataset(rows, chosen=good, rejected=bad), tmp_path/'dpo', **kw)['history'][0]
    sft = train_sft(vlm, to_dataset(rows, completion=good), tmp_path/'sft', **kw)['history'][0]
    assert abs(dpo['logp_w'] - sum(x.sum() for x in w) / 3) < 1e-3 and abs(dpo['dpo'] - .6931) < 1e-3
    assert abs(sft['loss'] + torch.cat(w).mean()) < 1e-3


def test_paligemma_is_refused_by_name():
    "It answers, but cannot be scored or trained; the preflight says so in a line, and which part."
    with pytest.raises(ValueError, match=r'^PaliGemmaForConditionalGeneration \(tiny-paligemma\) cannot score a text: .*read before') as e:
        preflight(tiny_paligemma())
    assert '\n' not in str(e.value)


@pytest.mark.skipif(is_torchvision_available(), reason='with torchvision they load')
@pytest.mark.parametrize('kind, processor', [('qwen2_vl', 'Qwen2VLProcessor'), ('llava_onevision', 'LlavaOnevisionProcessor'),
    ('smolvlm', 'SmolVLMProcessor'), ('internvl', 'InternVLProcessor'), ('mistral3', 'PixtralProcessor')])
def test_torchvision_is_asked_for(kind, processor, tmp_path):
    "One line with the command, not a traceback."
    with pytest.raises(ValueError, match=r"needs torchvision: pip install 'vlm_selfimprove\[torchvision\]'$"):
        load_vlm(without_torchvision(tmp_path/kind, kind, processor))


@pytest.mark.parametrize('arch', ARCHS)
def test_key_and_model_outlive_training(arch, tmp_path):
    "What TRL writes into a model's configurations and layers is taken back: the key after a preflight is the one before."
    vlm = tiny_vlm(arch)
    vlm.model.generation_config.pad_token_id = None
    vlm.model.add_module('drop', torch.nn.Dropout(.3))
    key = weights_key(vlm)
    preflight(vlm)
    assert weights_key(vlm) == key and vlm.model.drop.p == .3 and vlm.model.generation_config.pad_token_id is None
