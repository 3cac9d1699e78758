"""What a model of the papers' size takes: seconds and memory of each step, on a GPU, with random weights.

    python tests/paper_scale.py [STEP ...]     # steps: prefill describe long samples score dpo sft text; default: all

No checkpoint is needed: a model of the shapes of llava-v1.6-mistral-7b (Mistral's decoder, CLIP's large tower, five tiles of 336
pixels) is made on the GPU. It never ends an answer, so each is as long as it may be. One line of JSON a step; memory in GiB, the
highest that torch allocated in it. The first seconds of a training are checks and the hash of all weights, which a model that was
read from files does not need. LoRA's rank is the paper's. Set the GPU's name and versions beside the numbers when you cite them."""
import argparse, json, tempfile, time
import numpy as np, torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (CLIPVisionConfig, LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil,
                          LlavaNextProcessor, MistralConfig)
from vlm_selfimprove.models.tiny import TINY_TEMPLATE, tiny_tokenizer
from vlm_selfimprove.models.vlm import VLM, detach, generate, language_lora_targets, logprobs
from vlm_selfimprove.training.train import train_dpo, train_sft
from vlm_selfimprove.training.trainset import to_dataset

TILES = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
EYES = dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336, patch_size=14)
SPEAKS = dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
              max_position_embeddings=32768, sliding_window=None, vocab_size=32064)
RNG = np.random.default_rng(0)


def random_model():
    "As large as the real one, in bf16."
    tok = tiny_tokenizer()
    tok.model_max_length = SPEAKS['max_position_embeddings']
    image = LlavaNextImageProcessorPil(size={'shortest_edge': 336}, crop_size={'height': 336, 'width': 336},
                                       image_grid_pinpoints=TILES)
    processor = LlavaNextProcessor(tokenizer=tok, image_processor=image, patch_size=14, chat_template=TINY_TEMPLATE,
                                   vision_feature_select_strategy='default', num_additional_image_tokens=1)
    ends = dict(pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id)
    config = LlavaNextConfig(text_config=MistralConfig(**SPEAKS, **ends), vision_config=CLIPVisionConfig(**EYES),
                             image_token_index=tok.convert_tokens_to_ids('<image>'), image_grid_pinpoints=TILES)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device('cuda' if torch.cuda.is_available() else 'cpu'): model = LlavaNextForConditionalGeneration(config).eval()
    torch.set_default_dtype(torch.float32)
    plain = {*range(3, tok.vocab_size)}  # neither an end nor a placeholder
    model.generation_config.suppress_tokens = [i for i in range(SPEAKS['vocab_size']) if i not in plain]
    return VLM(model.bfloat16(), processor, 'random-7b')


def photo(): return Image.fromarray(RNG.integers(0, 255, (480, 640, 3), dtype=np.uint8))


def words(n): return ' '.join(RNG.choice('cat dog mat red sat near image the describe what'.split(), n))


def timed(name, fn):
    "Run a step and say what it took."
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    start = time.time()
    fn()
    if cuda: torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
    print(json.dumps(dict(step=name, seconds=round(time.time() - start, 1), gib=peak and round(peak, 1))), flush=True)


def described(vlm, rows, fp32):
    "Answers with an adapter in place, its weights in fp32, as PEFT has them, or in the model's own precision."
    lora = LoraConfig(r=128, lora_alpha=256, task_type='CAUSAL_LM', target_modules=language_lora_targets(vlm.model))
    tuned = VLM(get_peft_model(vlm.model, lora, autocast_adapter_dtype=fp32).eval(), vlm.processor, 'tuned')
    for n, p in tuned.model.named_parameters():
        if 'lora_B' in n: p.data.normal_(0, 1e-3)  # zero, it would change nothing
    timed(f'describe, 32 x 128 tokens, adapter in {"fp32" if fp32 else "bf16"}', lambda: generate(
        tuned, rows, max_new_tokens=128, temperature=.2, batch_size=32))
    detach(tuned)


def steps(vlm, out):
    "Name -> function without arguments."
    rows = [dict(id=str(i), prompt='describe the image .', images=[photo()]) for i in range(32)]
    said, rank = [words(150) for _ in rows], dict(lora_r=128, lora_alpha=256)
    pairs = to_dataset(rows[:16], chosen=said[:16], rejected=said[16:])
    texts = to_dataset([dict(id=str(i), prompt=words(300), images=[]) for i in range(32)], completion=['A'] * 32)
    draw = lambda some, most, **kw: generate(vlm, some, max_new_tokens=most, **kw)
    def describe():
        timed('describe, 32 x 128 tokens', lambda: draw(rows, 128, temperature=.2, batch_size=32))
        for fp32 in (True, False): described(vlm, rows, fp32)
    return dict(
        prefill=lambda: timed('prefill, 32 pictures', lambda: draw(rows, 1, batch_size=32)), describe=describe,
        long=lambda: timed('describe, 8 x 1,024 tokens', lambda: draw(rows[:8], 1024, temperature=.2, batch_size=8)),
        samples=lambda: timed('20 samples of a picture, 256 tokens', lambda: draw(rows[:1], 256, n=20, temperature=.7)),
        score=lambda: timed('score 20 descriptions', lambda: logprobs(vlm, rows[:20], said[:20], batch_size=20)),
        dpo=lambda: timed('DPO, 16 pairs, 1 a pass', lambda: train_dpo(
            vlm, pairs, f'{out}/dpo', lr=1e-7, batch_size=1, grad_accum=8, **rank)),
        sft=lambda: timed('SFT, 32 rows, 1 a pass', lambda: train_sft(
            vlm, to_dataset(rows, completion=said), f'{out}/sft', batch_size=1, grad_accum=32, **rank)),
        text=lambda: timed('text, 32 rows, 8 a pass, rank 32', lambda: train_sft(
            vlm, texts, f'{out}/text', batch_size=8, grad_accum=4, lora_r=32, lora_alpha=16)))


if __name__ == '__main__':
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument('step', nargs='*')
    wanted = a.parse_args().step
    with tempfile.TemporaryDirectory() as d:
        every = steps(random_model(), d)
        if unknown := {*wanted} - {*every}: a.error(f'no step {", ".join(sorted(unknown))}; there are {", ".join(every)}')
        for name in wanted or every: every[name]()
