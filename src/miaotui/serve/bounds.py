"""Bounds on what one request may ask for, in one place.

Owns numbers only. They are checked before memory is taken or work begins; a request beyond one is
answered with 400 (413 for the body's size) that names the bound. Invariant: every list, map, text and
depth that a client controls has its bound here.
"""

from __future__ import annotations

MAX_BODY_BYTES = 4 << 20  # 128k tokens of English take about 0.6 MB, as token ids about 0.9 MB
MAX_JSON_DEPTH = 64
MAX_JSON_COMMAS = 300_000  # counted with those in texts, to know before anything is made
MAX_JSON_LISTS = 1 << 16  # likewise
MAX_JSON_OBJECTS = 50_000
MAX_JSON_MEMBERS = 4096  # of one object
MAX_NUMBER_DIGITS = 4300
MAX_BODY_S = 30.0  # from the first byte of a body to its last
MAX_HEADER_NUMBER = 32  # characters of a header that holds a number

MAX_MESSAGES = 2048
MAX_PARTS = 256  # of one message's content
MAX_PROMPTS = 64  # of one /v1/completions
MAX_CHOICES = 64  # prompts times n
MAX_N = 16
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_STOP_TOKEN_IDS = 256
MAX_LOGIT_BIAS = 1024
MAX_TOP_LOGPROBS = 20
MAX_PROMPT_LOGPROBS = 1 << 19  # numbers in one answer: prompt tokens times (1 + alternatives) times choices
MAX_TOOLS = 128
MAX_METADATA = 64
MAX_NAME_CHARACTERS = 512  # model, user and the like
MAX_TEMPLATE_OPTIONS = 16
MAX_PROMPT_TOKENS = 1 << 18  # of all prompts of one request; the model's context bounds each

MAX_IGNORED_NAMES = 32  # named in X-Ignored-Fields
MAX_TOKENS = 2**31 - 1

INLINE_BYTES = 64 << 10  # bodies up to here are read in the event loop itself
INLINE_CHARACTERS = 4096  # prompts up to here are rendered and cut in the event loop itself
