"Stored outputs are what the code prints. The slow test runs every notebook: `pytest -m slow tests/test_outputs.py`."
import pytest
from conftest import ROOT, tracked
from outputs import check, first_difference, settled, texts

NOTEBOOKS = [p.relative_to(ROOT).as_posix() for p in sorted(tracked('nbs/*.ipynb'))]


@pytest.mark.slow
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_outputs_are_what_the_code_prints(name):
    found = {i: first_difference(old, new) for i, old, new in check(ROOT/name)}
    assert not found, f'run python tests/outputs.py --write {name}, look at what changed, then commit: {found}'


def test_what_varies_is_left_out_and_nothing_else():
    said = lambda text: settled(f'{text}\n')
    assert said('made in 2.5 s at /tmp/tmpab12cd34/run by <X at 0x7f00aa11bb22>') == said('made in 31 s at /tmp/x1 by <X>')
    assert said('made: …/run/adapter') == said('made: /tmp/tmpab12cd34/adapter')
    assert said('a\n\n 10%|###  | 1/10 [00:01<00:09]\nb') == said('a\nb')
    assert said('object F1 71.2') != said('object F1 71.3')
    drawn = dict(output_type='display_data', data={'text/plain': '<Figure size 1x1>', 'image/svg+xml': ['<svg>', '1</svg>']})
    assert texts(dict(outputs=[drawn, dict(output_type='stream', name='stderr', text='warned')])) == '<svg>1</svg>'
