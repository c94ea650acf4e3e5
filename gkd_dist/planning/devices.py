"""What hardware can do: peaks from data sheets, and the shares of them that are reached (floor F2).

`devices.yaml` holds the packaged entries; a file of the user's has one of them at its top level, as `--save-device`
writes it. Rates are per device and direction.
"""

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from gkd_dist.config.base import Strict
from gkd_dist.config.yaml_text import YamlTextError, format_yaml, parse_yaml
from gkd_dist.errors import ConfigError


class Achieved(Strict):
    """What one role reaches of the peaks."""

    compute: float = Field(gt=0)
    """Share of `flops`."""
    memory: float = Field(gt=0)
    """Share of `memory_bytes_per_s`."""
    overhead_s: float = Field(default=0.0, ge=0)
    """Beside the arithmetic: of one decoded position of a sampler, of the sequences that a teacher's engine takes
    together, of one train step."""
    source: str
    """Where the shares come from."""


class Link(Strict):
    """What moving weights from the learner to the samplers reaches."""

    host: float = Field(gt=0)
    """Share of `host_bytes_per_s`, for gathering, copying and loading."""
    network: float = Field(gt=0)
    """Share of `network_bytes_per_s`."""
    overhead_s: float = Field(default=0.0, ge=0)
    """Of one publication."""
    source: str
    """Where the shares come from."""


class Shares(Strict):
    """Reached, by role."""

    sampler: Achieved
    teacher: Achieved
    learner: Achieved
    publish: Link


class Device(Strict):
    """One kind of device."""

    name: str
    flops: dict[str, float]
    """Dense FLOP/s by dtype."""
    memory_bytes_per_s: float = Field(gt=0)
    memory_bytes: float = Field(gt=0)
    link_bytes_per_s: float = Field(gt=0)
    """Between devices of one node."""
    host_bytes_per_s: float = Field(gt=0)
    """Between a device and the memory of its node, through which weights travel."""
    network_bytes_per_s: float = Field(gt=0)
    """To other nodes, one device's part."""
    num_per_node: int = Field(ge=1)
    sources: dict[str, str]
    """Where each figure comes from."""
    achieved: Shares

    def flops_of(self, dtype: str) -> float:
        return self.flops[dtype]

    def links_between(self, num_devices: int) -> float:
        """Bytes per second of one device among so many that work together."""
        return self.link_bytes_per_s if num_devices <= self.num_per_node else self.network_bytes_per_s

    def faster(self, factor: float) -> "Device":
        """With every rate multiplied and every overhead divided by `factor`."""
        parts = {
            role: {**part, "overhead_s": part["overhead_s"] / factor}
            for role, part in self.achieved.model_dump().items()
        }
        return Device.model_validate(
            {
                **self.model_dump(),
                "flops": {dtype: rate * factor for dtype, rate in self.flops.items()},
                "memory_bytes_per_s": self.memory_bytes_per_s * factor,
                "host_bytes_per_s": self.host_bytes_per_s * factor,
                "link_bytes_per_s": self.link_bytes_per_s * factor,
                "network_bytes_per_s": self.network_bytes_per_s * factor,
                "achieved": parts,
            }
        )


DTYPES = ("bfloat16", "float32")


def device_names() -> list[str]:
    """Of the packaged entries."""
    return sorted(_packaged())


def load_device(name: str) -> Device:
    """A packaged device, or that of a YAML file.

    Raises:
        ConfigError: no such device, or a file that does not hold one; all problems at once.
    """
    entries = _packaged()
    if name.lower() in entries:
        return _checked(entries[name.lower()], name.lower())
    path = Path(name)
    if not path.is_file():
        known = ", ".join(sorted(entries))
        raise ConfigError([f"--device: {name!r} is neither a known device ({known}) nor a YAML file of one"])
    try:
        tree = parse_yaml(path.read_text(encoding="utf-8"))
    except YamlTextError as error:
        raise ConfigError([f"{path}, line {error.line}, column {error.column}: {error.problem}"]) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read ({error}); give a file that --save-device wrote"]) from error
    return _checked(tree, str(path))


def save_device(device: Device, path: Path) -> None:
    """As YAML that `load_device` reads.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        path.write_text(format_yaml(device.model_dump()), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            [f"--save-device: {path} cannot be written ({error.strerror}); choose another one"]
        ) from error


def _packaged() -> dict[str, Any]:
    text = (resources.files("gkd_dist.planning") / "devices.yaml").read_text(encoding="utf-8")
    entries: dict[str, Any] = parse_yaml(text)
    return entries


def _checked(tree: Any, label: str) -> Device:
    if not isinstance(tree, dict):
        raise ConfigError([f"{label}: must be a mapping of a device's keys; see gkd_dist/planning/devices.yaml"])
    problems: list[str] = []
    try:
        device = Device.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        problems = [f"{label}: {'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
        raise ConfigError(problems) from error
    problems = [f"{label}: flops.{dtype}: is missing; give FLOP/s" for dtype in DTYPES if dtype not in device.flops]
    problems += [f"{label}: flops.{dtype}: must be above 0" for dtype, rate in device.flops.items() if rate <= 0]
    if problems:
        raise ConfigError(problems)
    return device
