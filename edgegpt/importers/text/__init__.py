"""What a source says about text: tokenizer, beginning and end of a text, chat template."""

from .folder import text_of_folder
from .found import Found
from .gguf_fields import text_of_gguf

__all__ = ["Found", "text_of_folder", "text_of_gguf"]
