"""Dynamic masked language models: masks as data, decoding in parallel, and training."""

from miaotui.dmlm.masked_model import MaskedLM, load_masked

__all__ = ["MaskedLM", "load_masked"]
