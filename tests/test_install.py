"What a user gets: a wheel and a source archive that work without the repository."
import sys, sysconfig, tarfile, zipfile
import pytest
from conftest import ROOT, sh

WEIGHTS = 'vlm_selfimprove/weights/micro/model.safetensors'


@pytest.fixture(scope='module')
def dist(clone, tmp_path_factory):
    "A source archive built from what was committed, and the wheel built from that archive."
    out = tmp_path_factory.mktemp('dist')
    sh(sys.executable, '-m', 'build', '--no-isolation', '--outdir', out, clone, cwd=clone)
    return out


@pytest.fixture(scope='module')
def venv(dist, tmp_path_factory):
    "An environment with only the wheel in it; its dependencies are borrowed from this one through a .pth file."
    d = tmp_path_factory.mktemp('venv')
    sh(sys.executable, '-m', 'venv', '--without-pip', d, cwd=d)
    py = d/'bin'/'python'
    sh(sys.executable, '-m', 'pip', '--python', py, 'install', '--quiet', '--no-deps', *dist.glob('*.whl'), cwd=d)
    site = sh(py, '-c', "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=d).strip()
    # .pth files of a folder added this way are not read, so this environment's editable install stays out
    with open(f'{site}/borrowed.pth', 'w') as f: f.write(sysconfig.get_path('purelib') + '\n')
    return d


def test_archives_are_whole(dist):
    "Weights, licence and settings are where an installation needs them."
    wheel = zipfile.ZipFile(next(dist.glob('*.whl'))).namelist()
    source = [n.split('/', 1)[-1] for n in tarfile.open(next(dist.glob('*.tar.gz'))).getnames()]
    assert WEIGHTS in wheel, f'{WEIGHTS} is not in the wheel'
    assert {'settings.ini', 'LICENSE', 'README.md', WEIGHTS} <= set(source)
    stray = [n for n in wheel if n.split('/')[0] != 'vlm_selfimprove' and '.dist-info/' not in n]
    assert not stray, stray


def test_command_works_elsewhere(venv, tmp_path):
    "The command line starts from an empty folder."
    out = sh(venv/'bin'/'vlmsi', '--help', cwd=tmp_path)
    assert 'stic' in out


def test_imports_the_installed_package(venv, tmp_path):
    "Package and weights come from the installation, not from the repository."
    out = sh(venv/'bin'/'python', '-c', 'import vlm_selfimprove as v; print(v.__file__)', cwd=tmp_path)
    assert out.startswith(str(venv)) and str(ROOT) not in out
    out = sh(venv/'bin'/'python', '-c', 'from vlm_selfimprove.models.micro import micro_path; print(micro_path())', cwd=tmp_path)
    assert out.startswith(str(venv)), out
