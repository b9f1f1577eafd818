"""Help of ``miaotui tenant`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.tenants`, or an option of
``miaotui serve`` about tenants.
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
}
