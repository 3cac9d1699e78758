"""README.md is nbs/index.ipynb as Markdown, with links from the repository's root; the picture that it shows is the one that the
notebook drew. Cells that are hidden or folded stay out, of cells with `echo: false` only what they returned goes in."""
import base64, re
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT/'nbs/images/before_after.png'
OUT, ALONE = re.compile(r'#\| *(hide|code-fold)'), re.compile(r'#\| *echo: *false')


def index():
    "The notebook; each cell marked with how it goes into README.md."
    nb = nbformat.read(ROOT/'nbs/index.ipynb', as_version=4)
    for c in nb.cells:
        if c.cell_type != 'code': continue
        shown = {k for o in c.outputs for k in o.get('data', {})}
        drawn = shown & {'image/png', 'text/html'}  # README shows the picture at its top, and no HTML
        c.metadata.tags = ['out'] * bool(OUT.match(c.source) or drawn) + ['alone'] * bool(ALONE.match(c.source))
    return nb


def readme():
    "The text of README.md. nbdev's own command for this needs Quarto."
    c = Config({'NbConvertBase': {'display_data_priority': ['text/markdown', 'text/plain']},
                'TagRemovePreprocessor': {'enabled': True, 'remove_cell_tags': ['out'], 'remove_input_tags': ['alone']}})
    text, _ = MarkdownExporter(config=c).from_notebook_node(index())
    text = re.sub(r'\]\((\w+)/', r'](nbs/\1/', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def picture():
    "The picture that the notebook drew, as bytes of a PNG file."
    data, = (o['data']['image/png'] for c in index().cells for o in c.get('outputs', []) if 'image/png' in o.get('data', {}))
    return base64.b64decode(data)


if __name__ == '__main__':
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(picture())
    (ROOT/'README.md').write_text(readme(), encoding='utf-8')
