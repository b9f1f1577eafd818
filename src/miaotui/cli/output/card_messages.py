"""Messages of report cards, of files that were optimised and of models that learned, in English and in Chinese.

Owns the words in front of their figures. Knows no card; `messages` has the other texts and the choice of language.
"""

from __future__ import annotations

from miaotui.cli.output.messages import CliMessage

CARD_FILE = CliMessage("File", "文件")
CARD_OF = CliMessage("of", "来自")
CARD_LOSS = CliMessage("Loss (KL)", "损失（KL）")
CARD_TOP = CliMessage("Same best token", "首选词元相同")
CARD_FLIPS = CliMessage("Questions answered otherwise", "回答改变的问题")
CARD_RIGHT = CliMessage("right", "答对")
CARD_PERPLEXITY = CliMessage("perplexity", "困惑度")
CARD_SPEED = CliMessage("Speed", "速度")
CARD_MEMORY = CliMessage("peak memory", "内存峰值")
CARD_TYPES = CliMessage("Matrices", "矩阵")
CARD_TEXTS = CliMessage("Calibration + test", "校准 + 测试")
CARD_SHARED = CliMessage("lines in both", "共有的行")
LEARNED_HELD_OUT = CliMessage("Held-out lines", "留出的样本")
LEARNED_OLD = CliMessage("Old lines, held out", "留出的旧样本")
LEARNED_GENERAL = CliMessage("Other texts (forgetting)", "其他文本（遗忘）")
TRAINED_PARAMETERS = CliMessage("Parameters", "参数")
