"The shipped base is the one that was measured, and what the methods stand on holds for it."
import pytest, torch
from vlm_selfimprove.models.micro import micro_path
from vlm_selfimprove.evaluation.preconditions import check_hashes, preconditions, checks_text


def test_hashes(): check_hashes()


def test_size():
    "bf16, at most 6 MB a model, 45 MB together."
    sizes = [p.stat().st_size for p in micro_path().parent.glob('*/model.safetensors')]
    assert max(sizes) <= 6_000_000 and sum(sizes) <= 45_000_000


def test_preconditions(capsys):
    "All of them, on 1,000 scenes the base never saw."
    torch.set_num_threads(2)
    checks = preconditions(micro_path('micro'), micro_path('micro-lm'), 1_000)
    with capsys.disabled(): print('\n' + checks_text(checks))
    assert all(c['ok'] for c in checks), [c['name'] for c in checks if not c['ok']]
