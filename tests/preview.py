"""How the pages look: `python tests/preview.py [NOTEBOOK or HTML ...] --out DIR`, all pages without a name.

A notebook goes through nbdev's own processing, then to HTML with nbs/styles.css and a small imitation of Quarto's theme,
then Chromium takes pictures of it at 1280 and at 390 pixels, cut into sheets, and measures it. Printed are pages wider than the screen with
what makes them so, text in figures smaller than nine pixels, pictures without a description, TeX that stayed TeX, and
addresses of other hosts. The exit status is 1 where a page is wider than the screen. Needs Chromium, and shows mathematics
only where pandoc is on the PATH. What only Quarto decides stands in CONTRIBUTING.md."""
import argparse, base64, html, io, json, os, re, shutil, subprocess, sys, tempfile, time, urllib.request
from pathlib import Path
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WIDTHS = 1280, 390
SMALLEST = 9  # pixels: text in a figure that is smaller cannot be read on a phone

# The parts of Quarto's default theme that decide widths: Bootstrap's tables and images, the page's columns, wrapped code.
THEME = '''
*, *::before, *::after { box-sizing: border-box }
body { margin: 0; font: 17px/1.5 system-ui, "Source Sans Pro", "DejaVu Sans", sans-serif; color: #343a40 }
main.content { width: calc(100% - 3em); margin: 1rem auto }
@media (min-width: 992px) { main.content { max-width: 750px; margin: 1rem auto } }
h1, h2, h3, h4 { font-weight: 500; line-height: 1.2; margin: 1.5rem 0 .5rem } h2 { border-bottom: 1px solid #dee2e6 }
p, ul, ol, table, figure, dl { margin: 0 0 1rem } blockquote { margin: 0 0 1rem; padding: 0 1.5em }
a { color: #2761e3 } img, svg { vertical-align: middle } .img-fluid { max-width: 100%; height: auto }
code, pre { font-family: SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace; font-size: .875em }
pre { display: block; margin: 0 0 1rem; overflow: auto } pre code { font-size: inherit }
.sourceCode { background: #f4f5f6; padding: .4em; border-radius: 3px; margin: 0 0 1rem }
.sourceCode pre { margin: 0; white-space: pre-wrap; overflow-wrap: break-word }
table { border-collapse: collapse; width: 100% } caption { text-align: left; color: #6c757d }
th, td { padding: .5rem; border-bottom: 1px solid #dee2e6; vertical-align: top; text-align: left }
summary { color: #5c636a; cursor: pointer } figure { text-align: center } figcaption { font-size: .9em; color: #5c636a }
'''

