"What the tests of architectures and defects share: tiny models that end their turns, small photographs, short recipes."
import json
from PIL import Image
from transformers import (GemmaConfig, PaliGemmaConfig, PaliGemmaForConditionalGeneration, PaliGemmaProcessor, SiglipImageProcessorPil,
                          SiglipVisionConfig)
from vlm_selfimprove.data.images import check_images, list_images
from vlm_selfimprove.methods.stic import STICRecipe
from vlm_selfimprove.models.tiny import TINY_TEMPLATE, tiny_tokenizer, tiny_vlm
from vlm_selfimprove.models.vlm import VLM

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


def tiny_paligemma():
    "The one known architecture that is refused: it reads its prompt as a whole, and wants an image with every text."
    tok, img = tiny_tokenizer(), SiglipImageProcessorPil(size={'height': 56, 'width': 56})
    img.image_seq_length = 16
    proc = PaliGemmaProcessor(img, tok, chat_template=TINY_TEMPLATE)
    text = GemmaConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                       head_dim=16, vocab_size=len(tok), pad_token_id=tok.pad_token_id, eos_token_id=tok.eos_token_id)
    tower = SiglipVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14)
    cfg = PaliGemmaConfig(text_config=text.to_dict(), vision_config=tower.to_dict() | dict(projection_dim=64),
                          image_token_index=proc.image_token_id, projection_dim=64)
    return VLM(PaliGemmaForConditionalGeneration(cfg).eval(), proc, 'tiny-paligemma')


def without_torchvision(folder, kind, processor):
    "As much of a checkpoint as decides which processor is loaded."
    folder.mkdir()
    tiny_tokenizer().save_pretrained(folder)
    for name, x in dict(config=dict(model_type=kind), processor_config=dict(processor_class=processor)).items():
        (folder/f'{name}.json').write_text(json.dumps(x))
    return folder
