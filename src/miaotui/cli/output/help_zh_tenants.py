"""Help of ``miaotui tenant`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.tenants`, or one of ``miaotui serve``
and ``miaotui index`` about tenants, deletion and encryption.
"""

from __future__ import annotations

TENANTS_HELP = {
    "share a server among tenants": "让多个租户共用一个服务器",
    "ACTION is add NAME, list, set NAME (limits and lists that are given), key NAME KEY, revoke NAME KEY, or remove "
    "NAME with all its data. A key is printed once; the file keeps its hash. See docs/tenants.md.": (
        "ACTION 为 add NAME、list、set NAME（只改所给的限额和列表）、key NAME KEY、revoke NAME KEY，或 remove NAME（连同其"
        "全部数据）。密钥只打印一次，文件中只保存其哈希。见 docs/zh/tenants.md。"
    ),
    "default: tenants.yaml": "默认：tenants.yaml",
    "the key may change how the server runs, and read its metrics": "此密钥可更改服务器的运行方式，并读取其指标",
    "limits of all keys of the tenant together; 0: none": "租户全部密钥合计的限额；0：不限",
    "of its indexes on disk at most": "其索引在磁盘上的 MB 数上限",
    "indexes at most": "索引个数上限",
    "what it may use; repeatable, and - for none": "可使用的内容；可重复给出，- 表示没有",
    "a model of the server (default: all)": "服务器的模型（默认：全部）",
    "an adapter, perhaps under a name of the tenant's own (default: none)": "适配器，可另取租户自己的名称（默认：无）",
    "an index of the server's operator (default: none)": "服务器运营者的索引（默认：无）",
    "a graph (default: none)": "知识图谱（默认：无）",
    "a recommender (default: none)": "推荐器（默认：无）",
    "files of a server in which removing deletes too": "删除租户时一并清理的服务器文件",
    "the cache of answers": "回答缓存",
    "the conversations of the customer service": "客服对话",
    "remove: leave its indexes; add: take those of that name over": "remove：保留其索引；add：接管同名租户留下的索引",
    "let in keys of the tenants of this file; see miaotui tenant": "接受此文件中各租户的密钥；见 miaotui tenant",
    "of one file, which is then put aside (default: 64)": "单个文件的 MB 数，超过后另存（默认：64）",
    "that were put aside and are kept (default: 9)": "保留的旧文件个数（默认：9）",
    "ACTION is one of create, add, delete, update, purge, encrypt, remove, stats, list. NAME names an index in "
    "miaotui's folder; with a slash in it, it is a folder. After NAME, add and update take files and folders (.txt .md "
    ".html .jsonl .csv .tsv .pdf), delete takes ids. add makes the index if there is none. purge clears files of what "
    "was replaced; remove deletes the index; encrypt needs a master key, see docs/tenants.md.": "ACTION 是 create、add、"
    "delete、update、purge、encrypt、remove、stats、list 之一。NAME 是 miaotui 文件夹中索引的名称；含斜杠则表示文件夹。add 和 "
    "update 在 NAME 之后跟文件或文件夹（.txt .md .html .jsonl .csv .tsv .pdf），delete 跟编号。索引不存在时 add 会新建。purge 从文件"
    "中清除被替换的内容；remove 删除索引；encrypt 需要主密钥，见 docs/zh/tenants.md。",
    "make and change master keys": "生成与更换主密钥",
    "ACTION is key FILE, which puts a new master key before those of FILE, or rotate, which wraps the keys of all "
    "indexes, and of the files given, under the first key of the environment's file. See docs/tenants.md.": (
        "ACTION 为 key FILE（在 FILE 已有的主密钥之前加入新的主密钥），或 rotate（用环境变量所指文件中的第一个主密钥重新封装全部"
        "索引及所给文件的密钥）。见 docs/zh/tenants.md。"
    ),
}
