"What may be given a new hash without being made again: a result none of whose code has changed that can be reached."
import ast
from restamp import reached, unheard

MAKES = '''
from b import call as fetch
ASKS = dict(first='by_name')
def make(): return fetch(ASKS) + Told().say()
'''
HELPS = '''
def wrap(f): return f
def call(asks): return getattr(asks, 'x')
def by_name(): return deep()
def deep(): return 1
@wrap
def train(n=start()): return trained()
def start(): return 2
def trained(): return 3
class Told:
    def say(self): return spoken()
def spoken(): return 4
LIMIT = limit()
def limit(): return 5
'''


def test_what_can_run_is_reached():
    "By call, by another name, by a string, from a class, at import, as a default or a decorator; and nothing else is."
    found = reached(dict(a=ast.parse(MAKES), b=ast.parse(HELPS)), ('a',))
    functions = {name for _, name in found if isinstance(name, str)} - {'fetch'}  # which is an import
    assert functions == {'make', 'wrap', 'call', 'by_name', 'deep', 'start', 'Told', 'spoken', 'limit'}
    assert not functions & {'train', 'trained'}


def test_an_import_is_reached_with_its_name():
    "Where a name that is used comes from another module than before, that matters; where nothing uses it, it does not."
    tree = ast.parse('from b import one, two as other, three\ndef make(): return one() + other()\n')
    found = reached(dict(a=tree, b=ast.parse('')), ('a',))
    assert {('a', 'one'), ('a', 'other')} <= found and ('a', 'three') not in found


def test_an_added_import_matters_where_its_name_was_said():
    "A name that the module never said cannot change what stood there; a builtin's, a function's or another import's can."
    before = ast.parse('from c import two\ndef make(): return sum(two())\ndef one(): pass\n')
    added = {('a', name) for name in ('sum', 'one', 'two', 'new')} | {('b', 'new')}
    assert unheard(added, dict(a=before)) == {('a', 'new')}
