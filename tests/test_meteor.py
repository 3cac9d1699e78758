"METEOR: equal to the reference implementation where it is installed, refused with the way to get it where it is not."
import json, shutil
import numpy as np
import pytest
from captions_reference import FEW, FILE, thousand
from vlm_selfimprove.evaluation import meteor as asked
from vlm_selfimprove.evaluation.meteor import METEOR_NEEDS, meteor, meteor_command


def test_equal_to_the_reference():
    "Each of a hundred captions, and all together, to four digits."
    try: meteor_command()
    except RuntimeError as e: pytest.skip(str(e))
    theirs, (said, refs) = json.loads(FILE.read_text()), thousand()
    each, whole = meteor(said[:FEW], refs[:FEW])
    assert len(each) == len(theirs['meteor']) == FEW and 0 < whole < 1
    np.testing.assert_allclose(each, theirs['meteor'], atol=1e-4)
    np.testing.assert_allclose([whole], theirs['meteor_of_all'], atol=1e-4)


@pytest.mark.parametrize('lacks', ['java', 'the package pycocoevalcap'])
def test_refused_where_it_is_not(lacks, monkeypatch):
    "Without Java or without the package nobody gets a number, but a sentence that says what to install."
    if lacks == 'java': monkeypatch.setattr(shutil, 'which', lambda name: None)
    else: monkeypatch.setattr(asked, 'find_spec', lambda name: None)
    with pytest.raises(RuntimeError) as e: meteor([['a', 'cat']], [[['a', 'cat']]])
    assert lacks in str(e.value) and METEOR_NEEDS in str(e.value)
