"""Hours of harm: `make torture`, or `python tests/torture.py [N [KIND ...]]` for N kills a stage, N damaged folders, 20 N images and
rows; kinds are rows, images, hostile, damaged, kills, and kills:STAGE for those of one stage; stic, svp, textonly for one method alone.

Prints a line for each kind of harm: what was tried, and what did not end as it should. The exit status is the number of those."""
import contextlib, json, os, random, shutil, signal, sys, tempfile
from collections import defaultdict
from pathlib import Path
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.update(OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1', TOKENIZERS_PARALLELISM='false')
from vlm_selfimprove.data.images import check_images, list_images
from vlm_selfimprove.data.microset import micro_images
from vlm_selfimprove.data.records import read_parquet
from vlm_selfimprove.data.rows import read_rows
from vlm_selfimprove.models.micro import micro_path
from test_faults import belongs, events, read, run, said, stic_command, unusable, unusual
from test_property import DAMAGE, damage, one_line
from test_svp import svp_command
from test_textonly import text_command

COMMANDS = dict(stic=stic_command, svp=svp_command, textonly=lambda d, model: text_command(model))  # method -> its small job


def same(out, unharmed):
    "Does a folder hold what the run holds that nothing happened to?"
    a, b = read(unharmed), read(out)
    belongs(out)
    assert a.data == b.data and a.results == b.results and a.losses == b.losses
    assert all(np.array_equal(v, b.adapter[k]) for k, v in a.adapter.items())


def kills(cmd, unharmed, d, n, rng):
    "n kills in each stage, each followed by one start that has to end the same. A stage is begun once, and copied."
    where, wrong, struck = defaultdict(list), [], 0
    for i, e in enumerate(events(unharmed), 1):
        part, *inside = e.split()[1].split('/')
        where[part if inside else 'the end'].append(i)
    only = {k.partition(':')[2] for k in sys.argv[2:] if ':' in k}
    where = {k: v for k, v in where.items() if not only or k in only}
    for stage, moments in where.items():
        begun = d/f'{stage}-begun'
        run(cmd, begun, moments[0])
        for k in range(n):
            out, at = d/f'{stage}-{k}', rng.choice(moments) - moments[0] + 1
            shutil.copytree(begun, out)
            code = run(cmd, out, at, rng.uniform(0, .05))
            struck += code == -signal.SIGKILL
            try:
                assert code in (-signal.SIGKILL, 0) and run(cmd, out) == 0, said(out)[-500:]
                same(out, unharmed)
            except Exception as e: wrong.append(f'{stage}, write {at}: {type(e).__name__}: {e}')
            for f in d.glob(f'{stage}-{k}*'):
                if f.is_dir(): shutil.rmtree(f, ignore_errors=True)
                else: f.unlink()
            if out.exists():
                wrong.append(f'{stage}, write {at}: written to after its end: {[*map(str, out.rglob("*"))]}')
                shutil.rmtree(out, ignore_errors=True)
        print(f'  {stage}: {n} kills, {len(wrong)} wrong so far', flush=True)
    return f'{n} kills in each of {len(where)} places ({", ".join(where)}), {struck} of them before the run had ended', wrong


def damaged(cmd, unharmed, d, n, rng):
    "n folders with one to three spoiled files, each followed by one start that has to end the same."
    wrong = []
    files = sorted(p.relative_to(unharmed) for p in unharmed.rglob('*') if p.is_file())
    for k in range(n):
        out, told = d/f'damaged-{k}', []
        shutil.copytree(unharmed, out)
        for f in rng.sample(files, rng.randint(1, 3)):
            how = rng.choice(DAMAGE)
            damage(out/f, how, rng.random())
            told.append(f'{f} {how}')
        try:
            assert run(cmd, out) == 0, said(out)[-500:]
            same(out, unharmed)
        except Exception as e: wrong.append(f'{", ".join(told)}: {type(e).__name__}: {e}')
        shutil.rmtree(out, ignore_errors=True)
    return f'{n} damaged folders', wrong


def spoiled(data, rng):
    "A file with a few bytes changed, cut, or doubled."
    data = bytearray(data)
    for _ in range(rng.randint(0, 8)): data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[:rng.randrange(len(data))] if rng.random() < .3 else data)


