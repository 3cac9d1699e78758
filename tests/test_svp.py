"SVP under SIGKILL, on other architectures, with a tiny GroundingDINO, and what its report shows."
import json
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import (
    BertTokenizerFast, GroundingDinoConfig, GroundingDinoForObjectDetection, GroundingDinoImageProcessorPil, GroundingDinoProcessor,
    SwinConfig)
from test_faults import adapters_apart, events, killed_and_continued, run, said
from tinies import mk_tiny
from vlm_selfimprove.data.images import check_images, list_images
from vlm_selfimprove.data.microset import micro_images
from vlm_selfimprove.data.records import read_parquet
from vlm_selfimprove.methods.svp import adapt, score_samples, select, svp_micro
from vlm_selfimprove.models.grounding import Detector, detect, load_detector, without_stops
from vlm_selfimprove.models.tiny import ARCHS
from vlm_selfimprove.models.vlm import load_vlm, logprobs
from vlm_selfimprove.runs.export import export_run

STAGES = 'images', 'prior', 'grounded', 'guided', 'scored', 'selected', 'queries'
SMALL = 'samples=3 gen_batch=6 batch=4 micro_batch=4 lora_r=4 lora_alpha=8 save_steps=2 max_new_tokens=48'.split()


def svp_command(d, model):
    "Eight images, three samples each."
    micro_images(d, 8, rows=6)
    return ['svp', '--images', d/'images', '--model', model, '--instructions', d/'instructions.jsonl',
            '--evaluation', d/'instructions.jsonl', '--set', *SMALL]


@pytest.fixture(scope='module')
def command(tmp_path_factory, micro): return svp_command(tmp_path_factory.mktemp('data'), micro)


@pytest.fixture(scope='module')
def unharmed(command, tmp_path_factory):
    "The run that nothing happened to."
    out = tmp_path_factory.mktemp('unharmed')/'run'
    assert run(command, out) == 0, said(out)
    return out


def data(out): return {s: (out/s/'data.parquet').read_bytes() for s in STAGES}


def test_killed_seven_times(command, unharmed, tmp_path):
    "SIGKILL at seven random moments, a start after each: the same data to the byte, the same adapter to 1e-6."
    killed_and_continued(command, out := tmp_path/'run', len(events(unharmed)), 7)
    assert data(out) == data(unharmed)
    assert adapters_apart(unharmed, out) < 1e-6


def test_everything_is_counted(unharmed):
    "Each sample goes on or is left out by name; a score is the sum of what its tokens add."
    counts = json.loads((unharmed/'results.json').read_text())['counts']['stages']
    assert counts['prior']['rows'] == 24
    for a, b in zip(STAGES[1:5], STAGES[2:6]): assert counts[a]['kept'] == counts[b]['rows'], (a, b)
    assert all(c['rows'] == c['kept'] + c['rejected'] for c in counts.values())
    scored = read_parquet(unharmed/'scored/data.parquet')
    for x in scored:
        assert abs(sum(x['kl']) - x['S']) < .01 and len(x['kl']) == len(x['tokens'])
        assert ''.join(x['tokens']).strip().startswith(x['completion'])
    kept = {x['id'] for x in read_parquet(unharmed/'selected/data.parquet')}
    for of in {x['of'] for x in scored}:
        mine = [x for x in scored if x['of'] == of]
        assert {x['id'] for x in mine} & kept == {max(mine, key=lambda x: (x['score'], -x['k']))['id']}
    page = (unharmed/'report.html').read_text()
    log = [json.loads(line)['text'] for line in (unharmed/'log.jsonl').read_text().splitlines()]
    n, known = counts['selected']['kept'], counts['queries']['kept']
    assert known < n and sum(f'queries: {known} beside {n} descriptions' in line for line in log) == 1
    assert '<rect' in page and 'with boxes at hand' in page and ', kept' in page and ', not kept' in page and 'not among the best 1 of its image' in page


@pytest.mark.parametrize('arch', ARCHS)
def test_other_architectures(arch, tmp_path):
    "Scores, selection and training on tiny models of each architecture."
    vlm = mk_tiny(arch)
    for i in range(2): Image.new('RGB', (56, 56), ('red', 'blue')[i]).save(tmp_path/f'{i}.png')
    records, _, _ = check_images(list_images(tmp_path)[0])
    r = replace(svp_micro(), samples=2, top=.5, gen_batch=2, batch=2, micro_batch=2, max_new_tokens=16)
    made = lambda x, k: dict(
        id=f"{x['id']}/{k}", of=x['id'], k=k, path=x['path'], prior='a mat .', context='cat [0.10,0.10,0.50,0.50]',
        found='[]', text=('the cat sat .', 'a red mat .')[k])
    scored = score_samples(vlm, [made(x, k) for x in records for k in (0, 1)], tmp_path/'run', r)
    assert all(np.isfinite(x['S']) and x['S'] >= 0 for x in scored)
    kept = select(scored, tmp_path/'run', r)
    res = adapt(vlm, kept, tmp_path/'adapt', r)
    assert len(kept) == 2 and np.isfinite(res['history'][-1]['loss']) and Path(res['adapter'], 'adapter_config.json').exists()


