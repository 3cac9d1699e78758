"Models of other architectures: built, they read as their counterpart; shipped, they load, see, and train on text like any other."
from dataclasses import replace
from pathlib import Path
import json, pytest, torch
from safetensors import safe_open
from transformers import LlamaForCausalLM
from vlm_selfimprove.evaluation.benchmarks import ask_all, score_descriptions
from vlm_selfimprove.methods.textonly import lay_out, textonly_micro, train_on_text
from vlm_selfimprove.models.architectures import ARCHITECTURES, ARCHITECTURE_RECIPE, mk_architecture
from vlm_selfimprove.models.base import BaseRecipe
from vlm_selfimprove.models.micro import WEIGHTS, micro_path, save_micro, shipped
from vlm_selfimprove.models.vlm import load_vlm
from vlm_selfimprove.training.preflight import preflight
from vlm_selfimprove.training.questions import SEEDS
from vlm_selfimprove.world.tasks import scene_rows

THERE = [k for k in ARCHITECTURES if k in shipped()]


@pytest.fixture(scope='module', params=ARCHITECTURES)
def loaded(request, tmp_path_factory):
    "A built model, saved and loaded."
    return load_vlm(save_micro(mk_architecture(request.param), tmp_path_factory.mktemp(request.param)/'model'))


def test_it_reads_as_its_counterpart(loaded):
    "After saving and loading: the same logits for a text."
    lm = LlamaForCausalLM.from_pretrained(micro_path('micro-lm'), dtype=torch.float32).eval()
    text, tok = '<|user|> which color is the dog ?<|assistant|>', loaded.processor.tokenizer
    ids = tok(text, return_tensors='pt', add_special_tokens=False).input_ids
    with torch.no_grad(): own, counterpart = loaded.model(input_ids=ids).logits, lm(input_ids=ids).logits
    assert (own[..., :lm.config.vocab_size] - counterpart).abs().max() < .02  # it was rounded to bf16 once more


def test_it_can_be_used(loaded, tmp_path):
    "Preflight passes; a training on text adapts the language model and nothing else."
    preflight(loaded)
    r = replace(textonly_micro(), batch=2, micro_batch=2, epochs=1, lora_r=2, lora_alpha=2)
    rows = lay_out([dict(q, id=str(i)) for i, q in enumerate(map(dict, SEEDS['micro'][:4]))], tmp_path/'run', r)
    adapter = train_on_text(loaded, rows, tmp_path/'adapt', r)['adapter']
    with safe_open(Path(adapter)/'adapter_model.safetensors', 'pt') as f: names = [*f.keys()]
    assert names and not [n for n in names if 'vision' in n or 'projector' in n or 'connector' in n]


@pytest.mark.parametrize('kind', THERE)
def test_what_ships_sees(kind):
    "Objects of held-out scenes, against the same texts beside other scenes; and the recipe it was made by."
    vlm, rows = load_vlm(micro_path(kind)), scene_rows(40, 1_730_000)
    texts = ask_all(vlm, rows, 'put the content into words.', 96, 64)
    right, other = (score_descriptions(t, rows)['object']['f1'] for t in (texts, texts[1:] + texts[:1]))
    assert right > max(.4, 2 * other)
    made = json.loads((WEIGHTS/f'{kind}.json').read_text())
    assert made['kind'] == kind and BaseRecipe(**made['recipe']) == ARCHITECTURE_RECIPE
