"The documentation can be made: nbdev's own processing of every notebook, and a site configuration that holds together."
import json, os, re, sys
import pytest, yaml
from conftest import ROOT, sh, tracked
from docs import local

GITHUB = 'https://github.com/vlm-selfimprove/vlm_selfimprove/blob/main/vlm_selfimprove'
SITE = 'https://vlm-selfimprove.github.io/vlm_selfimprove'
QUARTO = '#!/bin/sh\n[ "$1" = render ] && mkdir _docs && cp index.ipynb _docs/index.html\n'  # stands in for the real one


def configured(name):
    "A configuration file of the site."
    return yaml.safe_load((ROOT/name).read_text(encoding='utf-8'))


@pytest.fixture(scope='module')
def made(clone):
    "What Quarto is given for each notebook, after a whole `make docs` in which a stand-in plays Quarto."
    fake = clone.parent/'bin'/'quarto'
    fake.parent.mkdir()
    fake.write_text(QUARTO)
    fake.chmod(0o755)
    os.utime(clone/'README.md', (0, 0))  # older than the notebook: nbdev_docs would write it anew
    sh(sys.executable, 'tests/docs.py', '--workers', 0, cwd=clone, PATH=f"{fake.parent}:{os.environ['PATH']}")
    return {p.relative_to(clone/'_proc').as_posix(): p.read_text(encoding='utf-8')
            for p in (clone/'_proc').rglob('*.ipynb')}


def test_nbdev_processes_every_notebook(made, notebooks):
    "Quarto's input: imports and exports are executed, signatures are documented, nothing is lost."
    assert set(made) == {n.name for n in notebooks}
    bad = [name for name, t in made.items() if '"output_type": "error"' in t or 'Traceback (most recent' in t]
    assert not bad, f'cells fail while the pages are made: {bad}'
    def blank(text):
        docs = [c for c in json.loads(text)['cells'] if c['cell_type'] == 'code' and 'show_doc(' in ''.join(c['source'])]
        return not docs or not all(c['outputs'] for c in docs)
    undocumented = [n.name for n in notebooks if n.module and blank(made[n.name])]
    assert not undocumented, f'no signature, or an empty one, on {undocumented}'


def test_making_the_site_leaves_the_rest_alone(made, clone):
    "The site lies in _docs; README.md has another maker, and nbs/nbdev.yml is what settings.ini says."
    assert (clone/'_docs'/'index.html').exists()
    drift = sh('git', 'status', '--porcelain', cwd=clone)
    assert not drift, f'making the site changed:\n{drift}'
    recipe = (ROOT/'Makefile').read_text(encoding='utf-8').split('\ndocs:')[1].split('\n\n')[0]
    assert 'tests/docs.py' in recipe and 'nbdev_docs' not in recipe and 'readme' not in recipe


def test_pages_link_to_source_and_symbols(made):
    "Each documented definition links to its code, and a name in back-ticks to its page."
    assert f'{GITHUB}/world/render.py#L' in made['world/11_render.ipynb']
    links = re.findall(rf'`(\w+)`\]\({re.escape(SITE)}/([\w/]+)\.html#(\w+)', '\n'.join(made.values()))
    # pandoc makes an anchor of a heading, in small letters
    assert len(links) > 50 and all(name.lower() == at.lower() for name, _, at in links), links


def test_pages_load_nothing_from_other_hosts(made):
    "Outputs of HTML, widgets and some themes make Quarto load scripts and letters from elsewhere."
    named = {k for t in made.values() for c in json.loads(t)['cells'] for o in c.get('outputs', []) for k in o.get('data', {})}
    assert not named & {'text/html', 'application/javascript', 'application/vnd.jupyter.widget-view+json'}, named
    foreign = re.compile(r'<(script|link|img|iframe)[^>]+(src|href)=[\\"\']+https?:')
    found = {n: m.group() for n, t in made.items() if (m := foreign.search(t))}
    assert not found, found
    html = configured('_quarto.yml')['format']['html']
    assert html['theme'] == 'default' and html['html-math-method'] == 'mathml'


def test_html_becomes_markdown_that_holds_it():
    nb = dict(metadata=dict(widgets=1), cells=[dict(outputs=[dict(data={'text/html': ['<b>\n', '\n', 'x</b>'], 'text/plain': 'x'})])])
    out = local(nb)['cells'][0]['outputs'][0]['data']
    assert ''.join(out['text/markdown']) == '```{=html}\n<b>\n\nx</b>\n```\n' and 'text/html' not in out
    assert not nb['metadata']


def test_html_and_commonmark_get_along():
    "With commonmark among the formats Quarto 1.7 deletes the twin of a page and stops, unless html keeps its Markdown."
    formats = configured('_quarto.yml')['format']
    assert 'commonmark' not in formats or formats['html'].get('keep-md') is True


def test_site_has_its_picture():
    "What other sites show beside a link: a file of ours, small enough to be shown."
    image = ROOT/'nbs'/configured('_quarto.yml')['website']['image']
    assert image in tracked('nbs/*.png') and 5_000 < image.stat().st_size <= 60*1024


def test_formulas_are_mathml_that_browsers_draw(notebooks):
    "Sized brackets stay raw TeX on the page: write \\left( and \\right) instead."
    found = [n.name for n in notebooks for c in n.cells
             if c.cell_type == 'markdown' and re.search(r'\\[Bb]ig+[lrm]?\b', c.source)]
    assert not found, found


def test_no_word_is_taken_for_a_tag(notebooks):
    "Browsers read a bare <image> as an empty picture, and the word is gone: write it in back-ticks."
    found = [f'{n.name}#{c.id}' for n in notebooks for c in n.cells
             if c.cell_type == 'markdown' and '<image>' in re.sub(r'`[^`]*`', '', c.source)]
    assert not found, found


def entries(contents):
    "The pages a sidebar lists, in order."
    for o in contents:
        if isinstance(o, str): yield o
        else:
            if 'href' in o: yield o['href']
            yield from entries(o.get('contents', []))


def test_sidebar_lists_every_notebook(notebooks):
    "Each notebook stands in nbs/sidebar.yml once, and each entry exists."
    side = configured('nbs/sidebar.yml')['website']['sidebar']['contents']
    listed, there = [*entries(side)], {n.name for n in notebooks}
    assert len(listed) == len(set(listed)), 'listed twice'
    assert set(listed) == there, f'not listed: {there - set(listed)}; listed but not there: {set(listed) - there}'


def test_navbar_leads_somewhere():
    "Links of the navigation bar are pages of the site."
    nav = configured('_quarto.yml')['website']['navbar']
    gone = [o['href'] for o in nav['left'] if not (ROOT/'nbs'/o['href']).exists()]
    assert not gone, gone


def test_stub_points_to_the_root():
    stub = configured('nbs/_quarto.yml')
    assert stub['metadata-files'] == ['../_quarto.yml', 'nbdev.yml', 'sidebar.yml']
    assert all((ROOT/'nbs'/f).exists() for f in stub['metadata-files'])
