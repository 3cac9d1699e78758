"Text-only training under SIGKILL, on other architectures, with both losses, and from a teacher that is wrong or silent."
import json
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest
from safetensors.numpy import load_file
from test_faults import adapters_apart, events, killed_and_continued, run, said
from tinies import mk_tiny
from vlm_selfimprove.data.journal import StageError
from vlm_selfimprove.data.log import Log
from vlm_selfimprove.data.records import read_parquet
from vlm_selfimprove.evaluation.decisions import situations
from vlm_selfimprove.methods import textonly
from vlm_selfimprove.methods.textonly import gather, lay_out, load_writer, textonly_micro, train, train_on_text
from vlm_selfimprove.models.micro import micro_path
from vlm_selfimprove.models.teacher import Reply
from vlm_selfimprove.models.tiny import ARCHS
from vlm_selfimprove.models.vlm import load_vlm
from vlm_selfimprove.training.questions import SEEDS, situation_texts

STAGES = 'replies', 'questions', 'kept', 'rows'
SMALL = 'questions=12 gen_batch=4 batch=4 micro_batch=4 lora_r=4 lora_alpha=4 epochs=1 save_steps=1'.split()


def text_command(model): return ['textonly', '--model', model, '--benchmark', 'decisions', '--set', *SMALL]


@pytest.fixture(scope='module')
def command(micro): return text_command(micro)


@pytest.fixture(scope='module')
def unharmed(command, tmp_path_factory):
    "The run that nothing happened to."
    out = tmp_path_factory.mktemp('unharmed')/'run'
    assert run(command, out) == 0, said(out)
    return out


def data(out): return {s: (out/s/'data.parquet').read_bytes() for s in STAGES}


def test_killed_four_times(command, unharmed, tmp_path):
    "SIGKILL at four random moments, a start after each: the same data to the byte, the same adapter to 1e-6."
    killed_and_continued(command, out := tmp_path/'run', len(events(unharmed)), 4)
    assert data(out) == data(unharmed)
    assert adapters_apart(unharmed, out) < 1e-6


def test_everything_is_counted(unharmed):
    "Each question goes on or is left out by name; none is the benchmark's; the report shows them."
    counts = json.loads((unharmed/'results.json').read_text())['counts']['stages']
    assert all(c['rows'] == c['kept'] + c['rejected'] for c in counts.values())
    assert counts['questions']['kept'] == counts['kept']['rows'] and counts['rows']['kept'] == 12
    rows = read_parquet(unharmed/'rows/data.parquet')
    asked = {s for s in situation_texts(situations(300, 1_000_000)).values()}
    assert not [r for r in rows if any(s in r['prompt'] for s in asked)]
    assert 'Questions to train on' in (unharmed/'report.html').read_text()


@pytest.mark.parametrize('arch', ARCHS)
def test_other_architectures(arch, tmp_path):
    "Rows without an image train the language model of each architecture, and nothing else of it."
    r = replace(textonly_micro(), batch=2, micro_batch=2, epochs=1, lora_r=2, lora_alpha=2)
    rows = lay_out([dict(q, id=str(i)) for i, q in enumerate(map(dict, SEEDS['micro'][:4]))], tmp_path/'run', r)
    res = train_on_text(mk_tiny(arch), rows, tmp_path/'adapt', r)
    assert np.isfinite(res['history'][-1]['loss'])
    names = load_file(Path(res['adapter'])/'adapter_model.safetensors')
    assert names and not [n for n in names if 'vision' in n or 'projector' in n or 'connector' in n]


def test_losses_differ(tmp_path):
    "Loss on every token is not the loss on the answer; what is trained hangs on it."
    vlm, made = load_vlm(micro_path()), {}
    r = replace(textonly_micro(), model=str(micro_path()), batch=4, micro_batch=4, epochs=1, lora_r=4, lora_alpha=4)
    rows = lay_out([dict(q, id=str(i)) for i, q in enumerate(map(dict, SEEDS['micro'][:8]))], tmp_path/'run', r)
    for loss in ('completion', 'all'):
        made[loss] = train_on_text(vlm, rows, tmp_path/loss, replace(r, loss=loss))['history'][0]['loss']
    assert made['all'] > made['completion'] + .5, 'situations nobody asked it to write are hard to foretell'


def test_a_teacher_that_fails(tmp_path, monkeypatch):
    "Failed calls are asked for again and counted; a teacher that writes nothing is refused, with where the reasons are."
    r, calls = replace(textonly_micro(), questions=6, gen_batch=3, tries=3), []
    good = load_writer(r)
    real = textonly.ask_teacher

    def half(teacher, asks, **kw):
        calls.extend(a['id'] for a in asks)
        replies = real(good, asks, **kw)
        return [x if int(a['id'][-1]) % 2 else Reply('', 'failed', 0, 0, 4, 'HTTP 500') for a, x in zip(asks, replies)]
    monkeypatch.setattr(textonly, 'ask_teacher', half)
    (tmp_path/'run').mkdir()
    kept = gather(good, tmp_path/'run', r, log=Log(tmp_path/'run'))
    man = json.loads((tmp_path/'run/replies/manifest.json').read_text())
    assert len(calls) == len(set(calls)) == man['counts']['rows'] and man['reasons'] == {'no reply: HTTP 500': man['counts']['rejected']}
    assert len(kept) == 6
    monkeypatch.setattr(textonly, 'ask_teacher', lambda teacher, asks, **kw: [Reply('', 'failed', 0, 0, 4, 'HTTP 503') for _ in asks])
    (tmp_path/'dead').mkdir()
    with pytest.raises(StageError, match='none of 3 calls.*HTTP 503'): gather(good, tmp_path/'dead', r, log=Log(tmp_path/'dead'))
    assert not json.loads((tmp_path/'dead/replies/journal.jsonl').read_text().splitlines()[0]).get('rows'), 'nothing of it is kept'
    monkeypatch.setattr(textonly, 'ask_teacher', lambda teacher, asks, **kw: [Reply('no.', 'stop', 1, 1, 1, '') for _ in asks])
    with pytest.raises(ValueError, match='no question is left'):
        train(load_vlm(micro_path()), [], tmp_path/'mute', replace(r, model=str(micro_path())), Log(tmp_path/'run'))
