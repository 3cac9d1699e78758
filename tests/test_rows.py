"Files of rows as they come: what can be used is used, what cannot is named, and nothing else happens."
import json, os, random, subprocess, sys
import pytest
from PIL import Image
from vlm_selfimprove.data.images import check_image, decode, list_images, open_image
from vlm_selfimprove.data.records import file_sha256, write_parquet
from vlm_selfimprove.data.rows import check_rows, read_rows
from vlm_selfimprove.evaluation.benchmarks import describe_and_respond, measure
from vlm_selfimprove.runs.run import check_source
from vlm_selfimprove.world.tasks import VQA, vqa_rows

GOOD = dict(id='good', prompt='is there a cow?', answer='no', image='a.png')
SPOILED = {  # what a line becomes -> a word of its reason
    'integer answer': (GOOD | dict(answer=7), 'not a text'), 'list prompt': (GOOD | dict(prompt=['a']), 'not a text'),
    'empty': (GOOD | dict(prompt=' \t'), 'empty'), 'no answer': ({k: v for k, v in GOOD.items() if k != 'answer'}, 'missing'),
    'placeholder': (GOOD | dict(prompt='<image>\nwhat?'), "'<image>'"), 'placeholder in answer': (GOOD | dict(answer='<image>'), "'<image>'"),
    'impossible': (GOOD | dict(choices=['yes', 'maybe']), 'none of the choices'), 'alike': (GOOD | dict(choices=['no', 'No.']), 'alike'),
    'choices a text': (GOOD | dict(choices='yes or no'), 'list of texts'), 'choice a number': (GOOD | dict(choices=['no', 1]), 'list of texts'),
    'truncated': (GOOD | dict(image='half.png'), 'truncated'), 'gone': (GOOD | dict(image='gone.png'), 'unreadable'),
    'a folder': (GOOD | dict(image='.'), 'unreadable'), 'zero byte': (GOOD | dict(image='a\0b'), 'unreadable'),
    'text file': (GOOD | dict(image='mixed.jsonl'), 'not an image'), 'no table': (GOOD | dict(image='t.parquet#9'), 'unreadable'),
    'float id': (GOOD | dict(id=1.5), 'not a text'), 'true id': (GOOD | dict(id=True), 'not a text'), 'empty id': (GOOD | dict(id=''), 'not a text'),
    'half a character': ('{"id": "\\ud83d"}', 'cannot be written'), 'not a number': ('{"id": "n", "score": NaN}', 'cannot be written'),
    'endless': ('{"id": "n", "score": 1e999}', 'cannot be written'), 'torn': ('{"id": "t', 'not JSON'), 'deep': ('[' * 10**5, 'nested'),
    'a list': ('[1]', 'no JSON object'), 'long number': ('{"id": ' + '9' * 5000 + '}', 'cannot be written')}


@pytest.fixture
def folder(tmp_path):
    Image.new('RGB', (30, 20), 'teal').save(tmp_path/'a.png')
    (tmp_path/'half.png').write_bytes((tmp_path/'a.png').read_bytes()[:60])
    return tmp_path


def lines(*rows):
    return '\n'.join(r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in rows)


def test_each_spoiled_row_is_named_and_the_others_are_used(folder, capsys):
    "In any order, between blank lines, with a mark at the beginning and Windows line ends."
    rows = [(f'r{i}', *x) for i, x in enumerate(SPOILED.values())] + [(f'g{i}', GOOD, '') for i in range(5)]
    random.Random(0).shuffle(rows)
    put = lambda id, r: r | dict(id=id) if isinstance(r, dict) and r.get('id') == 'good' else r
    text = lines(*(put(id, r) for id, r, _ in rows))
    (folder/'mixed.jsonl').write_bytes(('\ufeff' + text.replace('\n', '\r\n\r\n') + '\r\n').encode())
    good = read_rows(folder/'mixed.jsonl', rejects := [])
    assert [r['id'] for r in good] == [id for id, _, why in rows if not why]
    bad = [(2 * i + 1, why) for i, (_, _, why) in enumerate(rows) if why]
    assert [r['line'] for r in rejects] == [i for i, _ in bad]
    for r, (_, why) in zip(rejects, bad): assert why in r['reason'], r
    assert f'{len(rejects)} of {len(rows)} rows are left out' in capsys.readouterr().out


@pytest.mark.parametrize('ids, where', [(('x', 'y', 'x'), (1, 3)), ((1, '1'), (1, 2)), (('row-2', None), (1, 2))])
def test_an_id_twice_stops_with_both_lines(folder, ids, where):
    (folder/'twice.jsonl').write_text(lines(*(GOOD | dict(id=i) for i in ids)))
    with pytest.raises(ValueError, match=f'line {where[0]} and on line {where[1]}'): check_rows(folder/'twice.jsonl')


def test_odd_separators_stay_inside_their_text(folder):
    odd = [f'one{c}two' for c in '\u2028\u2029\x85\x1c\x0b\x0c']
    (folder/'odd.jsonl').write_text(lines(*(GOOD | dict(id=str(i), prompt=t) for i, t in enumerate(odd))))
    good, rejects = check_rows(folder/'odd.jsonl')
    assert [r['prompt'] for r in good] == odd and not rejects


