"""Cluster files: read, checked, refused with the remedy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from miaotui.cluster.cluster_file import ClusterFile, IndexSpecification
from miaotui.cluster.routing.scaling import ScaleRange
from miaotui.errors import RequestError
from miaotui.hub.digest import model_digest
from tiny_encoder_models import make_encoder_folder
from tiny_models import make_tiny_folder

GOOD: dict[str, Any] = {"models": {"small": {"model": "smollm2-135m", "replicas": 2, "threads": 1}}}


def test_a_file_is_read_and_written_as_the_same_values(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(
        "port: 9000\ningress: {deadline_s: 2, cors_origin: ['https://chat.example']}\n"
        "models:\n  small: {model: smollm2-135m, replicas: 2, cpus: 1.5, context: 512}\n"
        "  large: {model: org/large, speculate: false}\nindexes: {replicas: 3, cpus: 0.5}\n",
        encoding="utf-8",
    )
    found = ClusterFile.read(path)
    assert [pool.name for pool in found.pools] == ["small", "large"]
    assert found.pools[0].options == {"context": 512}
    assert found.indexes == IndexSpecification(3, 0.5)
    assert found.settings.deadline_ms == 2000
    assert found.settings.cors_origin == ("https://chat.example",)
    assert found.settings.named_models == {"small": "smollm2-135m", "large": "org/large"}
    assert ClusterFile.of(found.plain()) == found


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "the file: expected names with values"),
        (None, "the file: expected names with values, not nothing"),
        ({}, "models: expected names with values"),
        ({"models": {}}, "expected at least one"),
        ({"models": {"indexes": {"model": "x"}}}, "is the name of the replicas of indexes"),
        ({**GOOD, "indexes": {"replcas": 2}}, "did you mean 'replicas'"),
        ({**GOOD, "indexes": {"replicas": 0}}, "indexes.replicas: expected a whole number from 1"),
        ({**GOOD, "indexes": {"cpus": -1}}, "indexes.cpus: expected a number"),
        ({**GOOD, "modles": {}}, "unknown name 'modles': did you mean 'models'"),
        ({**GOOD, "port": "8000"}, "port: expected a whole number"),
        ({**GOOD, "ingress": {"dead_line_s": 1}}, "did you mean 'deadline_s'"),
        ({**GOOD, "ingress": {"ping_s": -1}}, "ping_s must be greater than 0"),
        ({**GOOD, "ingress": {"ping_s": "soon"}}, "ingress:"),
        ({**GOOD, "host": "0.0.0.0"}, "--api-key-file"),
        ({"models": {"a/b": {"model": "x"}}}, "is no name"),
        ({"models": {"a": {"model": 3}}}, "models.a.model: expected a catalog name"),
        ({"models": {"a": {"model": "x", "replcas": 2}}}, "did you mean 'replicas'"),
        ({"models": {"a": {"model": "x", "replicas": True}}}, "models.a.replicas: expected a whole number"),
        ({"models": {"a": {"model": "x", "cpus": "many"}}}, "models.a.cpus"),
        ({"models": {"a": {"model": "x", "kv": "f8"}}}, "models.a: kv must be"),
        ({"models": {"a": {"model": "x", "threads": 0}}}, "models.a: threads"),
        ({"models": {"a": {"model": "x", "digest": "abc"}}}, "models.a.digest: expected SHA-256"),
        ({"models": {"a": {"model": "x", "speculate": "no"}}}, "models.a.speculate"),
        ({"models": {"a": {"model": "x", "max_tokens": 0}}}, "models.a: max_tokens"),
    ],
)
def test_what_is_wrong_is_named(values: Any, reason: str) -> None:
    with pytest.raises(RequestError) as refused:
        ClusterFile.of(values)
    assert reason in str(refused.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    for content in (b"\xff\xfe", b"models: [", b"a" * (1 << 21), b"!!python/object/apply:os.getcwd []"):
        path = tmp_path / "cluster.yaml"
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"cluster\.yaml"):
            ClusterFile.read(path)
    with pytest.raises(RequestError, match="cannot read"):
        ClusterFile.read(tmp_path / "none.yaml")


def test_digests_are_found_and_compared(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    values: dict[str, Any] = {"models": {"tiny": {"model": str(folder)}}}
    (located,) = ClusterFile.of(values).located().pools
    assert located.digest == model_digest(folder)
    values["models"]["tiny"]["digest"] = located.digest
    ClusterFile.of(values).located()
    weights = next(folder.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # one bit of one byte
    weights.write_bytes(content)
    with pytest.raises(RequestError, match="copy the right file here"):
        ClusterFile.of(values).located()
    with pytest.raises(RequestError, match=r"models\.tiny\.model"):
        ClusterFile.of({"models": {"tiny": {"model": str(tmp_path / "nothing.gguf")}}}).located()


def test_the_examples_of_the_page_are_cluster_files() -> None:
    page = Path(__file__).parents[2] / "docs" / "cluster.md"
    first, ranged, deployed = re.findall(
        r"^```yaml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    assert [pool.replicas for pool in ClusterFile.of(yaml.safe_load(first)).pools] == [3, 2, 1]
    found = ClusterFile.of(yaml.safe_load(ranged))
    assert [(pool.replicas, pool.autoscale) for pool in found.pools] == [(1, ScaleRange(0, 4, 60, 600))]
    assert ClusterFile.of(found.plain()) == found
    module, _, name = yaml.safe_load(deployed)["applications"][0]["import_path"].partition(":")
    source = Path(__file__).parents[2].joinpath("src", *module.split(".")).with_suffix(".py")
    assert f"def {name}(" in source.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"autoscale": {"most": 0}}, r"models\.tiny: autoscale: expected"),
        ({"autoscale": {"mosst": 2}}, "did you mean 'most'"),
        ({"autoscale": 3}, "expected names with values"),
        ({"adapters": {"law": 3}}, "expected names with paths"),
    ],
)
def test_ranges_and_adapters_are_checked(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        ClusterFile.of({"models": {"tiny": {"model": "smollm2-135m", **wrong}}})


def test_the_example_for_kubernetes_has_a_cluster_file() -> None:
    text = Path(__file__).parents[2].joinpath("deploy", "cluster", "kuberay.yaml").read_text(encoding="utf-8")
    configuration, service = yaml.safe_load_all(text)
    found = ClusterFile.of(yaml.safe_load(configuration["data"]["cluster.yaml"]))
    assert found.settings.api_key_file is not None
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    assert application["import_path"] == "miaotui.cluster.on_ray.application:build"
    workers = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert sum(each["replicas"] for each in workers) >= found.pools[0].replicas


def test_encoders_take_the_options_of_encoders(tmp_path: Path) -> None:
    folder = make_encoder_folder(tmp_path)

    def located(**more: Any) -> ClusterFile:
        return ClusterFile.of({"models": {"vectors": {"model": str(folder), **more}}}).located()

    found = located(max_tokens=40, pooling="mean", threads=1)
    assert found.pools[0].digest == model_digest(folder)
    asleep = located(autoscale={"least": 0, "most": 2}).pools[0].autoscale
    assert asleep is not None
    assert asleep.least == 0
    for more, reason in (
        ({"kv": "int8"}, "of the kind encoder, which takes threads, backend, max_tokens, pooling, not kv"),
        ({"adapters": {"law": "x"}}, "take no `adapters`"),
    ):
        with pytest.raises(RequestError, match=reason):
            located(**more)
    with pytest.raises(RequestError, match="which takes threads, context, kv"):
        ClusterFile.of(
            {"models": {"a": {"model": str(make_tiny_folder(tmp_path, "llama")), "pooling": "mean"}}}
        ).located()
