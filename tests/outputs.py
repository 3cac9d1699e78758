"""Stored outputs are documentation: this runs notebooks again and says where what they print is no longer what is stored.

`python tests/outputs.py [NOTEBOOK ...]` compares, all notebooks without a name; with `--write` it stores what came out. Cells
that are not to be executed (`#| eval: false`), and those that need a GPU or the net, keep what they have. What differs from
run to run is left out of the comparison: seconds, commits, versions, folders of one run, addresses of objects."""
import argparse, copy, os, re, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

os.environ.update(IN_TEST='1', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = re.compile(r'^#\|\s*(eval:\s*false|cuda|hf)\b', re.M)
VARIES = tuple((re.compile(p), to) for p, to in (
    (r'( at)? 0x[0-9a-fA-F]{6,}', ''),                                   # address of an object
    (r'(/[\w.-]+)*/tmp\w*(/[\w.-]+)*|…(/[\w.-]+)+|\btmp[a-z0-9_]{8}\b', 'FOLDER'),  # of one run
    (r'\d{4}-\d\d-\d\d([T ][\d:.]+)?', 'DATE'),
    (r'\d+(\.\d+)? ?(steps a second|s|ms|min|h|seconds|minutes|hours)\b|\d+:\d\d\b', 'TIME'),
    (r'\b(image|[a-z])?[0-9a-f]{7,40}\b', 'HASH'),                                    # of a commit, weights, parts of an SVG
    (r'[\d.]+ \w+ a second|width:[\d.]+%', 'SPEED'),
    (r'\b\d+\.\d+\.\d+\b', 'VERSION')))
PROGRESS = re.compile(r'\d+%\|.*\||\d+it \[|Loading weights')


def without_machine(text):
    "Paths as a reader may have them: from the repository's root, or from a folder of one run."
    return re.sub(r'/tmp/tmp\w+', '…', text.replace(f'{ROOT}/', ''))


def settled(text):
    "What does not vary from run to run: neither progress nor empty lines either."
    text = without_machine(text)
    for pattern, to in VARIES: text = pattern.sub(to, text)
    return '\n'.join(l.rstrip() for l in re.split(r'[\n\r]+', text) if l.strip() and not PROGRESS.search(l))


def texts(cell):
    "What a cell says, as one text: printed, returned, drawn as SVG; of other pictures a checksum."
    outputs = cell.get('outputs', [])
    printed = (''.join(o['text']) for o in outputs if o['output_type'] == 'stream' and o['name'] == 'stdout')
    said, pictures = [''.join(printed)], []
    for o in outputs:
        if o['output_type'] == 'stream': continue
        if o['output_type'] == 'error': said.append(o['evalue'])
        else:
            found = {k: ''.join(v) for k, v in sorted(o['data'].items()) if k.startswith('text/') or k == 'image/svg+xml'}
            said += [v for k, v in found.items() if k != 'text/plain' or not v.startswith('<')]  # a bare name of a class
            pictures += sorted(f'{k} {crc32(str(v).strip().encode())}' for k, v in o['data'].items() if k in ('image/png', 'image/jpeg'))
    return '\n'.join(filter(None, [settled('\n'.join(said)), *pictures]))


def executed(path):
    "A notebook, run from top to bottom in its own folder as a reader would; errors stop it."
    import nbformat
    from nbclient import NotebookClient
    nb = nbformat.read(path, as_version=4)
    run = copy.deepcopy(nb)
    for c in run.cells:
        if c.cell_type == 'code' and (LEFT_OUT.search(c.source) or 'nbdev_export()' in c.source): c.source = ''
    NotebookClient(run, timeout=900, kernel_name='python3', extra_arguments=['--log-level=40'],
                   resources=dict(metadata=dict(path=str(path.parent)))).execute()
    for old, new in zip(nb.cells, run.cells):
        if new.source: old.outputs = new.get('outputs', [])
    return nb


def differences(stored, now):
    "Cells whose texts differ: id, stored, now."
    pairs = [(a, b) for a, b in zip(stored.cells, now.cells) if a.cell_type == 'code']
    return [(a.id, texts(a), texts(b)) for a, b in pairs if texts(a) != texts(b)]


def first_difference(a, b, around=60):
    "The place where two texts part."
    at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    return a[max(0, at - around):at + around], b[max(0, at - around):at + around]


def storable(o):
    "An output without progress, warnings, names of classes and folders of this machine; None if nothing is left."
    if o['output_type'] == 'stream':
        lines = ''.join(o['text']).splitlines(keepends=True)
        o['text'] = without_machine(''.join(l for l in lines if not PROGRESS.search(l)))
        return o if o['name'] == 'stdout' and o['text'].strip() else None
    data = o.get('data', {})
    for k in data:
        if k in ('text/plain', 'text/markdown', 'text/html'): data[k] = without_machine(''.join(data[k]))
    bare = set(data) == {'text/plain'} and data['text/plain'].startswith('<')
    return None if bare or 'application/vnd.jupyter.widget-view+json' in data else o


def check(path, write=False):
    "Run one notebook; a line for each cell that differs."
    import nbformat
    from nbdev.clean import nbdev_clean
    now = executed(path)
    found = differences(nbformat.read(path, as_version=4), now)
    if write and found:
        differ = {i for i, *_ in found}
        nb = nbformat.read(path, as_version=4)
        for c, new in zip(nb.cells, now.cells):
            if c.id in differ: c.outputs = [*filter(None, map(storable, new.outputs))]
        nbformat.write(nb, path)
        nbdev_clean(str(path))
    return found


def main():
    args = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    args.add_argument('notebooks', nargs='*', type=Path)
    args.add_argument('--write', action='store_true', help='store the new outputs of cells that differ')
    a = args.parse_args()
    paths = [p.resolve() for p in a.notebooks] or sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
    bad = 0
    def one(p):
        try: return p, check(p, a.write)
        except Exception as e: return p, [('', '', f'stopped: {type(e).__name__}: {str(e)[-600:]}')]
    with ThreadPoolExecutor(2) as pool:
        for p, found in pool.map(one, paths):
            # with --write a difference is mended, a notebook that stopped is not
            bad += any(i == '' for i, *_ in found) if a.write else bool(found)
            print(p.relative_to(ROOT), 'as stored' if not found else f'{len(found)} cells differ', flush=True)
            for i, old, new in found: print(f'   {i}\n      stored {first_difference(old, new)[0]!r}\n      now    {first_difference(old, new)[1]!r}')
    return bool(bad)


if __name__ == '__main__': sys.exit(main())
