"Nothing of a method is in a base's training, and no scene of an evaluation shows what a base or a method was trained on."
import re
import numpy as np
import pytest, torch
from vlm_selfimprove.data.mixture import SCENE_KINDS, SEEN, ask_about, instruction
from vlm_selfimprove.data.prompts import LAYOUTS, STIC_MICRO, SVP_MICRO, TEXT_MICRO, method_prompts
from vlm_selfimprove.evaluation.seven import SEVEN, START, items
from vlm_selfimprove.models import base
from vlm_selfimprove.models.micro import tokenizer_text
from vlm_selfimprove.world import scenes
from vlm_selfimprove.world.scenes import HELD_OUT, content, mk_scene
from vlm_selfimprove.world.tasks import KIND_OF, TASKS, mk_row
from vlm_selfimprove.world.wordings import AT_HAND, BOXES_AT_HAND, REQUESTS, SITUATIONS, WORDINGS, runs_of_words, wordings

RUNS = set().union(*map(runs_of_words, method_prompts()))  # five words each; a shorter prompt is one run
SHORT = [run for run in RUNS if len(run) < 5]


def in_a_row(words): return f" {' '.join(words)} "


def found(text):
    "What a text holds of a method: five words in a row, a whole shorter prompt, the mark of a layout."
    said = in_a_row(re.findall(r"[a-z0-9'_]+", text.lower()))
    return ([mark for mark in LAYOUTS if mark in text.lower()] + [run for run in SHORT if in_a_row(run) in said]
            + [run for run in runs_of_words(text) & RUNS if len(run) == 5])


def learned(monkeypatch, out, n):
    "n samples of each stage as `train_base` draws them, as texts: name -> list. Nothing is trained."
    drawn = {}
    def draw(vlm, sample, samples, params, recipe, lr, seed, feats, log, name):
        rng = np.random.default_rng([recipe.seed, seed])
        drawn[name] = [said for _ in range(n) for turn in sample(rng)[0] for said in turn]
    seen = [(i, k) for k, m in SEEN.items() for i in range(m)]
    monkeypatch.setattr(base, 'mk_pool', lambda vlm: (seen, torch.zeros(1, 3, 72, 72), None))
    monkeypatch.setattr(base, 'train_tower', lambda *args: None)
    monkeypatch.setattr(base, 'fit_stage', draw)
    base.train_base(out, log=lambda line: None)
    return drawn


def asked(n):
    "Every task's question about n scenes, and what a description of a scene of each kind is followed by."
    rng = np.random.default_rng(0)
    rows = (mk_row(i, task) for i in range(n) for task in TASKS)
    return ([r['prompt'] for r in rows if r]
            + [said for i in range(n) for k in SCENE_KINDS for said in ask_about(rng, mk_scene(i, k))])


def test_no_method_in_training(monkeypatch, tmp_path):
    "Every stage as it is drawn, rare samples again by themselves, each wording and layout, the tokenizer's text."
    rng = np.random.default_rng(1)
    texts = learned(monkeypatch, tmp_path, 1000)
    assert [*texts] == ['recite', 'lookup', 'text', 'write', 'project', 'caption', 'instruct']
    texts['written'] = [said for _ in range(700) for turn in base.written(rng) for said in turn]
    texts['cells'] = [base.cells_in_words(mk_scene(i, k)) for i in range(500) for k in SCENE_KINDS]
    texts['mixture'] = [said for i in range(2500, 56_000, 50) for turn in instruction(i)['turns'] for said in turn]
    texts['questions'] = asked(150)
    texts['wordings'] = [said for role in WORDINGS for said in wordings(role)]
    texts['layouts'] = [*AT_HAND, *BOXES_AT_HAND, *SITUATIONS, *REQUESTS]
    texts['tokenizer'] = tokenizer_text()
    assert all(texts.values())
    held = {name: (text, what) for name, said in texts.items() for text in said if (what := found(text))}
    assert not held, held


@pytest.mark.parametrize('prompt', method_prompts())
def test_the_search_finds_a_prompt(prompt):
    "Planted in a training text: whole, and five words of it with other marks between."
    text = ' '.join(said for turn in instruction(0)['turns'] for said in turn)
    words = re.findall(r"[a-z0-9'_]+", prompt.lower())
    assert not found(text) and found(f'{text} {prompt} {text}')
    k = max(0, len(words) - 5) // 2
    assert found(f"{text} {', '.join(words[k:k+5]).upper()}; {text}"), 'five words in a row'
    assert not found(' no '.join(words)), 'the words alone are no prompt'


def test_a_planted_wording_is_caught(monkeypatch):
    "STIC's careful prompt among the wordings of the base: the mixture and the text stage give it away."
    rng = np.random.default_rng(0)
    drawn = lambda: {'mixture': [said for i in range(60) for turn in instruction(i)['turns'] for said in turn],
                     'text': [said for _ in range(100) for turn in base.text_sample(rng)[0] for said in turn]}
    caught = lambda: {name for name, said in drawn().items() if any(map(found, said))}
    assert not caught()
    monkeypatch.setitem(WORDINGS, 'careful', ((STIC_MICRO.good,),))
    assert caught() == {'mixture', 'text'}


@pytest.mark.parametrize('turn', [
    STIC_MICRO.infuse('a red cow north.', 'is there a cow?'), SVP_MICRO['grounded'], TEXT_MICRO['train'], TEXT_MICRO['request']])
def test_the_search_finds_a_layout(turn):
    "Each method's way to put text before a question is told by its marks alone."
    assert set(found(turn)) & set(LAYOUTS)


def trained_on():
    "Contents that a base learns from, in images and in text, and those of the images a method starts from."
    seeds = {k: [*range(0, n, 6), *range(base.TEXT_SEEDS - 250, base.TEXT_SEEDS + 250)] for k, n in SEEN.items()}
    return {content(mk_scene(i, k)) for k, each in seeds.items() for i in each}


def judged_on():
    "Contents of evaluation scenes of each kind, and of the seven benchmarks' own items."
    rows = [r for name in SEVEN for r in items(name, 75)]
    assert min(START.values()) >= HELD_OUT
    return ({content(mk_scene(i, k)) for k in SCENE_KINDS for i in range(HELD_OUT, HELD_OUT + 1250)}
            | {content(mk_scene(r['seed'], r['kind'], r['style'])) for r in rows})


def test_nothing_seen_twice():
    "Five thousand scenes and more on either side, charts among them, of which there are few."
    a, b = trained_on(), judged_on()
    assert len(a) > 6_000 and len(b) > 5_000
    assert not a & b


def test_charts_would_be_seen_twice(monkeypatch):
    "Without the two sides, different seeds draw the same chart."
    monkeypatch.setattr(scenes, 'is_held_out', lambda s: False)
    first = lambda start: {content(scenes._drawn(i, 'chart', None, 0)) for i in range(start, start + 4000)}
    assert first(0) & first(HELD_OUT)
