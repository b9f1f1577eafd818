"""The help of the command line in Chinese.

Owns the translation of each English help text, by that text, and the wrapping of lines with wide characters. Knows
no command. Invariant: every text that a parser shows has an entry (a test compares them). Imported only where the
locale is Chinese.
"""

from __future__ import annotations

import argparse
import re
from unicodedata import east_asian_width

from miaotui.cli.output.help_zh_bench import BENCH_HELP
from miaotui.cli.output.help_zh_cluster import CLUSTER_HELP
from miaotui.cli.output.help_zh_dmlm import DMLM_HELP
from miaotui.cli.output.help_zh_learning import LEARNING_HELP
from miaotui.cli.output.help_zh_optimize import OPTIMIZE_HELP
from miaotui.cli.output.help_zh_tenants import TENANTS_HELP
from miaotui.hub.catalog import DEFAULT_MODEL

HELP = {
    **BENCH_HELP,
    **CLUSTER_HELP,
    **OPTIMIZE_HELP,
    **TENANTS_HELP,
    **LEARNING_HELP,
    **DMLM_HELP,
    # the overview and the commands
    "Language models that answer in under a second on the computer you already have.": "在你现有的电脑上，一秒之内作答的语言模型。",
    "commands": "命令",
    "options": "选项",
    "show this text, or with a command its options": "显示本说明；跟在命令之后则显示该命令的选项",
    "show the version": "显示版本",
    "show this help message and exit": "显示本说明并退出",
    "answer one prompt and exit": "回答一个提示后退出",
    "talk with a model": "与模型对话",
    "fetch a model": "下载模型",
    "write a model with an adapter merged in": "写出合并了适配器的模型",
    "ADAPTER is a folder of PEFT's or a GGUF file; OUT is a new folder for a folder of safetensors, a new file for "
    "a GGUF file.": "ADAPTER 是 PEFT 的文件夹或 GGUF 文件；模型为 safetensors 文件夹时 OUT 是新文件夹，为 GGUF 文件时是新文件。",
    "list the models that have a name": "列出有名称的模型",
    "serve models to many over HTTP": "通过 HTTP 向多人提供模型",
    "make an API key for a server": "为服务器生成 API 密钥",
    "keep documents for search": "管理供检索的文档",
    "search an index": "检索索引",
    "answer a question from an index": "根据索引回答问题",
    "reply to customers, from questions and documents": "根据问答与文档回复客户",
    "label the texts of a file": "为文件中的文本分类",
    # transcribe
    "write recordings down": "把录音转写成文字",
    "FILE is a recording: wav, flac, mp3, ogg, opus, m4a, mp4, webm and others. Long silence is left out.": (
        "FILE 是录音：wav、flac、mp3、ogg、opus、m4a、mp4、webm 等。较长的静音会略去。"
    ),
    "the transcript": "转写结果",
    "of the transcript (default: text)": "转写结果的格式（默认：text）",
    "write a file for each recording there, instead of standard output": "为每段录音在其中写一个文件，而不是输出到标准输出",
    "with verbose_json: times of words too": "与 verbose_json 同用：同时给出每个词的时间",
    "of Chinese text (default: simplified)": "中文的字形（默认：simplified，简体）",
    "default: whisper-base": "默认：whisper-base",
    "of the speech, such as en or zh (default: detected)": "语音的语言，如 en 或 zh（默认：自动识别）",
    "write it in English": "写成英文",
    "text before the recording: names, spelling, style": "录音之前的文字：人名、拼写、风格",
    "candidates of the search (default: 1, the likeliest token each time)": "搜索的候选数（默认：1，每次取最可能的词元）",
    "give the model long silence and steady noise too": "把较长的静音和持续的噪声也交给模型",
    # eval
    "measure how well and how fast a task runs": "测量任务做得多好、多快",
    "TASK is classify, sentiment, decide, extract, generate, summarize, translate or perplexity; FILE has texts "
    "with their right answers (.csv .tsv .jsonl, others by line). Prints a table and one JSON line.": (
        "TASK 是 classify、sentiment、decide、extract、generate、summarize、translate 或 perplexity；"
        "FILE 含有文本及其正确答案（.csv .tsv .jsonl，其他按行读取）。输出一张表和一行 JSON。"
    ),
    "model of the task (default: the task's own)": "任务所用的模型（默认：任务自己的）",
    "another model, or majority, tfidf (labels), lead (summaries)": "另一个模型，或 majority、tfidf（标签）、lead（摘要）",
    "labelled texts to learn from": "用来学习的带标签文本",
    "names of labels (default: those of the file)": "标签的名称（默认：文件中的）",
    "language of the translations": "译文的语言",
    "of a summary": "摘要的句数",
    "column of the texts (default: text)": "文本所在的列（默认：text）",
    "JSON schema of the values to extract": "要抽取的值的 JSON schema",
    "column of the right answers (default: label, reference or values)": "正确答案所在的列（默认：label、reference 或 values）",
    "only the first N rows": "只用前 N 行",
    "rows that are timed alone (default: 50)": "单独计时的行数（默认：50）",
    "of the intervals (default: 0)": "区间的随机种子（默认：0）",
    "summarise the texts of a file": "为文件中的文本写摘要",
    "find which texts of a file are alike": "找出文件中相近的文本",
    "put the texts of a file into groups": "把文件中的文本分组",
    # similar, group
    "INPUT is a file (.csv .tsv .jsonl, others by line), or - for standard input.": "INPUT 是文件（.csv .tsv .jsonl，其他按行读取），或表示标准输入的 -。",
    "INPUT is a file (.csv .tsv .jsonl, others by line), or - for standard input. Without --query each text is "
    "compared with the others.": "INPUT 是文件（.csv .tsv .jsonl，其他按行读取），或表示标准输入的 -。不给 --query 时，各文本互相比较。",
    "groups": "分组",
    "likeness": "相似度",
    "how many (default: as many as fit the texts)": "组数（默认：按文本选定）",
    "only texts that say nearly the same": "只找意思几乎相同的文本",
    "similarity of duplicates, up to 1 (default: 0.9)": "重复文本的相似度，最大为 1（默认：0.9）",
    "text that all are compared with": "与所有文本比较的文本",
    "the encoder (default: chosen by the texts' script)": "编码器（默认：按文本的文字选定）",
    # summarize
    "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text.": "INPUT 是文件（.csv .tsv .jsonl，其他按行读取）、表示标准输入的 -，或一段文本。",
    "summaries": "摘要",
    "at most so many (default: 3)": "最多几句（默认：3）",
    "at most so many; Chinese characters count": "最多几个词；汉字按字计",
    "at most so long to read aloud": "朗读时最长多久",
    "choose clauses, not sentences: something like a title": "选分句而不选整句：近似标题",
    "a chat model writes; unsupported sentences are dropped": "由对话模型撰写；原文不支持的句子会去掉",
    "a chat model or an encoder-decoder (default: qwen2.5-coder-0.5b)": "对话模型或编码器-解码器（默认：qwen2.5-coder-0.5b）",
    "the chat model (default: qwen2.5-coder-0.5b)": "对话模型（默认：qwen2.5-coder-0.5b）",
    "translate the texts of a file": "翻译文件中的文本",
    # translate
    "translations": "翻译",
    "code or English name (default: en)": "代码或英文名（默认：en）",
    "default: detected in each text": "默认：逐条检测",
    "markup that is kept (default: text)": "要保留的标记（默认：text）",
    "terms and their translations (.csv .tsv)": "术语及其译法（.csv .tsv）",
    "extract values from the texts of a file": "从文件中的文本提取信息",
    # extract
    "values": "提取",
    "JSON schema of a flat object: a column for each property": "单层对象的 JSON schema：每个属性一列",
    "names of types of entities: a column for each": "实体类型的名称：每种一列",
    "so many keywords; no model needed": "关键词个数；不需要模型",
    "every value is a span of the text": "每个值都是原文中的片段",
    "no value below this probability": "低于此概率则不给值",
    "day that dates are counted from": "推算日期的基准日",
    "order of dates such as 03/04/2025": "03/04/2025 这类日期的顺序",
    "write, rewrite or continue texts": "撰写、改写或续写文本",
    # generate
    "texts": "文本",
    "rewrite the texts instead of answering them as prompts": "改写文本，而不是把它们当作提示来回答",
    "go on with the texts": "续写文本",
    "style to write in": "写作风格",
    "further instruction": "其他要求",
    "bounds of words: 100, 50-100 or 50-": "词数范围：100、50-100 或 50-",
    "bounds of sentences": "句数范围",
    "so many paragraphs": "段落数",
    "so many bullet points": "要点数",
    "words that must be there": "必须出现的词",
    "words that must not be there": "不得出现的词",
    "case of all letters": "全部字母的大小写",
    "no commas": "不用逗号",
    "words at the end": "结尾的文字",
    "JSON schema that the answer has the form of": "回答须符合的 JSON schema",
    "of one answer (default: 512)": "一次回答的 token 数（默认：512）",
    # recommend, graph
    "ask this graph first; see miaotui graph": "先问此图谱；见 miaotui graph",
    "recommend items, from a log of events": "根据事件日志推荐物品",
    "answer questions from a graph of triples": "根据三元组图回答问题",
    "fit NAME LOG, ask NAME [USER], similar NAME ITEM, add NAME LOG, refit NAME. LOG is .csv, .tsv or .jsonl with "
    "columns user and item, perhaps time (seconds) and weight. NAME with a separator in it is a path.": "fit NAME LOG、ask NAME [USER]、similar NAME ITEM、add NAME LOG、refit NAME。"
    "LOG 为 .csv、.tsv 或 .jsonl，含 user 与 item 列，可有 time（秒）与 weight 列。含路径分隔符的 NAME 为路径。",
    "learning": "学习",
    "texts of items: columns item and text": "物品的文本：item 与 text 两列",
    "the encoder of texts (default: all-minilm-l6-v2)": "文本编码器（默认：all-minilm-l6-v2）",
    "asking": "提问",
    "items instead of a user": "以物品代替用户",
    "the wish in words, instead of a user or beside one": "用文字表达的愿望，可代替用户或与之并用",
    "items at most (default: 10)": "最多几个物品（默认：10）",
    "-1 to 1: rarer or more popular items": "-1 至 1：更冷门或更热门的物品",
    "0 to 1: items less alike": "0 至 1：物品彼此更不相似",
    "items of the history may come again": "历史中的物品可以再次出现",
    "print JSON": "输出 JSON",
    "add NAME FILE..., ask NAME QUESTION, learn NAME FILE, links NAME ENTITY RELATION, stats NAME. Triples are in "
    ".csv, .tsv, .nt or .ttl; learn reads rows of question, entity and relations with | between.": "add NAME FILE...、ask NAME QUESTION、learn NAME FILE、links NAME ENTITY RELATION、stats NAME。"
    "三元组文件为 .csv、.tsv、.nt 或 .ttl；learn 读取的每行为问题、实体与以 | 分隔的关系。",
    "edges at most (default: 3)": "最多几条边（默认：3）",
    "share of the likeliest reading's probability from which another one answers (default: 0.1)": "其他理解达到最可能理解概率的此比例时可作答（默认：0.1）",
    "relations that may be followed backward": "可以反向查找的关系",
    "a chat model that makes a sentence of the answer": "把答案写成一句话的聊天模型",
    "a chat model that orders the first 20 items once more": "给前 20 个条目再次排序的聊天模型",
    "the encoder of words (default: embedder, if it is here)": "词语的编码器（默认：embedder，若本机已有）",
    "predicted links (default: 10)": "预测的链接数（默认：10）",
    # classify
    "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text. Give one of "
    "--labels, --examples and --head; --sentiment needs none.": "INPUT 是文件（.csv .tsv .jsonl，其他按行读取）、表示标准输入的 -，或一段文本。"
    "--labels、--examples、--head 三者选一；--sentiment 不需要它们。",
    "labels": "标签",
    "names of labels, each perhaps with a description": "标签名，可各附说明",
    "texts with their labels (.csv .tsv .jsonl) to learn from": "用来学习的已标注文本（.csv .tsv .jsonl）",
    "a head that --save has written": "由 --save 写出的分类头",
    "write the head to a file": "把分类头写入文件",
    "positive, negative or neutral": "正面、负面或中性",
    "words that carry the sentiment": "体现情感的词数",
    "sentence that holds a label at {}": "以 {} 表示标签位置的句子",
    "no label below this probability": "低于此概率则不给标签",
    "encoder, or chat model for logits (default: by the engine, the task or the head)": (
        "编码器；logits 时为对话模型（默认：由引擎、任务或分类头决定）"
    ),
    "learned from examples, likeness to names, or a chat model (default: by a measured table)": (
        "由示例学得、与标签名的相似度，或对话模型（默认：按实测表选择）"
    ),
    "rows": "行",
    "column of the texts (default: text, or the only one)": "文本所在的列（默认：text，或唯一的一列）",
    "of the examples (default: label)": "示例的标签列（默认：label）",
    "of the input": "输入的格式",
    "default: standard output": "默认：标准输出",
    "continue an output that was broken off": "继续写中断的输出",
    "answer what fits in this time, and say so": "只处理这段时间内能完成的部分，并说明",
    "write JSON lines": "输出 JSON lines",
    "say how labels are found, and how sure they are": "说明标签如何得出、有多可靠",
    "measure what this machine can do": "测量这台机器的能力",
    # run, chat, pull
    f"MODEL is {DEFAULT_MODEL} unless named. The prompt - is read from standard input. "
    "Words after -- are never taken for options.": f"MODEL 默认为 {DEFAULT_MODEL}。提示写作 - 时从标准输入读取。"
    "-- 之后的词不会被当作选项。",
    f"MODEL is {DEFAULT_MODEL} unless named.": f"MODEL 默认为 {DEFAULT_MODEL}。",
    "NAME is one from `miaotui models`, or a repository: owner/name, hf:owner/name of Hugging Face, ms:owner/name "
    "of ModelScope; :Q4_K_M after it chooses a quantization, :FILE.gguf a file.": "NAME 是 `miaotui models` 列出的名称，"
    "或仓库：owner/name、Hugging Face 的 hf:owner/name、ModelScope 的 ms:owner/name；"
    "其后的 :Q4_K_M 选择量化，:FILE.gguf 选择文件。",
    "models that other programs have stored here; run them by these names": "其他程序存放在本机的模型；可用这些名称运行",
    "continue the prompt as it is, without a chat template": "不用对话模板，直接续写提示",
    "fill in between the prompt and this text, with a model trained for it": "填补提示与此文本之间的内容，用于为此训练过的模型",
    "with --raw: control tokens written in the prompt are plain text": "与 --raw 同用：提示中写出的控制词元当作普通文本",
    "instructions that precede the prompt": "放在提示之前的系统指令",
    "the model": "模型",
    "models": "模型",
    "the answer": "回答",
    "bits per weight of a model that is not quantized yet (default: q8)": "未量化的模型用多少位权重（默认：q8）",
    "bits per weight of models that are not quantized yet (default: q8)": "未量化的模型用多少位权重（默认：q8）",
    "how keys and values are kept (default: f16)": "KV 缓存的精度（默认：f16）",
    "one token in each pass: slower, the same answer": "关闭投机解码：较慢，回答不变",
    "one token in each pass: slower, the same answers": "关闭投机解码：较慢，回答不变",
    "weights of encoders in memory at most; the least used is put away (default: half of the memory)": (
        "编码器权重占用内存的上限（MB）；超出时卸载最久未用的（默认：内存的一半）"
    ),
    "how an encoder's states become an embedding, where its files do not say it": (
        "编码器的状态如何汇成向量（仅在模型文件未说明时使用）"
    ),
    "a classifier's head for /v1/tasks/classify and /v1/tasks/sentiment; repeatable": (
        "供 /v1/tasks/classify 和 /v1/tasks/sentiment 使用的分类头；可重复"
    ),
    "what computes: compiled kernels, or NumPy alone, which is slow (default: cpu)": "用什么计算：编译好的内核，或只用 NumPy（很慢；默认：cpu）",
    "what computes: compiled kernels, NumPy alone, which is slow, XLA, OpenVINO or vLLM (default: cpu)": (
        "用什么计算：编译好的内核，只用 NumPy（很慢），XLA，OpenVINO 或 vLLM（默认：cpu）"
    ),
    "default: one per usable physical core": "线程数（默认：每个可用物理核一个）",
    "tokens at most (default: 512)": "最多词元数（默认：512）",
    "tokens before the answer may end by itself": "回答至少有这么多词元才可自行结束",
    "0 takes the likeliest token; 1 follows the model (default: 0)": "采样温度：0 取概率最大的词元，1 按模型的分布（默认：0）",
    "only the likeliest tokens that add up to this probability": "只从累计概率达到此值的词元中采样",
    "only this many likeliest tokens; 0: all": "只从概率最大的这么多个词元中采样；0：不限",
    "only tokens at least this likely relative to the likeliest": "只取与最大概率之比不低于此值的词元",
    "the same seed gives the same answer (default: 0)": "随机种子；种子相同则回答相同（默认：0）",
    "end before this text; may be repeated": "遇到此文本即停止；可重复给出",
    "above 1: avoid tokens seen before": "大于 1：避免已出现的词元",
    "subtracted once from tokens already answered": "对已回答过的词元一次性扣除",
    "subtracted for each time a token was answered": "按词元已回答的次数扣除",
    "go on when the model would end": "模型要结束时继续生成",
    # serve and key
    f"MODEL is {DEFAULT_MODEL} unless named; NAME=MODEL serves it under another name. "
    "Durations are numbers with ms, s or m.": f"MODEL 默认为 {DEFAULT_MODEL}；NAME=MODEL 以另一名称提供。"
    "时长写作带 ms、s 或 m 的数字。",
    "network": "监听",
    "access": "访问控制",
    "deadlines and limits": "承诺与上限",
    "cache of answers": "回答缓存",
    "customer service": "客服",
    "logs": "日志",
    "address to listen on (default: 127.0.0.1)": "监听地址（默认：127.0.0.1）",
    "default: 8000; 0: any free one": "端口（默认：8000；0：任意空闲端口）",
    "PEM certificate chain; serves HTTPS": "PEM 证书链；启用 HTTPS",
    "PEM key of that certificate": "该证书的 PEM 私钥",
    "what running answers get to finish after SIGTERM or Ctrl-C (default: 30s)": "收到 SIGTERM 或 Ctrl-C 后，留给进行中"
    "的回答的时间（默认：30s）",
    "no page at /": "不提供 / 处的页面",
    "no pages /docs and /openapi.json": "不提供 /docs 和 /openapi.json",
    "TOML file with any of these options": "包含以上任意选项的 TOML 文件",
    "let in keys of this file; see miaotui key": "接受此文件中的密钥；见 miaotui key",
    "let in other machines without keys": "允许其他机器不用密钥访问",
    "let clients load and unload adapters of this computer (/v1/load_lora_adapter)": "允许客户端加载和卸载本机的适配器"
    "（/v1/load_lora_adapter）",
    "a low-rank adapter of the first model, served under its name; repeatable": "第一个模型的低秩适配器，以此名称提供服务；"
    "可重复",
    "let clients fetch models into the cache (/api/pull)": "允许客户端把模型下载到缓存（/api/pull）",
    "reuse prompt prefixes across keys": "不同密钥之间也复用前缀缓存",
    "host name to answer to; repeatable": "接受的主机名；可重复",
    "origin to let in; repeatable": "允许的网页来源；可重复",
    "for requests that name none": "请求未写明时的时限",
    "requests in line at most (default: 256)": "排队请求数上限（默认：256）",
    "tokens in line at most (default: 262144)": "排队词元数上限（默认：262144）",
    "answers at once at most (default: 16)": "同时回答数上限（默认：16）",
    "of one request (default: 4194304)": "单个请求体的字节数上限（默认：4194304）",
    "of a request with a recording (default: 26214400)": "带录音的请求的字节数上限（默认：26214400）",
    "of one recording (default: 4)": "单段录音的小时数上限（默认：4）",
    "for a request's body to arrive in (default: 30s)": "请求体须在此时间内到齐（默认：30s）",
    "a silent stream sends a comment this often (default: 5s)": "流中无内容时，每隔此时间发送一条注释（默认：5s）",
    "longest prompt plus answer, in tokens": "提示加回答的最大词元数",
    "give the same question the same answer again": "相同的问题直接给出已有的回答",
    "its size (default: 256)": "缓存大小（默认：256）",
    "default: 168": "保留时间（默认：168）",
    "let similar questions share an answer: labelled pairs to calibrate with, or made": "让相似的问题共用回答：用于校准"
    "的标注问题对，或 made",
    "false hits at most, as a share (default: 0.001)": "误命中比例的上限（默认：0.001）",
    "answered questions: .csv, .jsonl or .yaml": "已有答案的问题：.csv、.jsonl 或 .yaml",
    "documents to answer from": "用于回答的文档",
    "YAML file of intents, slots and rules": "意图、槽位与规则的 YAML 文件",
    "finds values of slots in every message; --dialogues makes one": "在每条消息里找出槽位的值；用 --dialogues 生成",
    "finds values of slots in every message; see miaotui support": "在每条消息里找出槽位的值；见 miaotui support",
    "labelled dialogues: learn the tracker from them and write it to --tracker": "标注过的对话：由此学习并写入 --tracker 指定的文件",
    "where conversations are kept": "保存对话的文件",
    "append one JSON line per request, without its text": "每个请求追加一行 JSON，不含文字",
    "default: text": "日志格式（默认：text）",
    "debug, info, warning, error (default: info)": "debug、info、warning、error（默认：info）",
    "The key is printed once; the file gets its hash alone.": "密钥只打印一次；文件中只保存其哈希。",
    "default: keys.txt": "默认：keys.txt",
    "requests per minute at most": "每分钟请求数上限",
    "tokens per minute at most": "每分钟词元数上限",
    "the key may drain the server, and change its log level and limits": "此密钥可排空服务器，并更改其日志级别和限额",
    "requests at once at most": "同时请求数上限",
    # index and search
    "a new index": "新建索引",
    "adding": "添加文档",
    "default: 1": "分区数（默认：1）",
    "of words in alphabetic scripts (default: english); Chinese is always read": "字母文字的词形还原语言（默认：english）；"
    "中文始终支持",
    "split longer texts; 0: never (default: 1600)": "切分更长的文本；0：不切分（默认：1600）",
    "an index on another server to search along, http://HOST/v1/indexes/NAME; may be repeated": "一并检索的远程索引 "
    "http://HOST/v1/indexes/NAME；可重复",
    "for every document": "加给每个文档的标签",
    "keep texts that repeat others": "保留重复的文本",
    "put English misspellings right": "纠正英文拼写错误",
    "processes that prepare (default: cores)": "预处理的进程数（默认：核数）",
    "print JSON instead of text": "输出 JSON 而非文本",
    'QUERY: cats dogs, +must -not, "a phrase"~2, (a OR b) AND c, word~1, pre*, title:word, tag:word, lang:zh, '
    "source:docs/*, time:[2024-01-01 TO 2024-12-31], word^2.": 'QUERY：cats dogs、+must -not、"a phrase"~2、'
    "(a OR b) AND c、word~1、pre*、title:word、tag:word、lang:zh、source:docs/*、time:[2024-01-01 TO 2024-12-31]、word^2。",
    "passages (default: 10)": "段落数（默认：10）",
    "do not search by meaning": "不按语义检索",
    "the query is text without syntax": "查询只是文本，没有语法",
    # ask, support, doctor
    "INDEX is made by miaotui index. The question - is read from standard input. Answers that were given before are "
    "given again, as long as the index has not changed.": "INDEX 由 miaotui index 建立。问题写作 - 时从标准输入读取。"
    "索引未变时，已有的回答会直接再次给出。",
    "cut the answer out of a passage, without a model": "不用模型，直接从段落中截取答案",
    "for an answer (default: 1s, or 200ms with --extract)": "回答的时限（默认：1s；使用 --extract 时为 200ms）",
    f"default: {DEFAULT_MODEL}": f"默认：{DEFAULT_MODEL}",
    "neither use nor keep answers given before": "不使用也不保存已有的回答",
    "Each line of standard input is a message. Conversations are kept in miaotui's folder.": "标准输入的每一行是一条消息。"
    "对话保存在 miaotui 的文件夹中。",
    "documents to answer from; see miaotui index": "用于回答的文档；见 miaotui index",
    "answer in the documents' words, without a model": "不用模型，以文档原文回答",
    "of the greeting (default: yours)": "问候语的语言（默认：系统语言）",
    "for an answer (default: 500ms)": "回答的时限（默认：500ms）",
    "print replies as JSON lines": "以 JSON 行输出回复",
    "print JSON instead of tables": "输出 JSON 而非表格",
    "run a small program through each backend, and print what was shown: executed, or lowered for a platform": (
        "让每个后端运行一个小程序，并输出所证明的：已执行，或已为某平台降级编译"
    ),
}


