"""Text on its way to the model and back: tokenizers, chat templates, streams of text."""

from miaotui.text.templates.chat_template import ChatTemplate
from miaotui.text.templates.sources import chat_from_folder, chat_from_gguf
from miaotui.text.tokenizers.from_folder import from_folder
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.tokenizer import TextStream, Tokenizer

__all__ = ["ChatTemplate", "TextStream", "Tokenizer", "chat_from_folder", "chat_from_gguf", "from_folder", "from_gguf"]