MEASURE = r'''(() => {
  const wide = window.innerWidth, all = [...document.querySelectorAll('body *')];
  const box = e => e.getBoundingClientRect(), name = e => e.tagName.toLowerCase() +
    (e.getAttribute('class') ? '.' + e.getAttribute('class').split(' ').join('.') : '');
  const scrolls = e => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(p).overflowX)) return true; return false };
  const far = all.filter(e => box(e).right > wide + 1 && box(e).width && !scrolls(e));
  const out = far.filter(e => !far.includes(e.parentElement) && !/^COL/.test(e.tagName))
    .map(e => `${name(e)} ${Math.round(box(e).width)}px: ${(e.textContent || e.alt || '').trim().replace(/\s+/g, ' ').slice(0, 50)}`);
  const cut = all.filter(e => ['hidden', 'clip'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1
    && e.clientWidth && !e.closest('svg, math')).map(e => `${name(e)}: ${e.textContent.trim().slice(0, 50)}`);
  const texts = [];
  for (const e of document.querySelectorAll('img[data-text]')) if (box(e).width)
    texts.push([+e.dataset.text * box(e).width / +e.dataset.view, `img ${e.alt.slice(0, 40)}`]);
  for (const e of document.querySelectorAll('svg text')) if (e.textContent.trim() && box(e).width)
    texts.push([parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a, `svg text ${e.textContent.slice(0, 40)}`]);
  const pixels = [...document.querySelectorAll('img')].filter(e => !e.dataset.text && e.naturalWidth > 300 && box(e).width)
    .map(e => [box(e).width / e.naturalWidth, (e.alt || e.src.slice(0, 30)).slice(0, 40)]);
  const silent = [...document.querySelectorAll('img')].filter(e => !e.getAttribute('alt')?.trim()).length +
    [...document.querySelectorAll('svg')].filter(e => !e.querySelector('title') && !e.getAttribute('aria-label')
      && !e.closest('[aria-label], [aria-hidden=true]') && !e.hasAttribute('aria-labelledby')).length;
  const tex = [...document.querySelectorAll('body *')].filter(e => !e.children.length && !e.closest('code, pre, script, annotation')
    && /\\(frac|sum|log|left|right|Bigl?|mathbb|mathrm|text|begin)\b|\$\$/.test(e.textContent)).map(e => e.textContent.slice(0, 60));
  const hosts = [...document.querySelectorAll('script[src], link[rel=stylesheet], img, iframe')]
    .map(e => e.src || e.href).filter(u => /^https?:/.test(u));
  return JSON.stringify({width: document.documentElement.scrollWidth, height: document.documentElement.scrollHeight,
    out, cut, texts, pixels, silent, tex, hosts}) })()'''


def as_html(markdown):
    "Markdown as HTML: by pandoc, which Quarto uses, or without mathematics by what nbconvert brings."
    if shutil.which('pandoc'):
        cmd = ['pandoc', '-f', 'markdown', '-t', 'html5', '--mathml', '--wrap=none']
        return subprocess.run(cmd, input=markdown, text=True, capture_output=True, check=True).stdout
    from nbconvert.filters.markdown_mistune import markdown2html_mistune
    return markdown2html_mistune(markdown)


def shown(data):
    "The richest form of an output that a page can show, as Markdown or raw HTML."
    text = lambda k: ''.join(data[k])
    if 'text/html' in data: return text('text/html'), True
    if 'text/markdown' in data: return text('text/markdown'), False
    if 'image/svg+xml' in data: return figure('svg+xml', base64.b64encode(text('image/svg+xml').encode()).decode()), True
    for kind in ('png', 'jpeg'):
        if f'image/{kind}' in data: return figure(kind, text(f'image/{kind}').replace('\n', '')), True
    return f'<pre><code>{html.escape(text("text/plain"))}</code></pre>', True


def figure(kind, data):
    return f'<figure class="figure"><p><img class="img-fluid figure-img" alt="ALT" src="data:image/{kind};base64,{data}"></p></figure>'


