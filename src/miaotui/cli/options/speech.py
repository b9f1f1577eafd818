"""The options of ``miaotui transcribe``.

Owns their names, meanings and forms. Knows no model.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import whole

SPEECH_MODEL = "whisper-base"
FILE_FORMS = {"text": "txt", "srt": "srt", "vtt": "vtt", "json": "json", "verbose_json": "json"}  # and their suffixes


def transcribe_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui transcribe``."""
    parser.epilog = (
        "FILE is a recording: wav, flac, mp3, ogg, opus, m4a, mp4, webm and others. Long silence is left out."
    )
    writing = parser.add_argument_group("the transcript")
    add = writing.add_argument
    forms = "|".join(FILE_FORMS)
    add("--form", choices=tuple(FILE_FORMS), metavar=forms, default="text", help="of the transcript (default: text)")
    add("--output", metavar="FOLDER", help="write a file for each recording there, instead of standard output")
    add("--words", dest="word_times", action="store_true", help="with verbose_json: times of words too")
    about = "of Chinese text (default: simplified)"
    scripts = ("simplified", "traditional", "as_is")
    add("--script", choices=scripts, metavar="simplified|traditional|as_is", default="simplified", help=about)
    hearing = parser.add_argument_group("the model")
    add = hearing.add_argument
    add("--model", metavar="MODEL", default=SPEECH_MODEL, help=f"default: {SPEECH_MODEL}")
    add("--language", metavar="CODE", default="", help="of the speech, such as en or zh (default: detected)")
    add("--translate", action="store_true", help="write it in English")
    add("--prompt", metavar="TEXT", default="", help="text before the recording: names, spelling, style")
    about = "candidates of the search (default: 1, the likeliest token each time)"
    add("--beam-size", type=whole(1, 16), metavar="N", default=1, help=about)
    add("--keep-silence", action="store_true", help="give the model long silence and steady noise too")
    about = "bits per weight of a model that is not quantized yet (default: q8)"
    add("--format", choices=("q4", "q8", "f32"), metavar="q4|q8|f32", help=about)
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
    about = "what computes: compiled kernels, or NumPy alone, which is slow (default: cpu)"
    add("--backend", choices=("cpu", "reference"), default="cpu", metavar="cpu|reference", help=about)
    add("--max-hours", type=whole(1, 24), metavar="N", default=4, help="of one recording (default: 4)")
