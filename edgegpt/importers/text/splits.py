"""How byte-level tokenizers cut a text before merging, by the name that GGUF files give the way.

The names, and which of them share a way, are those of llama.cpp (src/llama-vocab.cpp,
`llama_vocab::impl::load`). The patterns are those of the models' own tokenizer.json, which
llama.cpp spells out for its regex engine. A cut that differs changes ids silently, so a name
that is not listed is refused.
"""

from dataclasses import dataclass

from tokenizers import Regex, normalizers, pre_tokenizers

__all__ = ["GPT2", "QWEN2", "SPLITS", "Split"]


@dataclass(frozen=True)
class Split:
    """One way of cutting.

    Attributes:
        patterns: regular expressions; each cuts further what the ones before it left.
        nfc: whether the text is brought into Unicode's composed form first.
        whole_words: whether a word that is a token is taken whole, whatever its merges.
        begins: whether a prompt begins with BOS when the file does not say.
    """

    patterns: tuple[str, ...]
    nfc: bool = False
    whole_words: bool = False
    begins: bool = False

    def normalizer(self) -> normalizers.Normalizer | None:
        """Return the normaliser, or None."""
        return normalizers.NFC() if self.nfc else None

    def pre_tokenizer(self, *, leading_space: bool = False) -> pre_tokenizers.PreTokenizer:
        """Return the cuts, and the translation of bytes into printable characters.

        `ByteLevel` has GPT-2's pattern built in, and puts the leading space before it.
        """
        words = self.patterns[-1] == WORDS
        cuts = self.patterns[:-1] if words else self.patterns
        return pre_tokenizers.Sequence(
            [
                *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cuts),
                pre_tokenizers.ByteLevel(add_prefix_space=leading_space, use_regex=words),
            ]
        )


WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _tiktoken(numbers: str) -> str:
    """Return the pattern of cl100k and its kin, which differ in how they cut numbers."""
    return (
        rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}"
    )


def _by_case(ending: str, numbers: str) -> str:
    """Return the pattern of o200k and Tekken, which also cut where the case changes."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return (
        rf"{before}{UPPER}*{LOWER}+{ending}|{before}{UPPER}+{LOWER}*{ending}|{numbers}"
        rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}"
    )


GPT2 = Split((WORDS,))
GPT2_NFC = Split((WORDS,), nfc=True)
DIGITS = Split((r"\p{N}", WORDS))
COMMAND_R = Split((r"\p{N}", WORDS), nfc=True)
CL100K = Split((_tiktoken(r"\p{N}{1,3}"),))
LLAMA3 = Split((_tiktoken(r"\p{N}{1,3}"),), whole_words=True, begins=True)
ONE_DIGIT = Split((_tiktoken(r"\p{N}"),))
QWEN2 = Split((_tiktoken(r"\p{N}"),), nfc=True)
O200K = Split((_by_case(f"{CONTRACTIONS}?", r"\p{N}{1,3}"),))
TEKKEN = Split((_by_case("", r"\p{N}"),), whole_words=True, begins=True)
FALCON = Split((r"[\p{P}\$\+<=>\^~\|`]+", WORDS, r"\p{N}+", r"[0-9][0-9][0-9]"))
DEEPSEEK_CODER = Split(
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}")
)
DEEPSEEK_V3 = Split(
    (
        r"\p{N}{1,3}",
        "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}",
    )
)

SPLITS = {
    "gpt-2": GPT2,
    "phi-2": GPT2,
    "mpt": GPT2,
    "exaone4": GPT2,
    "olmo": GPT2_NFC,
    "smollm": DIGITS,
    "starcoder": DIGITS,
    "refact": DIGITS,
    "codeshell": DIGITS,
    "exaone": DIGITS,
    "minerva-7b": DIGITS,
    "command-r": COMMAND_R,
    "dbrx": CL100K,
    "smaug-bpe": CL100K,
    "glm4": CL100K,
    "chatglm-bpe": CL100K,
    "llama3": LLAMA3,
    "llama-v3": LLAMA3,
    "llama-bpe": LLAMA3,
    "falcon3": LLAMA3,
    "qwen2": QWEN2,
    "deepseek-r1-qwen": QWEN2,
    "megrez": QWEN2,
    "stablelm2": ONE_DIGIT,
    "hunyuan": ONE_DIGIT,
    "gpt-4o": O200K,
    "llama4": O200K,
    "tekken": TEKKEN,
    "falcon": FALCON,
    "deepseek-coder": DEEPSEEK_CODER,
    "deepseek-v3": DEEPSEEK_V3,
    "hunyuan-dense": DEEPSEEK_V3,
}