class ChineseFormatter(argparse.HelpFormatter):
    """A formatter whose lines have at most ``width`` columns; wide characters take two."""

    def add_usage(self, usage: str | None, actions: object, groups: object, prefix: str | None = None) -> None:
        """Begin the usage line in Chinese."""
        super().add_usage(usage, actions, groups, "用法：")  # type: ignore[arg-type]  # passed on as they came

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in wrap(text, width))


def translate(parser: argparse.ArgumentParser) -> None:
    """Put the texts of a parser into Chinese."""
    parser.description = chinese(parser.description)
    parser.epilog = chinese(parser.epilog)
    for group in parser._action_groups:
        group.title = chinese(group.title)
    for action in parser._actions:
        action.help = chinese(action.help)


def chinese(text: str | None) -> str | None:
    """Return the translation of a help text; the text itself if there is none."""
    if text is None or text in HELP:
        return None if text is None else HELP[text]
    plain = f"{text[0].lower()}{text[1:].removesuffix('.')}"  # a command's purpose as a sentence
    return f"{HELP[plain]}。" if plain in HELP else text


def wrap(text: str, width: int) -> list[str]:
    """Return the text in lines of at most ``width`` columns; words in Latin letters stay whole."""
    lines, line, used = [], "", 0
    for part in re.findall(r"[!-~]+| |[^ -~][，。；：、）」]?", text):
        columns = sum(2 if east_asian_width(char) in "WF" else 1 for char in part)
        if used + columns > width and line.strip():
            lines.append(line.rstrip())
            line, used = "", 0
        if line or part != " ":
            line, used = line + part, used + columns
    return [*lines, line.rstrip()] if line.strip() else lines or [""]
