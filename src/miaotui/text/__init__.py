"""Text on its way to the model and back: tokenizers, chat templates, streams of text."""

from miaotui.text.chat import ChatTemplate
from miaotui.text.chat_sources import chat_from_folder, chat_from_gguf
from miaotui.text.from_folder import from_folder
from miaotui.text.from_gguf import from_gguf
from miaotui.text.tokenizer import TextStream, Tokenizer

__all__ = [
    "ChatTemplate",
    "TextStream",
    "Tokenizer",
    "chat_from_folder",
    "chat_from_gguf",
    "from_folder",
    "from_gguf",
]
