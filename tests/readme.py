"README.md is nbs/index.ipynb as Markdown: without pictures and hidden cells, with links from the repository's root."
import re
from pathlib import Path
from nbconvert import MarkdownExporter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]


def readme():
    "The text of README.md. nbdev's own command for this needs Quarto."
    c = Config({'NbConvertBase': {'display_data_priority': ['text/plain']},
                'RegexRemovePreprocessor': {'patterns': [r'#\| (hide|code-fold)'], 'enabled': True}})
    text, _ = MarkdownExporter(config=c).from_filename(ROOT/'nbs/index.ipynb')
    return re.sub(r'\]\((\w+)/', r'](nbs/\1/', text)


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
