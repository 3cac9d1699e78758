"What several tests share: the repository, its notebooks, a fresh clone, and a clean environment for commands."
import gc, os, subprocess
from pathlib import Path
from types import SimpleNamespace

os.environ.update({k: os.environ.get(k, v) for k, v in dict(
    OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false').items()})

import nbformat, pytest

ROOT = Path(__file__).resolve().parents[1]


def sh(*cmd, cwd, timeout=900, **env):
    "Run a command that must succeed and return what it printed; both streams are shown where it fails."
    # nbdev marks its test processes with IN_TEST, and under it nbdev_export silently does nothing
    e = {k: v for k, v in os.environ.items() if k not in ('IN_TEST', 'PYTHONPATH')} | env
    p = subprocess.run([str(c) for c in cmd], cwd=cwd, env=e, timeout=timeout, text=True, capture_output=True)
    assert p.returncode == 0, f"{' '.join(map(str, cmd))}\nexit status {p.returncode}\n{p.stdout[-4000:]}\n{p.stderr[-4000:]}"
    return p.stdout


def notebook(path):
    "A notebook as path relative to nbs/, cells, default_exp module (or None) and raw format."
    nb = nbformat.read(path, as_version=4)
    exp = [l.split()[-1] for c in nb.cells if c.cell_type == 'code'
           for l in c.source.splitlines() if l.startswith('#| default_exp')]
    return SimpleNamespace(path=path, name=path.relative_to(ROOT/'nbs').as_posix(), nb=nb, cells=nb.cells,
                           module=exp[0] if exp else None)


def tracked(*patterns):
    "Files git knows, relative to the repository."
    return [ROOT/f for f in sh('git', 'ls-files', '-z', *patterns, cwd=ROOT).split('\0') if f]


def pytest_collection_finish():
    "What was imported stays to the end: each training collects garbage, and need not look through that."
    gc.freeze()


def pytest_collection_modifyitems(items):
    "Files that take minutes come first, so that two processes end together."
    long = 'test_reproduce', 'test_base', 'test_docs', 'test_svp', 'test_faults', 'test_textonly', 'test_teacher'
    items.sort(key=lambda x: long.index(x.path.stem) if x.path.stem in long else len(long))


@pytest.fixture(scope='session')
def notebooks():
    "Every notebook of the project."
    return [notebook(p) for p in sorted(tracked('nbs/*.ipynb'))]


@pytest.fixture(scope='session')
def clone(tmp_path_factory):
    "What was committed, in a folder of its own. Hard links keep the weights from being copied."
    d = tmp_path_factory.mktemp('clone')/'repo'
    sh('git', 'clone', '--quiet', '--local', ROOT, d, cwd=ROOT)
    return d


@pytest.fixture(scope='session')
def micro():
    "The shipped micro model's folder. VLMSI_TEST_MICRO names another one, for work on the base itself."
    from vlm_selfimprove.models.micro import micro_path
    return os.environ.get('VLMSI_TEST_MICRO') or str(micro_path())


@pytest.fixture(scope='session')
def photos():
    "Photographs that come with scikit-image and scikit-learn: colour, gray and transparent; wide, square and tall."
    import skimage, sklearn
    a, b = Path(skimage.__file__).parent/'data', Path(sklearn.__file__).parent/'datasets/images'
    return [*(a/f for f in ('astronaut.png', 'chelsea.png', 'camera.png', 'horse.png', 'cell.png', 'page.png', 'retina.jpg',
            'motorcycle_left.png')), b/'china.jpg', b/'flower.jpg']
