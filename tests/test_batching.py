"Batch size is a matter of speed: greedy answers do not depend on it."
import pytest, torch
from vlm_selfimprove.data.prompts import STIC_MICRO
from vlm_selfimprove.models.vlm import encode, load_vlm
from vlm_selfimprove.world.tasks import VQA, image_of, vqa_rows

TIE = 1e-4  # of two logits: what the order of additions may decide in fp32


@pytest.fixture(scope='module')
def vlm(micro): return load_vlm(micro, dtype=torch.float32)


@pytest.fixture(scope='module')
def rows():
    "48 questions of all tasks and 16 requests for descriptions, mixed: prompts and answers of many lengths."
    asks = vqa_rows(64, 2_000_000, VQA + ('decision',))
    prompts = (*STIC_MICRO.normal, STIC_MICRO.good, *STIC_MICRO.bad)
    return [dict(id=r['id'], prompt=prompts[i // 4] if i % 4 == 0 else r['prompt'], images=[image_of(r)]) for i, r in enumerate(asks)]


def tie(vlm, row, a, b):
    "Distance of the two best logits where two answers to a row part."
    tok = vlm.processor.tokenizer
    x, y = (tok(f' {t}' if t else '', add_special_tokens=False).input_ids + [tok.eos_token_id] for t in (a, b))
    k = next(i for i, (s, t) in enumerate(zip(x, y)) if s != t)
    batch = encode(vlm, [row])
    for key, fill in (('input_ids', x[:k]), ('attention_mask', [1] * k)):
        batch[key] = torch.cat([batch[key], batch[key].new_tensor([fill])], 1)
    with torch.no_grad(): top = vlm.model(**batch).logits[0, -1].topk(2)
    assert set(top.indices.tolist()) == {x[k], y[k]}, f'{row["id"]}: {a!r} and {b!r} are not the two best answers'
    return (top.values[0] - top.values[1]).item()


def test_batch_size_does_not_matter(vlm, rows, capsys):
    "64 rows in batches of 1, 7 and 64: the same texts, except where two tokens tie."
    said = {n: [t[0] for t in vlm.generate(rows, max_new_tokens=64, batch_size=n)] for n in (1, 7, 64)}
    assert len(set(said[1])) > 16, 'too few different answers to show anything'
    gaps = [tie(vlm, r, a, b) for n in (7, 64) for r, a, b in zip(rows, said[1], said[n]) if a != b]
    with capsys.disabled(): print(f'\n  {len(gaps)} of {2 * len(rows)} answers differ from those in batches of 1; gaps {gaps}')
    assert all(g < TIE for g in gaps), gaps


def test_order_does_not_matter(vlm, rows):
    "Answers stay with their rows, also sampled ones, when the rows come in another order; one tie is allowed."
    kw = dict(max_new_tokens=32, temperature=.2, seed=3, batch_size=16)
    there, back = vlm.generate(rows[:32], **kw), vlm.generate(rows[31::-1], **kw)[::-1]
    assert sum(a != b for a, b in zip(there, back)) <= 1