WORDS = '[PAD] [UNK] [CLS] [SEP] [MASK] . ? a red cow cup umbrella traffic light sun cat'.split()


@pytest.fixture(scope='module')
def dino(tmp_path_factory):
    "A GroundingDINO of a few hundred thousand random weights, saved and loaded like a real one."
    d = tmp_path_factory.mktemp('dino')
    (d/'vocab.txt').write_text('\n'.join(WORDS))
    tok = BertTokenizerFast(str(d/'vocab.txt'), model_max_length=64)
    eyes = SwinConfig(image_size=128, embed_dim=16, depths=[1] * 4, num_heads=[2] * 4, window_size=2,
                      out_features=['stage2', 'stage3', 'stage4'])
    text = dict(model_type='bert', vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=64)
    torch.manual_seed(0)
    model = GroundingDinoForObjectDetection(GroundingDinoConfig(
        backbone_config=eyes, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=20, num_feature_levels=4,
        fusion_dropout=0., fusion_droppath=0., max_text_len=64)).eval()
    ip = GroundingDinoImageProcessorPil(size=dict(shortest_edge=128, longest_edge=256))
    model.save_pretrained(d/'model')
    GroundingDinoProcessor(ip, tok).save_pretrained(d/'model')
    return load_detector(d/'model')


def test_grounding_dino(dino):
    "Its path from phrases to boxes: every box inside the image, every label one of the phrases, whatever was joined or split."
    assert isinstance(dino, Detector) and type(dino.model).__name__ == 'GroundingDinoForObjectDetection'
    images = [Image.new('RGB', (72, 72), 'red'), Image.new('RGB', (144, 72), 'blue')]
    phrases = [['cow', 'traffic light'], ['cup', 'umbrella', 'sun']]
    found, changed = detect(dino, images, phrases, threshold=0., text_threshold=0.)
    assert all(found), 'a threshold of zero finds something everywhere'
    for fs, p in zip(found, phrases):
        for f in fs:
            x1, y1, x2, y2 = f['box']
            assert f['label'] in p and 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 <= f['score'] <= 1
    one, _ = detect(dino, images[:1], phrases[:1], threshold=0., text_threshold=0.)
    assert [f['label'] for f in one[0]] == [f['label'] for f in found[0]], 'alone or in a batch: the same'
    assert detect(dino, images, [[], ['sun']], threshold=1.)[0] == [[], []]


def test_a_full_stop_in_a_phrase(dino):
    "Its processor joins a batch's phrases only where none holds one; without them it looks for all."
    images = [Image.new('RGB', (72, 72), 'red'), Image.new('RGB', (144, 72), 'blue')]
    phrases = [['cow', 'u.s. cup', 'sun'], ['cup', 'umbrella', 'sun']]
    look = lambda ps: detect(dino, images, ps, threshold=0., text_threshold=0.)[0]
    with pytest.raises((TypeError, ValueError)): look(phrases)
    assert all(look([*map(without_stops, phrases)]))


def test_text_beyond_its_limit(dino):
    "A text longer than the model has room for is cut, also where the tokenizer would let it through, as the real one does."
    image, tok = Image.new('RGB', (72, 72), 'red'), dino.processor.tokenizer
    asked = ['cow'] * 40 + ['sun']  # two tokens each
    tok.model_max_length = 512
    found, _ = detect(dino, [image], [asked], threshold=0., text_threshold=0.)
    tok.model_max_length = 64
    assert found[0] and {f['label'] for f in found[0]} == {'cow'}


def test_merged_weights_answer_like_the_adapter(command, unharmed, tmp_path, micro):
    "`vlmsi export --to merged`: one model that any program loads, with the base's tokenizer, precision and size."
    export_run(unharmed, 'merged', tmp_path/'merged')
    tuned, merged, base = load_vlm(micro, unharmed/'adapter'), load_vlm(tmp_path/'merged'), load_vlm(micro)
    pictures = sorted(command[2].iterdir())[:4]
    rows = [dict(id=str(i), prompt='write one long and rich text on the content.', images=[Image.open(p)])
            for i, p in enumerate(pictures)]
    said = 'in a farm: a red cow north.'
    a, b, c = (torch.cat([logprobs(v, [r], [said])[0] for r in rows]) for v in (tuned, merged, base))
    assert (a - b).abs().mean() < .05 * (a - c).abs().mean() + .02, 'bf16 rounds; what was learned stays'
    assert (tmp_path/'merged/model.safetensors').stat().st_size == Path(micro, 'model.safetensors').stat().st_size
