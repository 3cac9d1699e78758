"The documentation can be made: nbdev's own processing of every notebook, and a table of contents without gaps."
import json, sys
import yaml
from conftest import ROOT, sh


def test_nbdev_processes_every_notebook(clone, notebooks):
    "Quarto's input: imports and exports are executed, signatures are documented, nothing is lost."
    sh(sys.executable, '-c', 'from nbdev.serve import proc_nbs\n'
       'if __name__ == "__main__": proc_nbs(n_workers=0, force=True)', cwd=clone, timeout=300)
    made = {p.relative_to(clone/'_proc').as_posix(): p.read_text(encoding='utf-8')
            for p in (clone/'_proc').rglob('*.ipynb')}
    assert set(made) == {n.name for n in notebooks}
    bad = [name for name, t in made.items() if '"output_type": "error"' in t or 'Traceback (most recent' in t]
    assert not bad, f'cells fail while the pages are made: {bad}'
    def blank(text):
        docs = [c for c in json.loads(text)['cells'] if c['cell_type'] == 'code' and 'show_doc(' in ''.join(c['source'])]
        return not docs or not all(c['outputs'] for c in docs)
    undocumented = [n.name for n in notebooks if n.module and blank(made[n.name])]
    assert not undocumented, f'no signature, or an empty one, on {undocumented}'


def entries(contents):
    "The pages a sidebar lists, in order."
    for o in contents:
        if isinstance(o, str): yield o
        else:
            if 'href' in o: yield o['href']
            yield from entries(o.get('contents', []))


def test_sidebar_lists_every_notebook(notebooks):
    "Each notebook stands in nbs/sidebar.yml once, and each entry exists."
    side = yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text(encoding='utf-8'))
    listed, there = [*entries(side['website']['sidebar']['contents'])], {n.name for n in notebooks}
    assert len(listed) == len(set(listed)), 'listed twice'
    assert set(listed) == there, f'not listed: {there - set(listed)}; listed but not there: {set(listed) - there}'


def test_navbar_leads_somewhere():
    "Links of the navigation bar are pages of the site."
    nav = yaml.safe_load((ROOT/'_quarto.yml').read_text(encoding='utf-8'))['website']['navbar']
    gone = [o['href'] for o in nav['left'] if not (ROOT/'nbs'/o['href']).exists()]
    assert not gone, gone


def test_stub_points_to_the_root():
    stub = yaml.safe_load((ROOT/'nbs/_quarto.yml').read_text(encoding='utf-8'))
    assert stub['metadata-files'] == ['../_quarto.yml', 'nbdev.yml', 'sidebar.yml']
    assert all((ROOT/'nbs'/f).exists() for f in stub['metadata-files'])
