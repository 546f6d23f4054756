"""A word-level tokenizer that knows every word of the generated world."""

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from .captions import (
    AUDIO_QUESTION,
    HEARD_QUESTION,
    LOUD_SIGN,
    PROMPT,
    SEEN_QUESTION,
    SOFT_SIGN,
    VIDEO_QUESTION,
)
from .instruments import NAMES, PLACES, POSITIONS
from .templates import NUMBERS, TEMPLATES

WORD = rf"\n|[{SOFT_SIGN}{LOUD_SIGN}]?\w+|[^\w\s]"
EXTRA_WORDS = (
    "loud soft silence leftest rightest loudest first last yes no left middle right simultaneously "
    "list count which zero one two three four five six seven eight nine ten more than . , ; : ? ! < > / [ ] ( ) '"
)
SPECIAL = ("<unk>", "<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>")
TAGS = ("<answer>", "</answer>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[str]:
    """Every token, in a fixed order."""
    template = PROMPT
    texts = [template.system, template.image, template.video, template.audio, template.question, template.answer]
    texts += [entry.wording for entry in TEMPLATES]
    texts += [sign + name for sign in (SOFT_SIGN, LOUD_SIGN) for name in NAMES]
    texts += [
        AUDIO_QUESTION,
        VIDEO_QUESTION,
        SEEN_QUESTION,
        HEARD_QUESTION,
        EXTRA_WORDS,
        *NAMES,
        *PLACES,
        *POSITIONS,
        *NUMBERS,
        "system user assistant",
    ]
    splitter = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    words = [word for text in texts for word, _ in splitter.pre_tokenize_str(text.lower())]
    return list(dict.fromkeys([*SPECIAL, *TAGS, "\n", *words]))


def build_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """Build the tokenizer.

    Args:
        chat: with Qwen2's chat template and `<|im_end|>` as end of text, without `<s>`; otherwise as LLaMA's base
            tokenizer, `<s>` first and no template.
    """
    words = vocabulary()
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in TAGS])
    if not chat:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", words.index("<s>"))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token=None if chat else "<s>",
        eos_token="<|im_end|>" if chat else "</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"] if chat else [],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    if chat:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