def test_what_concerns_the_file_is_one_error(folder):
    for data, said in ((b'', 'empty'), (b'\n \n', 'empty'), (b'{}', 'prompt is missing'), (b'{}\n\xff', 'line 2: not UTF-8')):
        (folder/'f.jsonl').write_bytes(data)
        with pytest.raises(ValueError, match=said): check_rows(folder/'f.jsonl')
    for path in (folder, folder/'gone', f'{folder}/a\0b'):
        with pytest.raises(ValueError, match='cannot be read'): check_rows(path)


def test_a_picture_is_opened_once_and_known_by_its_bytes(folder, monkeypatch):
    from vlm_selfimprove.data import rows as module
    opened = []
    monkeypatch.setattr(module, 'check_image', lambda rec: opened.append(rec) or check_image(rec))
    (folder/'many.jsonl').write_text(lines(*(GOOD | dict(id=str(i)) for i in range(9))))
    before = check_rows(folder/'many.jsonl')[0]
    assert len(opened) == 1 and len({r['sha256'] for r in before}) == 1
    Image.new('RGB', (30, 20), 'red').save(folder/'a.png')
    assert check_rows(folder/'many.jsonl')[0][0]['sha256'] != before[0]['sha256']


def test_a_file_whose_name_ends_like_a_row_of_a_table(folder):
    "`scan#2` is a file of its own: another picture in it is noticed. `t.parquet#0` is a row: a table written anew is."
    images, run = folder/'images', folder/'run'
    images.mkdir()
    hashes = lambda source: {r['id']: r['sha256'] for r in check_source(source, run)[0]}
    for color in ('teal', 'red'):
        Image.new('RGB', (30, 20), color).save(images/'scan#2', 'PNG')
        seen = hashes(images)
        write_parquet([dict(image=(images/'scan#2').read_bytes())], folder/'t.parquet')
        table = hashes(folder/'t.parquet')
        want = file_sha256(images/'scan#2')
        assert (seen, table) == ({'scan#2': want}, {'000000': want})


class Knows:
    "Answers each question, however it is put."
    def __init__(self, rows): self.answers = {r['prompt']: r['answer'] for r in rows}
    def generate(self, asks, **kw): return [[self.answers.get(r['prompt'].split('\n')[-1], '')] for r in asks]


def test_rows_that_share_an_id_keep_their_questions():
    rows = [r | dict(id='one for all') for r in vqa_rows(2 * len(VQA), 1_000_000)]
    said, _ = describe_and_respond(Knows(rows), rows)
    m = measure(Knows(rows), [], rows)
    assert said == [r['answer'] for r in rows] or len({r['prompt'] for r in rows}) < len(rows)
    assert m['vqa'] == m['dar'] and sum(m['dar']) >= len(VQA)


MEMORY = '''
import resource, sys
from vlm_selfimprove.data.images import open_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB
open_image(dict(id='0', path=sys.argv[1]))
one = peak()
held = [open_image(dict(id=str(i), path=sys.argv[1])) for i in range(20)]
print(peak() - one)
'''


def test_memory_does_not_grow_with_the_size_of_photographs(tmp_path):
    "Twenty photographs of 16 megapixels would be 1.3 GB."
    Image.effect_noise((40, 30), 90).convert('RGB').resize((4608, 3456)).save(tmp_path/'big.jpg')
    grown = float(subprocess.run([sys.executable, '-c', MEMORY, tmp_path/'big.jpg'], capture_output=True, text=True, check=True).stdout)
    assert grown < 20 * 2048 * 1536 * 4 / 2**20 * 1.2


def test_small_pictures_are_not_touched_and_bombs_stay_bombs(tmp_path):
    im = Image.effect_noise((2048, 700), 90).convert('RGB')
    im.save(tmp_path/'a.png')
    assert open_image(dict(id='a', path=str(tmp_path/'a.png'))).tobytes() == im.tobytes()
    assert decode((tmp_path/'a.png').read_bytes())[1] == []
    assert decode((tmp_path/'a.png').read_bytes(), longest=512)[0].size == (512, 175)
    Image.new('1', (12_000, 12_000)).save(tmp_path/'bomb.png')
    with pytest.raises(ValueError, match='decompression bomb'): open_image(dict(id='b', path=str(tmp_path/'bomb.png')))


def test_a_folder_whose_own_name_is_no_text(tmp_path):
    "Nothing below it can be named in a row: said, not thrown as a UnicodeEncodeError hours later."
    odd = tmp_path/os.fsdecode(b'caf\xe9')
    odd.mkdir()
    Image.new('RGB', (30, 20)).save(tmp_path/'a.png')
    os.replace(tmp_path/'a.png', odd/'a.png')
    with pytest.raises(ValueError, match='1 x name is not UTF-8'): list_images(odd)
    (odd/'rows.jsonl').write_text(lines(GOOD))
    with pytest.raises(ValueError, match='name is not UTF-8'): check_rows(odd/'rows.jsonl')
