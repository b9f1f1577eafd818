"""Help of ``miaotui dmlm`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.dmlm`.
"""

from __future__ import annotations

DMLM_HELP = {
    "train masked language models, write with them, fill masks, correct texts": (
        "训练掩码语言模型，用它们写作，填补掩码，纠正文本"
    ),
    "ACTION is train TEXT... (files in UTF-8, into --out), write FOLDER PROMPT (an answer of a model that restores "
    "masked tokens), fill MODEL TEXT (tokens for the masks of a text, by an encoder), or correct MODEL TEXT "
    "(spelling and grammar in English and Chinese, judged by a decoder).": (
        "ACTION 为 train TEXT...（UTF-8 文件，写入 --out）、write FOLDER PROMPT（由还原掩码的模型作答）"
        "fill MODEL TEXT（由编码器为文本中的掩码给出词元）"
        "或 correct MODEL TEXT（纠正中英文的拼写与语法，由解码器判断）。"
    ),
    "training": "训练",
    "where the model and its checkpoint lie; a run that is there goes on": "模型及其检查点所在的文件夹；已有的训练会继续",
    "begin with the weights and vocabulary of another run": "以另一次训练的权重与词表开始",
    "of all runs into this folder together (default: 2000)": "写入此文件夹的训练步数总和（默认：2000）",
    "texts of a step (default: 16)": "每步的文本数（默认：16）",
    "tokens of a text (default: 128)": "每段文本的词元数（默认：128）",
    "the highest learning rate (default: 0.002)": "最高学习率（默认：0.002）",
    "of products: f32, or bf16, which takes less time where the processor has it (default: f32)": (
        "乘积的精度：f32，或在处理器支持时更快的 bf16（默认：f32）"
    ),
    "equal seeds and texts give equal models (default: 0)": "相同的种子与文本得到相同的模型（默认：0）",
    "steps between checkpoints (default: 200)": "两个检查点之间的步数（默认：200）",
    "masks": "掩码",
    "which tokens are masked (default: random)": "掩盖哪些词元（默认：random）",
    "which share of them, by time (default: log-linear)": "按时间掩盖多大比例（默认：log-linear）",
    "tokens of a block, causal between blocks; 0: all tokens see each other (default: 0)": (
        "每块的词元数，块与块之间只看前文；0：所有词元互相可见（默认：0）"
    ),
    "default: 4": "默认：4",
    "layers of a decoder that writes what is masked, as in T5; 0: none (default: 0)": (
        "写出被掩盖内容的解码器的层数，如 T5；0：没有（默认：0）"
    ),
    "default: 192": "默认：192",
    "default: 6": "默认：6",
    "inner width of feed-forward layers (default: 512)": "前馈层的内部宽度（默认：512）",
    "tokens, learned from the texts (default: 4096)": "词元数，从文本中学得（默认：4096）",
    "of write (default: 128, or what fits)": "用于 write（默认：128，或上下文所能容纳的）",
    "of write: tokens at least that likely stay (default: 0.9)": "用于 write：概率不低于此值的词元保留（默认：0.9）",
    "0 takes the likeliest token (default: 0)": "0 取最可能的词元（默认：0）",
    "of fill: tokens for a mask (default: 5)": "用于 fill：每个掩码的词元数（默认：5）",
}
