"""Which transports each engine of a teacher has, and which keys each of them reads."""

import pytest

from gkd_dist.config.load import dump_run_config, load_run_config
from gkd_dist.config.models import RESERVED_ENGINE_ARGS, TEACHER_KEYS_OF, TRANSPORTS_OF, TeacherConfig
from tests import run_configs

MODELS = ("student.model=a", "teacher.model=b")
SERVER = ("teacher.engine=server", "teacher.base_url=http://host:8000/v1", "teacher.transport=topk")


def problems_of(*overrides: str) -> list[str]:
    return run_configs.problems_of("tiny", (*MODELS, *overrides))


def teacher(**settings: object) -> TeacherConfig:
    return TeacherConfig(model="b", **settings)


@pytest.mark.parametrize("engine", TRANSPORTS_OF)
@pytest.mark.parametrize("transport", ["hidden", "topk", "full", "sampled"])
def test_an_engine_takes_its_own_transports_alone(engine: str, transport: str) -> None:
    overrides = [f"teacher.engine={engine}", f"teacher.transport={transport}"]
    overrides += [SERVER[1]] if engine == "server" else []
    overrides += ["objective={divergence: reverse_kl, student_fraction: 1}"] if transport == "sampled" else []
    if transport in TRANSPORTS_OF[engine]:
        assert load_run_config("tiny", (*MODELS, *overrides)).teacher.transport == transport
    else:
        (problem,) = problems_of(*overrides)
        assert problem.startswith(f"teacher: the {engine} engine has no `{transport}` transport; use transport=")


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (("teacher.transport=full", "teacher.top_k=8"), "teacher: transport=full does not use top_k; set transport=topk, or remove what it does not use"),  # noqa: E501
        (("teacher.max_retries=3",), "teacher: engine=hf does not use max_retries; set engine=server, or remove what it does not use"),  # noqa: E501
        ((*SERVER, "teacher.engine_args={a: 1}"), "teacher: the server engine takes no engine_args; use engine=vllm, or set engine_args={}"),  # noqa: E501
        (("teacher.engine=server", "teacher.transport=topk"), "teacher: the server engine needs base_url; give it, as in base_url=http://host:8000/v1"),  # noqa: E501
        ((*SERVER, "teacher.base_url=host:8000"), 'teacher.base_url: must be an address such as http://host:8000/v1, or null, got "host:8000"'),  # noqa: E501
        ((*SERVER, "teacher.request_timeout_s=60", "cluster.request_timeout_s=60"), "teacher.request_timeout_s (60) must be below cluster.request_timeout_s (60), which all attempts have together; lower it to a fraction, or raise the other"),  # noqa: E501
        (
            (*SERVER, "teacher.request_timeout_s=0"),
            "teacher.request_timeout_s: must be above 0 and at most 2592000, got 0",
        ),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_refused_with_the_way_out(overrides: tuple[str, ...], problem: str) -> None:
    assert problems_of(*overrides) == [problem]


@pytest.mark.parametrize("name", RESERVED_ENGINE_ARGS)
def test_an_engine_argument_that_the_transport_needs_is_refused_with_the_key_that_decides_it(name: str) -> None:
    (problem,) = problems_of("teacher.engine=vllm", f"teacher.engine_args.{name}=x")
    key = RESERVED_ENGINE_ARGS[name]
    assert problem == f"teacher: engine_args.{name} is decided by {key}; remove it, and set {key} instead"
    assert key in TeacherConfig.model_fields


@pytest.mark.parametrize(
    "url", ["http://me:sesame@host:8000/v1", "https://sesame@host", "ftp://me:sesame@host", "me:sesame@host:8000/v1"]
)
def test_a_password_in_the_address_is_refused_and_not_shown(url: str) -> None:
    (problem,) = problems_of(*SERVER, f"teacher.base_url={url}")
    assert problem.startswith("teacher.base_url: must not hold a user name or password")
    assert "api_key_env" in problem and "sesame" not in problem


def test_an_at_sign_in_the_path_of_an_address_stays() -> None:
    url = "http://host:8000/@team/v1"
    assert load_run_config("tiny", (*MODELS, *SERVER, f"teacher.base_url={url}")).teacher.base_url == url


def test_overrides_of_the_models_configuration_are_a_mapping() -> None:
    (problem,) = problems_of("teacher.engine=vllm", "teacher.engine_args.hf_overrides=3")
    assert problem.startswith("teacher: engine_args.hf_overrides must be a mapping")


def test_a_recipes_dtype_may_stay_when_a_server_takes_over() -> None:
    assert load_run_config("tiny", (*MODELS, *SERVER)).teacher.dtype == "float32"


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        ((), {"dtype", "score_cache_bytes", "verify_readout"}),
        (("teacher.transport=topk", "teacher.top_k=8"), {"dtype", "score_cache_bytes", "top_k"}),
        (("teacher.engine=vllm",), {"dtype", "engine_args", "score_cache_bytes", "verify_readout"}),
        (SERVER, {"dtype", "top_k", *TEACHER_KEYS_OF["engine", "server"]}),
        ((*SERVER, "teacher.dtype=bfloat16"), {"top_k", *TEACHER_KEYS_OF["engine", "server"]}),
    ],
)
def test_the_dump_holds_what_has_an_effect_and_loads_back(
    tmp_path: object, overrides: tuple[str, ...], kept: set[str]
) -> None:
    config = load_run_config("tiny", (*MODELS, *overrides))
    text = dump_run_config(config)
    shown = text[text.index("teacher:") :].split("\nsampler:")[0]
    owned = {key for keys in TEACHER_KEYS_OF.values() for key in keys}
    assert {key for key in owned if f"\n  {key}:" in shown} == kept
    path = tmp_path / "dumped.yaml"
    path.write_text(text)
    again = load_run_config(str(path))
    assert dump_run_config(again) == text
    assert again == config


@pytest.mark.parametrize(
    ("settings", "num_positions"),
    [
        ({"transport": "hidden"}, 64),
        ({"transport": "topk"}, 65),
        ({"transport": "sampled"}, 65),
        ({"engine": "hf", "transport": "topk"}, 64),
        ({"engine": "server", "transport": "sampled", "base_url": "http://host/v1"}, 65),
    ],
)
def test_vllm_needs_one_position_more_for_log_probs(settings: dict[str, object], num_positions: int) -> None:
    assert teacher(max_model_len=64, **settings).num_positions == num_positions
