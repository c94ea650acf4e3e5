"""deploy/kuberay: what comes out is valid to the letter, fits together, and has what keeps a run alive and fenced."""

import functools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from gkd_dist.cluster.job_log import exit_code_in
from gkd_dist.cluster.jobs import RUN_KEY
from gkd_dist.cluster.placement import RoleNeeds
from gkd_dist.config.load import load_run_config
from gkd_dist.config.run import RunConfig
from tests.kustomization import Object, build

REPOSITORY = Path(__file__).parents[3]
KUBERAY = REPOSITORY / "deploy" / "kuberay"
OVERLAYS = sorted(path.name for path in (KUBERAY / "overlays").iterdir())
BUILDS = [f"{overlay}/{what}" for overlay in OVERLAYS for what in ("cluster", "job")]
STORES = [f"{overlay}/storage" for overlay in OVERLAYS]
SCHEMAS = {
    "RayCluster": "ray.io_rayclusters.yaml",
    "RayJob": "ray.io_rayjobs.yaml",
    "PodMonitor": "monitoring.coreos.com_podmonitors.yaml",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
}
OF_GKD = {"app.kubernetes.io/part-of": "gkd"}


@functools.cache
def built(name: str) -> list[Object]:
    return build(KUBERAY / "overlays" / name)


def only(objects: list[Object], kind: str) -> Any:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def cluster_of(name: str) -> Any:
    objects = built(name)
    if name.endswith("cluster"):
        return only(objects, "RayCluster")["spec"]
    return only(objects, "RayJob")["spec"]["rayClusterSpec"]