def pictures(d, n, rng):
    "A folder with all that is no picture, or a strange one, and n spoiled ones; names of its files."
    d.mkdir()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    unusable(d, photo), unusual(d, photo)
    whole = [p.read_bytes() for p in sorted(d.iterdir()) if p.is_file() and p.stat().st_size > 100]
    for i in range(n): (d/f'spoiled-{i}.png').write_bytes(spoiled(rng.choice(whole), rng))
    name = lambda p: os.fsencode(p.relative_to(d)).decode('utf-8', 'backslashreplace')
    return {name(p) for p in d.rglob('*') if not p.is_dir()}


def hostile(cmd, unharmed, d, n, rng):
    "The method on a folder of spoiled pictures: it ends well, and each file is used or named."
    if '--images' not in cmd: return 'no pictures to spoil', []
    files, out, at = pictures(d/'hostile', n, rng), d/'hostile-run', cmd.index('--images') + 1
    code = run([*cmd[:at], d/'hostile', *cmd[at + 1:]], out)
    if code: return f'{len(files)} files', [f'exit status {code}: {said(out)[-500:]}']
    rejects = [r for r in json.loads((out/'results.json').read_text())['rejects'] if r['stage'] == 'images']
    used = read_parquet(out/'images/data.parquet')
    told = {r['id'] for r in [*rejects, *used]}
    return f'{len(files)} files, {len(used)} used, {len(rejects)} named', [f'not told of: {f}' for f in files - told][:9]


def images(d, n, rng):
    "n spoiled picture files in one folder: each is used or named."
    files = pictures(d, n, rng)
    listed, rejects = list_images(d)
    good, bad, _ = check_images(listed)
    told = {r['id'] for r in [*rejects, *good, *bad]}
    return f'{n} spoiled pictures, {len(good)} used, {len(bad)} named', [f'not told of: {f}' for f in files - told][:9]


def rows(d, n, rng):
    "n files of five rows with spoiled bytes: right rows, rows named, or one line of refusal."
    micro_images(d, 1, rows=5)
    lines, wrong, used = (d/'instructions.jsonl').read_bytes(), [], 0
    for i in range(n):
        (d/'spoiled.jsonl').write_bytes(spoiled(lines, rng))
        try:
            with contextlib.redirect_stdout(None): used += len(read_rows(d/'spoiled.jsonl'))
        except (ValueError, OSError) as e: one_line(e)
        except Exception as e: wrong.append(f'{type(e).__name__}: {e}')
    return f'{n} spoiled row files, {used} rows used', wrong


def tell(name, tried, wrong):
    "One kind of harm; how much did not end as it should."
    print(f'{name}: {tried}: {len(wrong)} not as it should be', *wrong, sep='\n  ', flush=True)
    return len(wrong)


def main():
    n, rng, bad = int(sys.argv[1]) if len(sys.argv) > 1 else 50, random.Random(0), 0
    asked = {k.partition(':')[0] for k in sys.argv[2:]}
    methods, kinds = asked & {*COMMANDS}, asked - {*COMMANDS}
    wanted = lambda harm: not kinds or harm.__name__ in kinds
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        for harm in filter(wanted, (rows, images)): bad += tell(harm.__name__, *harm(d/harm.__name__, 20 * n, rng))
        harms = [*filter(wanted, (hostile, damaged, kills))]
        for method in (m for m in COMMANDS if harms and (not methods or m in methods)):
            (home := d/method).mkdir()
            cmd = COMMANDS[method](home/'data', micro_path())
            assert run(cmd, home/'unharmed') == 0, said(home/'unharmed')
            for harm in harms: bad += tell(f'{method}, {harm.__name__}', *harm(cmd, home/'unharmed', home, n, rng))
    return bad


if __name__ == '__main__': sys.exit(main())
