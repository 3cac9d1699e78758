"Qwen2-VL and LLaVA-OneVision, two of the three models of the text-only paper: their processors load where torchvision does."
from dataclasses import replace
import numpy as np, pytest
pytest.importorskip('torchvision', reason="their processors need torchvision: pip install 'vlm_selfimprove[torchvision]'")
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import (
    LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration, LlavaOnevisionImageProcessor, LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor, Qwen2Config, Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor,
    Qwen2VLVideoProcessor, SiglipVisionConfig)
from vlm_selfimprove.evaluation.decisions import measure_decisions, situations
from vlm_selfimprove.methods.textonly import lay_out, textonly_micro, train_on_text
from vlm_selfimprove.models.tiny import TINY_TEMPLATE, tiny_tokenizer
from vlm_selfimprove.models.vlm import VLM, adapted, load_vlm, logprobs
from vlm_selfimprove.training.preflight import preflight
from vlm_selfimprove.training.questions import SEEDS


def sizes(tok):
    "Of a small Qwen2 decoder."
    return dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                vocab_size=len(tok), pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
                max_position_embeddings=2048, initializer_range=.2)


def qwen2_vl(tok):
    "As many tokens as an image has squares of 28 pixels; positions have three parts."
    tags = ['<|vision_start|>', '<|vision_end|>', '<|image_pad|>', '<|video_pad|>']
    tok.add_tokens(tags, special_tokens=True)
    start, end, image, video = tok.convert_tokens_to_ids(tags)
    template = TINY_TEMPLATE.replace('<image>', '<|vision_start|><|image_pad|><|vision_end|>')
    few = dict(shortest_edge=28 * 28, longest_edge=4 * 28 * 28)
    proc = Qwen2VLProcessor(Qwen2VLImageProcessor(size=few), tok, Qwen2VLVideoProcessor(size=few), chat_template=template)
    text = sizes(tok) | dict(rope_parameters=dict(rope_type='default', rope_theta=1e4, mrope_section=[2, 3, 3]))
    cfg = Qwen2VLConfig(text_config=text, vision_config=dict(depth=2, embed_dim=32, hidden_size=64, num_heads=4, mlp_ratio=2),
                        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end)
    return Qwen2VLForConditionalGeneration, cfg, proc


def onevision(tok):
    "An overview and up to four tiles, like LLaVA-1.6, with a SigLIP tower and a Qwen2 decoder."
    tok.add_tokens(['<video>'], special_tokens=True)
    grid = [[56, 112], [112, 56], [112, 112]]
    size = dict(height=56, width=56)
    img = LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=grid)
    proc = LlavaOnevisionProcessor(img, tok, LlavaOnevisionVideoProcessor(size=size), num_image_tokens=16,
                                   vision_feature_select_strategy='full', chat_template=TINY_TEMPLATE)
    tower = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56,
                               patch_size=14, vision_use_head=False)
    image, video = tok.convert_tokens_to_ids(['<image>', '<video>'])
    cfg = LlavaOnevisionConfig(text_config=Qwen2Config(**sizes(tok)), vision_config=tower, image_token_index=image,
                               video_token_index=video, image_token_id=image, video_token_id=video, image_grid_pinpoints=grid,
                               vision_feature_select_strategy='full', vision_feature_layer=-1)
    return LlavaOnevisionForConditionalGeneration, cfg, proc


@pytest.fixture(scope='module', params=[qwen2_vl, onevision], ids=lambda f: f.__name__)
def vlm(request, tmp_path_factory):
    "Saved and loaded as any model of the hub."
    tok, folder = tiny_tokenizer(), tmp_path_factory.mktemp('tiny')
    cls, cfg, proc = request.param(tok)
    torch.manual_seed(0)
    model = cls(cfg).eval()
    g = model.generation_config
    g.eos_token_id, g.pad_token_id, g.bos_token_id = tok.eos_token_id, tok.pad_token_id, tok.bos_token_id
    model.save_pretrained(folder)
    proc.save_pretrained(folder)
    return load_vlm(str(folder))


def test_it_can_be_trained(vlm): preflight(vlm)


def test_a_batch_says_what_each_row_says_alone(vlm):
    "Greedy texts and scores of three pictures of several shapes; another picture gives another score."
    rows = [dict(id=f'{i}', prompt='what is in this image ?' * (i + 1), images=[Image.effect_noise((60 + 70 * i, 64), 80).convert('RGB')])
            for i in range(3)]
    texts = ['the red cat .', 'a dog .', 'the mat near a cat .']
    together, alone = logprobs(vlm, rows, texts), [logprobs(vlm, [r], [t])[0] for r, t in zip(rows, texts)]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(together, alone))
    other = logprobs(vlm, [rows[0] | dict(images=rows[2]['images'])], texts[:1])[0]
    assert (other - together[0]).abs().max() > 1e-3
    assert vlm.generate(rows, max_new_tokens=8) == [vlm.generate([r], max_new_tokens=8)[0] for r in rows]


def test_text_trains_the_language_model_alone(vlm, tmp_path):
    "The loss falls, no tensor of the adapter belongs to the vision side, and the adapter changes decisions from images."
    r = replace(textonly_micro(), batch=4, micro_batch=2, epochs=8, lr=1e-2, lora_r=4, lora_alpha=8)
    rows = lay_out([dict(q, id=str(i)) for i, q in enumerate(map(dict, SEEDS['micro'][:4]))], tmp_path/'run', r)
    done = train_on_text(vlm, rows, tmp_path/'adapt', r)
    losses = [h['loss'] for h in done['history']]
    assert np.isfinite(losses).all() and losses[-1] < losses[0]
    names = load_file(f"{done['adapter']}/adapter_model.safetensors")
    assert names and not [n for n in names if 'visual' in n or 'vision' in n or 'projector' in n]
    asked = situations(4, 1_000_000)
    before = measure_decisions(vlm, asked, 4)['texts']
    with adapted(vlm, done['adapter']) as tuned: assert measure_decisions(tuned, asked, 4)['texts'] != before
