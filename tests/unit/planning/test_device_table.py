"""The packaged devices and files of the user's."""

from pathlib import Path

import pytest

from gkd_dist.errors import ConfigError
from gkd_dist.planning.devices import device_names, load_device, save_device


@pytest.mark.parametrize("name", device_names())
def test_every_packaged_device_names_the_source_of_each_figure(name: str) -> None:
    device = load_device(name)

    assert set(device.sources) == {"flops", "memory", "link", "host", "network"}
    assert all(device.sources.values())
    shares = device.achieved
    for role in (shares.sampler, shares.teacher, shares.learner):
        assert 0 < role.compute < 1
        assert 0 < role.memory < 1
        assert role.source
    assert 0 < shares.publish.host < 1


def test_the_asked_for_devices_are_there() -> None:
    assert {"h100", "h200", "b200", "a100-80", "l40s", "cpu"} <= set(device_names())


def test_a_saved_device_is_read_again(tmp_path: Path) -> None:
    device = load_device("h100")
    save_device(device, tmp_path / "mine.yaml")
    assert load_device(str(tmp_path / "mine.yaml")) == device


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"h100.*YAML file"):
        load_device("h1000")


def test_everything_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    save_device(load_device("h100"), path)
    text = path.read_text().replace("memory_bytes: 8", "memory_bytes: -8").replace("num_per_node: 8", "per_node: 8")
    path.write_text(text)

    with pytest.raises(ConfigError) as caught:
        load_device(str(path))

    named = {problem.split(": ")[1] for problem in caught.value.problems}
    assert named == {"memory_bytes", "num_per_node", "per_node"}


def test_a_missing_dtype_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    device = load_device("h100")
    save_device(device.model_copy(update={"flops": {"bfloat16": 1e12}}), path)
    with pytest.raises(ConfigError, match=r"flops\.float32"):
        load_device(str(path))


@pytest.mark.parametrize("text", ["- 1\n", "name: [\n"])
def test_a_file_that_holds_no_device_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_device(str(tmp_path / "mine.yaml"))
