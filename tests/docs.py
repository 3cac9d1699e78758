"""The site: `make docs`, or with `--no-quarto` only what Quarto is given, in _proc/; `--workers 0`: in one process.

nbdev_docs would do nearly the same, but it also writes README.md, which `make readme` makes, and it leaves outputs of HTML as
they are: for each page with one of those Quarto loads two scripts from a foreign host."""
import argparse, gc, json, shutil, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def local(nb):
    "The same notebook, where an output of HTML is Markdown that holds it, and where no widget is announced."
    nb['metadata'].pop('widgets', None)
    for o in (o for c in nb['cells'] for o in c.get('outputs', []) if 'text/html' in o.get('data', {})):
        text = ''.join(o['data']['text/html']).strip()
        # a line of Markdown ends an HTML block, so the fence says how far it goes
        o['data'] = {'text/markdown': ['```{=html}\n', *text.splitlines(keepends=True), '\n```\n']}
    return nb


def process(n_workers=2):
    "Write nbs/nbdev.yml from settings.ini and the pages' sources to _proc/; the folder."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    cache = proc_nbs(n_workers=n_workers)
    gc.freeze()  # at exit IPython collects garbage once for each page: a minute, where nothing of it is set aside
    for f in cache.rglob('*.ipynb'):
        f.write_text(json.dumps(local(json.loads(f.read_text(encoding='utf-8'))), ensure_ascii=False), encoding='utf-8')
    return cache


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument('--no-quarto', dest='quarto', action='store_false')
    args.add_argument('--workers', type=int, default=2, help='processes; 0: this one')
    a = args.parse_args()
    if a.quarto and not shutil.which('quarto'):
        sys.exit('make docs needs Quarto 1.7 on the PATH: https://quarto.org')
    cache = process(a.workers)
    if not a.quarto: return
    subprocess.run(['quarto', 'render', '--no-cache'], cwd=cache, check=True)
    shutil.rmtree(ROOT/'_docs', ignore_errors=True)
    shutil.move(cache/'_docs', ROOT/'_docs')
    print('_docs is the site; open _docs/index.html')


if __name__ == '__main__': main()
