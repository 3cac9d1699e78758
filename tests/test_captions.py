"Caption metrics without Java: equal to the reference implementation on a thousand captions."
import json
import numpy as np
from captions_reference import FILE, thousand
from vlm_selfimprove.evaluation.captions import bleu_counts, bleu_of, cider, rouge_l


def test_equal_to_the_reference():
    "BLEU-1 to 4 of the set, ROUGE-L and CIDEr of each caption, to four digits after the point and more."
    theirs, (said, refs) = json.loads(FILE.read_text()), thousand()
    assert len(said) == len(theirs['cider']) == 1000 and 0 < np.mean(theirs['cider']) < 10
    bleu = bleu_of([bleu_counts(s, r) for s, r in zip(said, refs)])
    np.testing.assert_allclose(bleu, theirs['bleu'], atol=1e-5)
    np.testing.assert_allclose([rouge_l(s, r) for s, r in zip(said, refs)], theirs['rouge'], atol=1e-5)
    np.testing.assert_allclose(cider(said, refs), theirs['cider'], atol=1e-4)