def pods(name: str) -> dict[str, Any]:
    """Pod templates by the group's name, and the head's."""
    cluster = cluster_of(name)
    groups = {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    return {"head": cluster["headGroupSpec"]["template"], **groups}


def recipe(overlay: str) -> RunConfig:
    return load_run_config(str(KUBERAY / "overlays" / overlay / "job" / "recipe.yaml"), [])


def closed(schema: Any) -> Any:
    """The schema as an API server that refuses unknown fields reads it."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        result["additionalProperties"] = False
    return result


@functools.cache
def validator(kind: str, version: str) -> jsonschema.Draft202012Validator:
    folder = Path(os.environ.get("GKD_TEST_CRDS") or REPOSITORY.parent / "shared" / "crds")
    path = folder / SCHEMAS[kind]
    if not path.exists():
        pytest.skip(f"no {path.name} in GKD_TEST_CRDS nor in ../shared/crds: the CRDs of KubeRay and of Prometheus")
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)  # a safe loader, and one that is quick
    (schema,) = (each["schema"] for each in definition["spec"]["versions"] if each["name"] == version)
    top = schema["openAPIV3Schema"]
    for name in ("apiVersion", "kind", "metadata"):
        top["properties"].setdefault(name, {})
    return jsonschema.Draft202012Validator(closed(top))


def faults(thing: Object) -> list[str]:
    checked = validator(thing["kind"], thing["apiVersion"].rpartition("/")[2])
    return [f"{error.json_path}: {error.message}" for error in checked.iter_errors(thing)]


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("kind", SCHEMAS)
def test_custom_resources_are_what_their_definitions_say(name: str, kind: str) -> None:
    for thing in built(name):
        if thing["kind"] == kind:
            assert faults(thing) == []


def test_a_field_that_the_definition_does_not_know_is_found() -> None:
    job = json.loads(json.dumps(only(built("h100-node/job"), "RayJob")))
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    job["spec"]["backoffLimit"] = "3"
    found = faults(job)
    assert len(found) == 2
    assert any("'maxReplica' was unexpected" in each for each in found)
    assert any(each.startswith("$.spec.backoffLimit") for each in found)


@pytest.mark.parametrize("name", BUILDS)
def test_kinds_of_kubernetes_itself_are_valid(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    core = [each for each in built(name) if each["kind"] not in SCHEMAS]
    assert "NetworkPolicy" in {each["kind"] for each in core}
    bare = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": role, **template["metadata"]},
            "spec": template["spec"],
        }
        for role, template in pods(name).items()
    ]
    for thing in [*core, *bare, *built(f"{name.partition('/')[0]}/storage")]:
        validate.validate(thing, validate.latest_version(), strict=True)


@pytest.mark.parametrize("name", [*BUILDS, *STORES])
def test_kustomize_makes_of_it_what_these_tests_look_at(name: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl, which has kustomize in it")
    command = [kubectl, "kustomize", str(KUBERAY / "overlays" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    made = sorted(yaml.safe_load_all(done.stdout), key=lambda each: (each["kind"], each["metadata"]["name"]))
    assert made == built(name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_job_has_the_cluster_and_makes_none_beside_its_own(overlay: str) -> None:
    job = built(f"{overlay}/job")
    assert [each["kind"] for each in job if each["kind"].startswith("Ray")] == ["RayJob"]
    assert cluster_of(f"{overlay}/job") == cluster_of(f"{overlay}/cluster")
    spec = only(job, "RayJob")["spec"]
    (submitter,) = spec["submitterPodTemplate"]["spec"]["containers"]
    assert submitter["image"] == pods(f"{overlay}/job")["head"]["spec"]["containers"][0]["image"]
    (path,) = re.findall(r"; gkd run (\S+);", spec["entrypoint"])
    assert spec["metadata"] == {RUN_KEY: recipe(overlay).name}
    mounts = pods(f"{overlay}/job")["head"]["spec"]["containers"][0]["volumeMounts"]
    (mounted,) = (each["mountPath"] for each in mounts if each["name"] == "recipe")
    (file,) = only(job, "ConfigMap")["data"]
    assert path == f"{mounted}/{file}"
    assert int(yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) == 600


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize("is_submitted_by_a_pod", [True, False])
def test_the_entry_point_survives_the_shells_and_says_the_exit_code(
    code: int, is_submitted_by_a_pod: bool, tmp_path: Path
) -> None:
    entrypoint = only(built(f"{OVERLAYS[0]}/job"), "RayJob")["spec"]["entrypoint"]
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for name, line in (("gkd", f'echo "ran $*"; exit {code}'), ("ray", 'shift 3; for each; do echo "$each"; done')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    if is_submitted_by_a_pod:  # K8sJobMode: a shell of the pod reads it; `ray job submit` quotes what it gets, anew
        words = subprocess.run(
            ["bash", "-c", f"ray job submit -- {entrypoint} ;"], env=environment, capture_output=True, text=True
        ).stdout.splitlines()
        entrypoint = shlex.join(words)
    done = subprocess.run(entrypoint, shell=True, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, f"ran run /etc/gkd/recipe.yaml\ngkd: exit code {code}\n")
    assert exit_code_in(done.stdout) == code


def test_the_entry_point_says_the_exit_code_of_a_job_that_is_stopped(tmp_path: Path) -> None:
    entrypoint = only(built(f"{OVERLAYS[0]}/job"), "RayJob")["spec"]["entrypoint"]
    stand_in = tmp_path / "gkd"
    stand_in.write_text("#!/usr/bin/env bash\ntrap 'exit 75' TERM\necho runs\nwhile :; do sleep 0.05; done\n")
    stand_in.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    with subprocess.Popen(entrypoint, shell=True, stdout=-1, text=True, env=environment, start_new_session=True) as job:
        assert job.stdout is not None and job.stdout.readline() == "runs\n"
        os.killpg(job.pid, signal.SIGTERM)  # as Ray does: the shell, too
        said, _ = job.communicate(timeout=60)
    assert (job.returncode, exit_code_in(said)) == (75, 75)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_fields_of_retries_and_of_the_end_are_set_on_purpose(overlay: str) -> None:
    spec = only(built(f"{overlay}/job"), "RayJob")["spec"]
    assert spec["backoffLimit"] > 0 and spec["submitterConfig"]["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True and "deletionStrategy" not in spec
    assert {"preRunningDeadlineSeconds", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "suspend"} <= spec.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_who_deletes_a_job_or_a_cluster_keeps_its_checkpoints(overlay: str) -> None:
    (volume,) = built(f"{overlay}/storage")
    assert volume["kind"] == "PersistentVolumeClaim"
    for name in (f"{overlay}/job", f"{overlay}/cluster"):
        assert volume["kind"] not in {each["kind"] for each in built(name)}
        for role, template in pods(name).items():
            claim = {each["name"]: each for each in template["spec"]["volumes"]}["runs"]
            assert claim["persistentVolumeClaim"]["claimName"] == volume["metadata"]["name"], role


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_hold_what_the_recipe_begins_with(overlay: str) -> None:
    config, cluster = recipe(overlay), cluster_of(f"{overlay}/job")
    assert config.teacher is not None
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    needs = RoleNeeds(config.cluster)
    num_samplers, num_teachers = config.sampler.num_replicas, config.teacher.num_replicas
    wanted = {
        "sampler": (needs.sampler, num_samplers, config.sampler.max_replicas or num_samplers),
        "teacher": (needs.teacher, num_teachers, config.teacher.max_replicas or num_teachers),
        "learner": (needs.learner, config.learner.num_ranks, config.learner.num_ranks),
    }
    assert groups.keys() == wanted.keys()
    for role, (each, begin, end) in wanted.items():
        group = groups[role]
        assert each.custom == {role: 1}
        (container,) = group["template"]["spec"]["containers"]
        limits = container["resources"]["limits"]
        room = json.loads(json.loads(group["rayStartParams"]["resources"]))[role]
        assert float(limits["cpu"]) >= each.num_cpus * room
        assert int(limits.get("nvidia.com/gpu", 0)) == each.num_gpus * room
        assert group["minReplicas"] * room >= begin, f"{role}: the controller asks for all of them at its start"
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["maxReplicas"] * room >= end
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["enableInTreeAutoscaling"] is True
    assert config.cluster.address == "auto" and config.output_dir == Path("/runs")
    assert (config.metrics.host, config.metrics.port) == ("0.0.0.0", 9400)


@pytest.mark.parametrize("name", BUILDS)
def test_every_pod_is_unprivileged_bounded_and_given_time(name: str) -> None:
    for role, template in pods(name).items():
        assert OF_GKD.items() <= template["metadata"]["labels"].items()
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
        (container,) = spec["containers"]
        locked = container["securityContext"]
        assert locked["readOnlyRootFilesystem"] is True and locked["allowPrivilegeEscalation"] is False
        assert locked["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        shm = next(each for each in spec["volumes"] if each["name"] == "shared-memory")
        assert shm["emptyDir"]["medium"] == "Memory"
        paths = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"shared-memory": "/dev/shm", "runs": "/runs", "tmp": "/tmp"}.items() <= paths.items()
        command = " ".join(container["lifecycle"]["preStop"]["exec"]["command"])
        waits = int(re.search(r"timeout (\d+)", command)[1])  # type: ignore[index]
        assert spec["terminationGracePeriodSeconds"] >= waits + 30, role
    assert cluster_of(name)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", BUILDS)
def test_a_head_that_ends_stops_all_of_its_runs(name: str) -> None:
    (head,) = pods(name)["head"]["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in head["volumeMounts"]}
    command = head["lifecycle"]["preStop"]["exec"]["command"][-1]
    here, jobs, last = command.split("; ")
    assert here.startswith(f"gkd stop --all --output-dir {mounted['runs']} --timeout ")
    port = next(each["containerPort"] for each in head["ports"] if each["name"] == "dashboard")
    assert jobs.startswith(f"gkd stop --all --address http://127.0.0.1:{port} --timeout ")
    assert last == "true", "a checkpoint that fails must not keep the pod"


def test_versions_are_those_of_the_image() -> None:
    (ray,) = re.findall(r"^ray==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster_of("cpu-quickstart/job")["rayVersion"] == ray


def admits(policy: Any, labels: dict[str, str], namespace: str, own_namespace: str = "gkd") -> set[int]:
    """Ports that a pod with these labels reaches; -1: all of them."""
    ports: set[int] = set()
    for rule in policy["spec"]["ingress"]:
        for peer in rule["from"]:
            assert peer.keys() <= {"podSelector", "namespaceSelector"}
            assert all(selector.keys() <= {"matchLabels"} for selector in peer.values())
            of_namespace = {"kubernetes.io/metadata.name": namespace}
            wanted = peer.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": own_namespace}})
            if (
                wanted.get("matchLabels", {}).items() <= of_namespace.items()
                and peer.get("podSelector", {}).get("matchLabels", {}).items() <= labels.items()
            ):
                ports |= {port["port"] for port in rule.get("ports", ())} or {-1}
    return ports


def test_pods_of_other_ray_clusters_reach_nothing() -> None:
    policy = only(built("cpu-quickstart/job"), "NetworkPolicy")
    name = "app.kubernetes.io/name"
    foreign = {name: "kuberay", "app.kubernetes.io/created-by": "kuberay-operator", "ray.io/is-ray-node": "yes"}
    for namespace in ("gkd", "other", "kuberay-system", "monitoring"):
        assert admits(policy, foreign, namespace) == set(), namespace
    for of_operator in ("kuberay", "kuberay-operator"):  # its kustomization and its chart call it so
        operator = {name: of_operator, "app.kubernetes.io/component": "kuberay-operator"}
        assert admits(policy, operator, "kuberay-system") == {8265}
        assert admits(policy, operator, "other") == set()
    assert admits(policy, foreign | OF_GKD, "gkd") == {-1}
    assert admits(policy, foreign | OF_GKD, "other") == set()


def test_teachers_reach_vllm_servers_that_carry_the_label() -> None:
    policy = only(built("cpu-quickstart/job"), "NetworkPolicy")
    (rule,) = (rule for rule in policy["spec"]["egress"] if {"protocol": "TCP", "port": 8000} in rule.get("ports", ()))
    label = {"gkd/serves": "teacher"}
    assert rule["to"] == [{"namespaceSelector": {}, "podSelector": {"matchLabels": label}}]
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    assert "gkd/serves: teacher" in page and "delete rayjob gkd" in page


def rules(policy: Any) -> Iterator[tuple[str, set[int]]]:
    for rule in policy["spec"]["ingress"]:
        yield json.dumps(rule["from"]), {port["port"] for port in rule.get("ports", ())}


def test_metrics_are_read_by_prometheus_alone_and_the_dashboard_by_the_operator() -> None:
    policy = only(built("cpu-quickstart/job"), "NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == OF_GKD
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    peers = list(rules(policy))
    assert [ports for who, ports in peers if "prometheus" in who] == [{9400, 8080}]
    assert [ports for who, ports in peers if "kuberay" in who] == [{8265}]
    assert len(peers) == 3, "the third is the pods themselves"
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert all("169.254.169.254/32" in block["except"] for block in blocks)
    monitor = only(built("cpu-quickstart/job"), "PodMonitor")
    assert monitor["spec"]["selector"]["matchLabels"] == OF_GKD
    (head,) = pods("cpu-quickstart/job")["head"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert {ports[each["port"]] for each in monitor["spec"]["podMetricsEndpoints"]} == {9400, 8080}
    submitter = only(built("cpu-quickstart/job"), "RayJob")["spec"]["submitterPodTemplate"]
    assert OF_GKD.items() <= submitter["metadata"]["labels"].items()


def test_the_rule_object_has_the_rules_of_the_monitoring_folder() -> None:
    deployed = yaml.safe_load((REPOSITORY / "deploy" / "monitoring" / "rules.yml").read_text())
    assert only(built("cpu-quickstart/job"), "PrometheusRule")["spec"] == deployed
