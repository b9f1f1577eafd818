"""HTTP server: OpenAI's and Anthropic's routes, indexes and answers from documents, keys, metrics."""

from __future__ import annotations

import logging

LOG = logging.getLogger("miaotui.serve")  # one for all of the server's modules