def page(path):
    "One notebook as a page: nbdev's processing, then its cells as Markdown and HTML in a row."
    from execnb.nbio import read_nb
    from nbdev.processors import FilterDefaults
    nb, parts, raw = read_nb(path), [], []
    os.environ['IN_TEST'] = '1'
    try: FilterDefaults()(nb)
    finally: os.environ.pop('IN_TEST', None)

    said = getattr(nb, 'frontmatter_', {})
    parts.append(f"# {said.get('title', '')}\n\n{said.get('description', '')}\n")

    def put(s, is_html=True):
        if is_html: raw.append(s)
        parts.append(f'<div id="raw-{len(raw) - 1}"></div>' if is_html else s)
    for c in nb.cells:
        source = ''.join(c.get('source', '') or '')
        if c.cell_type == 'markdown': put(source, False)
        if c.cell_type != 'code' or not source: continue
        said = dict(re.findall(r'^#\|\s*([\w-]+):\s*(.*)$', source, re.M))
        code = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
        if said.get('include') == 'false': continue
        if code and said.get('echo') != 'false' and 'nbdev_export()' not in code:
            block = f'<div class="sourceCode"><pre class="sourceCode"><code>{html.escape(code)}</code></pre></div>'
            fold = said.get('code-fold') in ('true', 'show')
            put(f'<details><summary>{said.get("code-summary", "Code")}</summary>{block}</details>' if fold else block)
        if said.get('output') == 'false': continue
        for o in c.get('outputs', []):
            if o.output_type == 'stream':
                put(f'<div class="cell-output cell-output-{o.name}"><pre><code>{html.escape("".join(o.text))}</code></pre></div>')
            elif o.output_type in ('display_data', 'execute_result'):
                s, is_html = shown(o.data)
                if is_html: put(f'<div class="cell-output cell-output-display">{s.replace("ALT", html.escape(said.get("fig-alt", "").strip(chr(34))))}'
                                + (f'<figcaption>{html.escape(said["fig-cap"])}</figcaption>' if 'fig-cap' in said else '') + '</div>')
                else: put(s if said.get('output') == 'asis' else f'<div class="cell-output cell-output-display cell-output-markdown">\n\n{s}\n\n</div>', False)
    body = re.sub(r'<div id="raw-(\d+)">\s*</div>', lambda m: raw[int(m[1])], as_html('\n\n'.join(parts)))
    body = re.sub(r'<img src="(?!data:|https?:)', f'<img src="{Path(path).parent.as_uri()}/', body)
    return document(re.sub(r'<table(?![^>]*class)', '<table class="table"', body), Path(path).stem)


def document(body, title):
    style = THEME + (ROOT/'nbs/styles.css').read_text(encoding='utf-8')
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
            f'<body class="quarto-light"><main class="content" id="quarto-document-content">{body}</main></body></html>')


def text_sizes(page):
    "Mark each SVG picture with the size of its smallest text and the width that size belongs to."
    def mark(m):
        svg = base64.b64decode(m[2]).decode()
        size = [float(s) for s in re.findall(r'font(?:-size)?:[^;"]*?([\d.]+)px', svg)]
        size += [100 * float(s) for s in re.findall(r'scale\(([\d.]+) -[\d.]+\)', svg) if float(s) < .5]  # letters as paths
        view = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+)', svg)
        return f'{m[1]}{m[2]}"' + (f' data-text="{min(size)}" data-view="{view[1]}"' if size and view else '')
    return re.sub(r'(<img [^>]*?src="data:image/svg\+xml;base64,)([^"]+)"', mark, page)


