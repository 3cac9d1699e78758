"What the tests of architectures and defects share: tiny models that end their turns, small photographs, short recipes."
from PIL import Image
from vlm_selfimprove.data.images import check_images, list_images
from vlm_selfimprove.methods.stic import STICRecipe
from vlm_selfimprove.models.tiny import tiny_vlm

SHORT = STICRecipe(prompts='micro', max_new_tokens=64, gen_batch=4, lr=1e-2, batch=8, micro_batch=4, lora_r=4, lora_alpha=8,
                   lr2=1e-2, batch2=8, save_steps=100)


def mk_tiny(arch, seed=0):
    "Random weights never end a turn; this model does after a few words, like a trained one, and says no placeholder."
    vlm = tiny_vlm(arch, seed)
    g, tok = vlm.model.generation_config, vlm.processor.tokenizer
    g.min_new_tokens, g.exponential_decay_length_penalty = 4, (6, 4.)
    g.suppress_tokens = [i for i, t in tok.added_tokens_decoder.items() if t.special and i != tok.eos_token_id]
    return vlm


def small_photos(photos, folder, n=8):
    "Photographs of several shapes and modes at thumbnail size, in a folder of their own; their records."
    folder.mkdir()
    for i, p in enumerate(photos[:n]):
        im = Image.open(p); im.thumbnail((96 + 8 * i, 96)); im.save(folder/f'{p.stem}.png')
    return check_images(list_images(folder)[0])[0]
