"The adapter is an ordinary PEFT folder: whoever has transformers and peft can use it, without this library."
import json, sys
from pathlib import Path
import pytest
from conftest import sh
from vlm_selfimprove.data.microset import micro_images
from vlm_selfimprove.methods import stic
from vlm_selfimprove.runs.recipes import load_recipe
from vlm_selfimprove.runs.run import improve
from vlm_selfimprove.data.images import open_image
from vlm_selfimprove.data.rows import read_rows
from vlm_selfimprove.models.vlm import attach, load_vlm

STRANGER = '''
import json, sys, torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
torch.set_num_threads(1)
base, adapter, rows = sys.argv[1], sys.argv[2], json.load(open(sys.argv[3]))
proc = AutoProcessor.from_pretrained(base)
bare = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()

def say(model):
    out = []
    for r in rows:
        msgs = [dict(role='user', content=[dict(type='image'), dict(type='text', text=r['prompt'])])]
        text = proc.apply_chat_template(msgs, add_generation_prompt=True)
        x = proc(text=[text], images=[Image.open(r['image']).convert('RGB')], add_special_tokens=False, return_tensors='pt')
        y = model.generate(**x, do_sample=False, max_new_tokens=64)
        out.append(proc.batch_decode(y[:, x['input_ids'].shape[1]:], skip_special_tokens=True)[0].strip())
    return out

before = say(bare)
after = say(PeftModel.from_pretrained(bare, adapter))
assert not [m for m in sys.modules if m.startswith('vlm_selfimprove')]
print('ANSWERS' + json.dumps([before, after]))
'''


@pytest.fixture(scope='module')
def trained(micro, tmp_path_factory):
    "A short run with a high learning rate, so that the adapter changes what is said."
    d = tmp_path_factory.mktemp('adapter')
    micro_images(d, 16, rows=32)
    small = dict(gen_batch=16, batch=8, micro_batch=8, batch2=8, lora_r=4, lora_alpha=8)
    r = load_recipe('stic_micro', dict(model=micro, lr=3e-3, lr2=3e-3) | small)
    improve(stic.train, r, d/'run', d/'images', instructions=read_rows(d/'instructions.jsonl'))
    return d


def test_adapter_works_without_this_library(trained, micro):
    "Plain PEFT gives the same greedy answers as `generate`, for the bare model and with the adapter, and the two differ."
    rows = [dict(id=f'{p}{i}', prompt=p, image=str(im)) for i, im in enumerate(sorted((trained/'images').iterdir())[:6])
            for p in ('describe the image.', 'is there a cup?')]
    (trained/'rows.json').write_text(json.dumps(rows))
    (trained/'stranger.py').write_text(STRANGER)
    out = sh(sys.executable, trained/'stranger.py', micro, trained/'run/adapter', trained/'rows.json', cwd=trained)
    theirs = json.loads(out.split('ANSWERS')[1])
    vlm, asks = load_vlm(micro), [r | dict(images=[open_image(dict(id=r['id'], path=r['image']))]) for r in rows]
    say = lambda v: [t[0] for t in v.generate(asks, max_new_tokens=64, batch_size=1)]
    ours = [say(vlm), say(attach(vlm, trained/'run/adapter'))]
    assert theirs == ours
    assert ours[0] != ours[1], 'the adapter changes nothing, so this test would show nothing'


def test_adapter_names_its_base(trained, micro):
    "The folder says what it belongs on, and holds nothing but what PEFT reads."
    cfg = json.loads((trained/'run/adapter/adapter_config.json').read_text())
    assert cfg['peft_type'] == 'LORA' and cfg['base_model_name_or_path'] == micro
    assert {p.name for p in (trained/'run/adapter').iterdir()} <= {'adapter_config.json', 'adapter_model.safetensors', 'README.md'}


def test_adapter_has_a_card(trained, micro):
    "Its README says what it is, what was measured and how it is loaded, by its base's name and without a path of this machine."
    card = (trained/'run/adapter/README.md').read_text()
    assert f'On {Path(micro).name}' in card and micro not in card and str(trained) not in card
    assert all(f'## {head}' in card for head in ('Measured', 'Settings', 'Licence')) and 'PeftModel.from_pretrained' in card