def sheets(image, picture, high=1700, wide=1600):
    "A long page cut into columns that stand side by side on as many sheets as are needed: picture_1.png and so on."
    for old in picture.parent.glob(f'{picture.stem}_[0-9]*.png'): old.unlink()
    columns = [image.crop((0, y, image.width, min(y + high, image.height))) for y in range(0, image.height, high)]
    k = max(1, wide // image.width)
    for i in range(0, len(columns), k):
        part = columns[i:i+k]
        sheet = Image.new('RGB', (sum(c.width for c in part) + 10 * (len(part) - 1), part[0].height), 'gray')
        for j, c in enumerate(part): sheet.paste(c, (j * (image.width + 10), 0))
        sheet.save(picture.with_name(f'{picture.stem}_{i // k + 1}.png'))


class Browser:
    "Chromium without a window, spoken to over its debugging port: true widths below 500 pixels, and one start for all pages."
    def __enter__(self):
        from websocket import create_connection
        self.home = tempfile.mkdtemp()
        chrome = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
        if not chrome: sys.exit('preview needs Chromium on the PATH')
        self.process = subprocess.Popen([chrome, '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
            '--remote-debugging-port=0', '--remote-allow-origins=*', f'--user-data-dir={self.home}', 'about:blank'],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        port = Path(self.home)/'DevToolsActivePort'
        for _ in range(300):
            if port.exists() and port.read_text().strip(): break
            time.sleep(.1)
        tabs = json.load(urllib.request.urlopen(f'http://127.0.0.1:{port.read_text().split()[0]}/json'))
        self.ws = create_connection(next(t for t in tabs if t['type'] == 'page')['webSocketDebuggerUrl'], timeout=120)
        self.n = 0
        self('Page.enable')
        return self

    def __call__(self, method, **params):
        self.n += 1
        self.ws.send(json.dumps(dict(id=self.n, method=method, params=params)))
        while (r := json.loads(self.ws.recv())).get('id') != self.n: pass
        return r['result']

    def look(self, url, width, picture):
        "Measure a page at one width and take its picture, whole, but no taller than 16,000 pixels."
        self('Emulation.setDeviceMetricsOverride', width=width, height=900, deviceScaleFactor=1, mobile=False)
        self('Page.navigate', url=url.as_uri())
        while json.loads(self.ws.recv()).get('method') != 'Page.loadEventFired': pass
        seen = json.loads(self('Runtime.evaluate', expression=MEASURE)['result']['value'])
        area = dict(x=0, y=0, width=max(width, seen['width']), height=min(seen['height'], 16000), scale=1)
        png = self('Page.captureScreenshot', format='png', captureBeyondViewport=True, clip=area)['data']
        sheets(Image.open(io.BytesIO(base64.b64decode(png))), picture)
        return seen

    def __exit__(self, *_):
        self.ws.close(); self.process.terminate(); self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


def report(name, width, seen):
    "What is wrong with a page at a width, a line each."
    lines = [f'WIDER THAN THE SCREEN: {seen["width"]}'] * (seen['width'] > width)
    if seen['width'] > width: lines += [f'  {o}' for o in seen['out'][:6]]
    lines += [f'cut: {o}' for o in seen['cut'][:4]]
    small = sorted(t for t in seen['texts'] if t[0] < SMALLEST)
    if small: lines.append(f'text of {small[0][0]:.1f} px in a figure ({len(small)} times below {SMALLEST}): {small[0][1]}')
    lines += [f'pixel picture at {100 * r:.0f} % of its size: {a}' for r, a in seen['pixels'] if r < .6]
    if width == WIDTHS[0]:
        if seen['silent']: lines.append(f'{seen["silent"]} pictures without a description')
        lines += [f'TeX as text: {t}' for t in seen['tex'][:3]] + [f'other host: {h}' for h in seen['hosts']]
    for l in lines: print(f'{name} at {width}: {l}')
    return bool(seen['width'] > width)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('pages', nargs='*', help='notebooks or finished HTML pages; all notebooks of the site if none is named')
    p.add_argument('--out', default='_preview', help='folder for pages and pictures')
    p.add_argument('--show', action='store_true', help='also print the sizes of pages that are well')
    a = p.parse_args()
    os.chdir(ROOT)
    out, wide = Path(a.out).resolve(), []
    out.mkdir(parents=True, exist_ok=True)
    paths = [Path(f).resolve() for f in a.pages] or [f for f in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in f.parts]
    with Browser() as browser:
        for f in paths:
            name = f.stem if f.suffix != '.ipynb' or not f.is_relative_to(ROOT/'nbs') else f.relative_to(ROOT/'nbs').with_suffix('').as_posix().replace('/', '_')
            made = out/f'{name}.html'
            try: made.write_text(text_sizes(f.read_text(encoding='utf-8') if f.suffix == '.html' else page(f)), encoding='utf-8')
            except Exception as e:
                print(f'{name}: NOT MADE: {type(e).__name__}: {e}'); wide.append(name); continue
            for w in WIDTHS:
                seen = browser.look(made, w, out/f'{name}_{w}.png')
                if report(name, w, seen): wide.append(f'{name} at {w}')
                if a.show: print(f'{name} at {w}: {seen["width"]} × {seen["height"]}, smallest text in a figure '
                                 + (f'{min(t[0] for t in seen["texts"]):.1f} px' if seen['texts'] else 'none'))
    print(f'{len(paths)} pages in {out}; ' + (f'not well: {", ".join(wide)}' if wide else 'none is wider than the screen'))
    return bool(wide)


if __name__ == '__main__': sys.exit(main())
