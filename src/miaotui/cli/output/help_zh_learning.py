"""Help of ``miaotui merge``, ``finetune`` and ``train`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.learning`.
"""

from __future__ import annotations

LEARNING_HELP = {
    "served models behind one name, the best first: the best that keeps a deadline answers; repeatable": (
        "一个名称之后的多个模型，最好的在前：能守住时限的最好者作答；可重复"
    ),
    "served models behind one name, of which the prompt chooses one: by language, code or length; repeatable": (
        "一个名称之后的多个模型，由提示选择其一：按语言、代码或长度；可重复"
    ),
    "make one model of several": "把多个模型合成一个",
    "teach a model from examples": "用样本教会模型",
    "train a small model from texts": "用文本训练一个小模型",
    "MODEL is a folder of safetensors, a GGUF file or a name. What is written has the form of the base, or of the "
    "first model. A value such as 0.2,0.8 is one for each model; 0.2:0.8 goes from the first layer to the last.": (
        "MODEL 是 safetensors 文件夹、GGUF 文件或名称。写出的形式与基础模型（没有则与第一个模型）相同。"
        "0.2,0.8 这样的值每个模型一个；0.2:0.8 从第一层变到最后一层。"
    ),
    "the merge": "合并",
    "where the merged model shall lie; nothing may be there": "合并后的模型放在哪里；该处须为空",
    "linear, slerp, task-arithmetic, ties, dare-linear, dare-ties (default: linear)": (
        "linear、slerp、task-arithmetic、ties、dare-linear、dare-ties（默认：linear）"
    ),
    "the model that the others were trained from, where the method has one": "其他模型由它训练而来（方法需要时）",
    "the models' weights (default: equal)": "各模型的权重（默认：相等）",
    "shares of what the models learned that stay (default: 0.5)": "各模型学到的内容保留的比例（默认：0.5）",
    "slerp: 0 is the first model, 1 the second (default: 0.5)": "slerp：0 为第一个模型，1 为第二个（默认：0.5）",
    "factor of what the models learned (default: 1)": "学到的内容的系数（默认：1）",
    "do not divide by the sum of weights": "不除以权重之和",
    "of what dare drops (default: 0)": "dare 丢弃哪些值（默认：0）",
    "of weights (default: the base's)": "权重的类型（默认：与基础模型相同）",
    "union joins added tokens (default: same)": "union 合并附加的词元（默认：same）",
    "YAML file with models and these options by name": "按名称写有模型与这些选项的 YAML 文件",
    "print the record of the merge as JSON": "以 JSON 打印合并的记录",
    "the run": "运行",
    "of all runs to this place together": "写入此处的各次运行的步数总和",
    "texts of a step": "每步的文本数",
    "parts of a step that are computed one by one (memory)": "每步分成几部分依次计算（省内存）",
    "tokens of a text at most": "每段文本最多的词元数",
    "the highest learning rate": "最高学习率",
    "keep fewer activations: less memory, a third more time": "少保留激活值：省内存，多用三分之一时间",
    "of products (default: auto)": "乘积的精度（默认：auto）",
    "steps between checkpoints (default: 100)": "两个检查点之间的步数（默认：100）",
    "print the record of the run as JSON": "以 JSON 打印运行的记录",
    'DATA is JSONL, each line {"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}; or a file of '
    "plain text. Only answers are learned from. A run that is at OUT goes on.": (
        'DATA 为 JSONL，每行是 {"messages": [...]}、{"prompt": ..., "completion": ...} 或 {"text": ...}；或纯文本文件。'
        "只从回答中学习。中断后再次运行会继续。"
    ),
    "what is learned": "学什么",
    "where the adapter, or with --full the model, and the checkpoints lie": "适配器（用 --full 时为模型）与检查点的位置",
    "train all weights; else a low-rank adapter": "训练全部权重；否则为低秩适配器",
    "of the adapter (default: 16)": "适配器的秩（默认：16）",
    "scale of the adapter, times its rank (default: twice the rank)": "适配器的系数乘以秩（默认：秩的两倍）",
    "products with an adapter, of q,k,v,o,gate,up,down (default: all)": (
        "带适配器的乘积，取自 q,k,v,o,gate,up,down（默认：全部）"
    ),
    "begin with what an earlier run to another folder has learned": "以先前写入另一文件夹的运行所学的内容开始",
    "old lines, mixed in so that they are not forgotten": "混入旧样本，使其不被遗忘",
    "share of old lines in a step (default: 0.25)": "每步中旧样本的比例（默认：0.25）",
    "what is measured": "测什么",
    "lines to measure on (default: every tenth line of DATA)": "用于测量的样本（默认：DATA 的每第十行）",
    "texts on which forgetting is measured (default: the model's own)": "测量遗忘的文本（默认：模型自己写的）",
    "TEXT are files in UTF-8. What is written is a folder that `miaotui run` takes.": (
        "TEXT 为 UTF-8 文件。写出的文件夹可直接用 `miaotui run` 运行。"
    ),
    "where the model and its checkpoints lie; a run that is there goes on": "模型及其检查点所在的文件夹；已有的训练会继续",
    "default: 256": "默认：256",
    "heads of keys and values (default: as many as heads)": "键与值的头数（默认：与头数相同）",
    "inner width of feed-forward layers (default: 768)": "前馈层的内部宽度（默认：768）",
    "that share each step, on this machine (default: 1)": "本机上分担每一步的进程数（默认：1）",
}
