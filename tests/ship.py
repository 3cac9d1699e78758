"""Put what was trained into the package: `python tests/ship.py micro=DIR micro-weak=DIR micro-scorer=DIR`, one or more.

A base goes to weights/NAME with its recipe in weights/NAME.json; the language counterpart of `micro` goes with it. The detector and the
scorer are folders of their own (models/25_grounding, models/27_alignment), and a model of another architecture (models/29_architectures) lies in
a folder of its name. Then the hashes of all that ships are written anew, and
results on other weights are stale."""
import json, shutil, sys
from pathlib import Path
from vlm_selfimprove.data.records import file_sha256
from vlm_selfimprove.models.architectures import ARCHITECTURES

WHOLE = 'micro-detector', 'micro-scorer'  # no base: one checkpoint without a recipe
WEIGHTS = Path(__file__).resolve().parents[1]/'vlm_selfimprove/weights'


def ship(name, made):
    "One base, and its counterpart if it is the main one."
    folders = ('micro', 'micro-lm') if name == 'micro' else ('.',) if name in WHOLE else (name,) if name in ARCHITECTURES else ('micro',)
    for f in folders:  # before anything that ships is removed
        if not (Path(made)/f/'model.safetensors').exists(): raise SystemExit(f'{made}/{f}: no checkpoint; is the training done?')
    for f in folders:
        to = WEIGHTS/(f if name == 'micro' else name)
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(Path(made)/f, to)
    if name not in WHOLE: shutil.copy(Path(made)/('architecture.json' if name in ARCHITECTURES else 'base.json'), WEIGHTS/f'{name}.json')


if __name__ == '__main__':
    for name, made in (a.split('=') for a in sys.argv[1:]): ship(name, made)
    files = sorted(f for f in WEIGHTS.glob('*/*') if f.is_file())
    hashes = {str(f.relative_to(WEIGHTS)): file_sha256(f) for f in files}
    (WEIGHTS/'hashes.json').write_text(json.dumps(hashes, indent=1) + '\n')
    print(len(hashes), 'files,', round(sum(f.stat().st_size for f in files) / 1e6, 1), 'MB')
