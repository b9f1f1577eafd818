"""Help of ``miaotui optimize``, ``miaotui distill`` and ``miaotui card`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.optimize`.
"""

from __future__ import annotations

OPTIMIZE_HELP = {
    "make a model smaller, within a target, and say what it cost": "在目标之内把模型变小，并说明代价",
    "show the report card of an optimized file": "显示优化后文件的报告卡",
    "the target": "目标",
    "the way": "做法",
    "MODEL is a GGUF file, a folder of safetensors or a name. With a limit of loss the smallest file that keeps it "
    "is made, else the one that loses least. Of an encoder, give --size and --calibration. A run that was "
    "interrupted goes on.": (
        "MODEL 是 GGUF 文件、safetensors 文件夹或名称。给出损失上限时，写出满足它的最小文件；否则写出损失最小的文件。"
        "编码器须给出 --size 和 --calibration。中断后再次运行会继续。"
    ),
    "how keys and values are stored when the file is run (default: f16)": "运行该文件时键和值的存储方式（默认：f16）",
    "leave nothing out; else parts go if no types are fast or small enough": (
        "不删去任何部分；否则当没有类型足够快或足够小时，会删去一些部分"
    ),
    "bytes of the file at most, such as 80MB": "文件最多多少字节，如 80MB",
    "mean divergence from the model at most, such as 0.02": "与原模型的平均散度上限，如 0.02",
    "speed of one answer at least": "单个回答的最低速度",
    "an answer comes within this time, such as 1s": "回答须在此时间内完成，如 1s",
    "tokens of the prompt (default: 300)": "提示的词元数（默认：300）",
    "tokens of the answer (default: 64)": "回答的词元数（默认：64）",
    "block types to choose from (default: all that are written here)": "可选的块类型（默认：这里能写的全部）",
    "round every matrix; else some may stay as they are": "每个矩阵都舍入；否则有些可以保持原样",
    "texts to calibrate on, apart by empty lines (default: the model's own)": (
        "校准用的文本，以空行分隔（默认：模型自己写的）"
    ),
    "texts to measure the loss on; none of them to calibrate on": "测量损失的文本，不得与校准文本重复",
    "YAML file with these options by name": "按名称写有这些选项的 YAML 文件",
    "file to write (default: beside the model, with -optimized in its name)": (
        "要写的文件（默认：在模型旁边，名称带 -optimized）"
    ),
    "write a report with the front of sizes and losses, in one file": "写出含大小与损失前沿的报告，单个文件",
    "print the plan as JSON and do nothing": "以 JSON 打印计划，不做任何工作",
    "print the report card as JSON": "以 JSON 打印报告卡",
    "let a model learn what another one says": "让一个模型学习另一个模型的输出分布",
    "leaving out (pruning)": "剪枝",
    "layers to keep; those go that cost least": "保留的层数；去掉代价最小的层",
    "key/value heads of a layer to keep": "每层保留的键/值头数",
    "feed-forward channels of a layer to keep": "每层保留的前馈通道数",
    "tokens to learn from afterwards (needs torch)": "剪枝后用多少词元学习恢复（需要 torch）",
    "measure a mask over this share of the weights (Wanda)": "测量把这一比例的权重置零的代价（Wanda）",
    "STUDENT and TEACHER are GGUF files, folders or names, of one vocabulary. Needs torch; a run can be resumed.": (
        "STUDENT 与 TEACHER 是词表相同的 GGUF 文件、文件夹或名称。需要 torch；中断后再次运行会继续。"
    ),
    "model whose distributions are learned": "学习其输出分布的教师模型",
    "GGUF file to write, in float16": "要写的 GGUF 文件，float16",
    "tokens to learn from (default: 160000)": "学习用的词元数（默认：160000）",
    "passes over them (default: 2)": "学习几遍（默认：2）",
    "forward, reverse or jsd (default: forward)": "forward、reverse 或 jsd（默认：forward）",
    "share of texts that the student writes (default: 0)": "由学生自己写的文本所占比例（默认：0）",
    "rank of low-rank pairs; 0 (default): all weights learn": "低秩矩阵对的秩；0（默认）：学习全部权重",
    "texts of a step (default: 4)": "每步的文本数（默认：4）",
    "tokens of a text (default: 256)": "每段文本的词元数（默认：256）",
    "highest learning rate (default: 0.0003)": "最高学习率（默认：0.0003）",
    "texts to learn from first, apart by empty lines (default: the teacher's own)": (
        "先学习的文本，以空行分隔（默认：教师自己写的）"
    ),
    "texts to measure on (default: the teacher's own)": "测量用的文本（默认：教师自己写的）",
}
