"""What the reference implementation says of a thousand captions: `python tests/captions_reference.py` writes tests/captions_reference.json.

It needs `pip install pycocoevalcap` (100 MB) and, for METEOR, Java. The tests need neither: they compare with the file."""
import json
from pathlib import Path
import numpy as np
from vlm_selfimprove.evaluation.captions import ptb_tokens
from vlm_selfimprove.world.language import ordinary, references
from vlm_selfimprove.world.scenes import mk_scene

FILE = Path(__file__).with_suffix('.json')
FEW = 100  # captions that METEOR is asked about


def thousand():
    "Captions with habits and mistakes, in words, and the references of their scenes."
    rng, scenes = np.random.default_rng(0), [mk_scene(i) for i in range(1000)]
    return ([ptb_tokens(ordinary(s, rng, 1.)) for s in scenes], [[ptb_tokens(r) for r in references(s)] for s in scenes])


if __name__ == '__main__':
    from importlib.metadata import version
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    said, refs = thousand()
    res = {i: [' '.join(s)] for i, s in enumerate(said)}
    gts = {i: [' '.join(r) for r in rs] for i, rs in enumerate(refs)}
    bleu, cider = Bleu(4).compute_score(gts, res, verbose=0)[0], Cider().compute_score(gts, res)[1]
    rouge = Rouge().compute_score(gts, res)[1]
    whole, meteor = Meteor().compute_score({i: gts[i] for i in range(FEW)}, {i: res[i] for i in range(FEW)})
    each = lambda v: [round(float(x), 6) for x in v]
    made_by = f"pycocoevalcap {version('pycocoevalcap')}"
    theirs = dict(made_by=made_by, bleu=each(bleu), rouge=each(rouge), cider=each(cider), meteor=each(meteor), meteor_of_all=each([whole]))
    FILE.write_text(json.dumps(theirs) + '\n')
    print(made_by, each(bleu), round(float(np.mean(rouge)), 6), round(float(np.mean(cider)), 6), whole)
