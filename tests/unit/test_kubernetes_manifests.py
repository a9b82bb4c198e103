"""deploy/kubernetes, built by kubectl's own Kustomize: by the schemas of Kubernetes, and by what pushq is.

No cluster is asked. Of KEDA's resource, whose schema no package carries, the fields that we use are checked against a list of our own,
written from KEDA's documentation; its queries and those of prometheus-adapter are parsed by promtool.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pushq import metrics
from pushq.app import CORE_QUEUES, PLATFORM_QUEUES, POISON
from pushq.cli.worker import DEFAULT_CONCURRENCY, worker
from pushq.settings import Settings, load
from tests.deployment import KUBERNETES, OVERLAYS, manifest_processes, manifests
from tests.services.prometheus import find_promtool
from tests.unit.test_deployment_files import parse

ROLES = tuple({param.name: param for param in worker.params}["kind"].type.choices)  # type: ignore[attr-defined]
#: Versions of Kubernetes, from the oldest that somebody still supports to the newest that we have schemas for.
VERSIONS = ("1.32.0", "1.34.0", "1.37.0")
#: keda.sh/v1alpha1, as far as it is used here.
KEDA_FIELDS = {
    "spec": {
        "scaleTargetRef",
        "minReplicaCount",
        "maxReplicaCount",
        "pollingInterval",
        "fallback",
        "advanced",
        "triggers",
    },
    "trigger": {"type", "name", "metricType", "metadata"},
    "metadata": {"serverAddress", "query", "threshold", "ignoreNullValues"},
}

Documents = list[dict[str, Any]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Documents]:
    folder = tmp_path_factory.mktemp("built")
    return {overlay: manifests(overlay, folder) for overlay in OVERLAYS}


@pytest.fixture
def base(built: dict[str, Documents]) -> Documents:
    return built["base"]


def of_kind(documents: Documents, kind: str) -> dict[str, dict[str, Any]]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


def queues_of(role: str) -> set[str]:
    if role == "core":
        return set(CORE_QUEUES)
    return {queue for (platform, _), queue in PLATFORM_QUEUES.items() if platform == role}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_is_one_by_the_schema_of_kubernetes(
    built: dict[str, Documents], overlay: str, version: str
) -> None:
    for document in built[overlay]:
        if document["kind"] != "ScaledObject":
            kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_see_mistakes(base: Documents) -> None:
    (first, *_) = of_kind(base, "Deployment").values()
    broken = {**first, "spec": {**first["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)


def test_there_is_a_deployment_for_every_role_with_a_budget_of_its_own(base: Documents) -> None:
    deployments = of_kind(base, "Deployment")
    assert set(deployments) == {f"pushq-{role}" for role in (*ROLES, "beat", "web", "exporter")}
    for name, deployment in deployments.items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
        budget = of_kind(base, "PodDisruptionBudget")[name]["spec"]
        assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}


def test_the_commands_are_commands_of_pushq(base: Documents) -> None:
    for process in manifest_processes(base):
        for program, *arguments in (process.command, *process.health):
            assert program == "pushq"
            parse(arguments)


def test_the_environment_of_every_container_is_understood(base: Documents, tmp_path: Path) -> None:
    for process in manifest_processes(base):
        environment = dict(process.environment)
        for variable, path in process.environment.items():
            if variable.endswith("_FILE"):
                assert path.startswith("/run/secrets/pushq/")
                stand_in = tmp_path / Path(path).name
                scheme = {"database-url": "postgresql", "broker-url": "amqp", "redis-url": "redis"}
                stand_in.write_text(f"{scheme.get(stand_in.name, 'http')}://host")
                environment[variable] = str(stand_in)
        if "PUSHQ_CONFIG" in environment:
            assert environment["PUSHQ_CONFIG"] == "/etc/pushq/pushq.toml"
            (tmp_path / "pushq.toml").write_text("")
            environment["PUSHQ_CONFIG"] = str(tmp_path / "pushq.toml")
        load(environment).need_database()


def test_secrets_are_files_and_nothing_else(base: Documents) -> None:
    for document in [*of_kind(base, "Deployment").values(), *of_kind(base, "Job").values()]:
        pod = document["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert all("valueFrom" not in entry for entry in container.get("env", ()))
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        secrets = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
        assert mounted["/run/secrets/pushq"] in secrets
        assert not of_kind(base, "Secret")


def test_a_pod_may_do_its_work_and_nothing_else(base: Documents) -> None:
    for document in [*of_kind(base, "Deployment").values(), *of_kind(base, "Job").values()]:
        pod = document["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        # Kubernetes would set PUSHQ_..._SERVICE_HOST, and pushq does not start with settings that it does not know.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}


def test_who_probes_asks_the_right_role_and_life_depends_on_no_server(base: Documents) -> None:
    for name, deployment in of_kind(base, "Deployment").items():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        alive = ["pushq", "health", name.removeprefix("pushq-")]
        assert container["livenessProbe"]["exec"]["command"] == alive
        assert container["readinessProbe"]["exec"]["command"] == [*alive, "--ready"]
        assert container["startupProbe"]["exec"]["command"] == [*alive, "--ready"]


def test_a_worker_has_more_time_to_stop_than_it_takes(base: Documents) -> None:
    for role in ROLES:
        pod = of_kind(base, "Deployment")[f"pushq-{role}"]["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= Settings().shutdown_grace + 5


@pytest.mark.parametrize(
    ("overlay", "kind"), [("overlays/keda", "ScaledObject"), ("overlays/hpa", "HorizontalPodAutoscaler")]
)
def test_every_worker_is_scaled_and_nobody_else_says_how_many_there_are(
    built: dict[str, Documents], overlay: str, kind: str
) -> None:
    scalers = of_kind(built[overlay], kind)
    assert {scaler["spec"]["scaleTargetRef"]["name"] for scaler in scalers.values()} == {
        f"pushq-{role}" for role in ROLES
    }
    deployments = of_kind(built[overlay], "Deployment")
    assert all("replicas" not in deployments[name]["spec"] for name in scalers)


def test_both_autoscalers_agree(built: dict[str, Documents]) -> None:
    for role in ROLES:
        keda = of_kind(built["overlays/keda"], "ScaledObject")[f"pushq-{role}"]["spec"]
        plain = of_kind(built["overlays/hpa"], "HorizontalPodAutoscaler")[f"pushq-{role}"]["spec"]
        assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
            plain["minReplicas"],
            plain["maxReplicas"],
        )
        assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == plain["behavior"]
        targets = [metric["external"]["target"] for metric in plain["metrics"]]
        assert [trigger["metadata"]["threshold"] for trigger in keda["triggers"]] == [
            t["averageValue"] for t in targets
        ]
        assert (
            {trigger["metricType"] for trigger in keda["triggers"]}
            == {t["type"] for t in targets}
            == {"AverageValue"}
        )


def test_a_scaled_object_has_the_fields_of_keda_and_a_way_out(built: dict[str, Documents]) -> None:
    for scaled in of_kind(built["overlays/keda"], "ScaledObject").values():
        spec = scaled["spec"]
        assert spec.keys() <= KEDA_FIELDS["spec"]
        assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
        for trigger in spec["triggers"]:
            assert trigger.keys() <= KEDA_FIELDS["trigger"]
            assert trigger["type"] == "prometheus"
            assert trigger["metadata"].keys() == KEDA_FIELDS["metadata"]
            # All of them are strings to KEDA; and a Prometheus that knows nothing is no reason for the fewest workers.
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            assert trigger["metadata"]["ignoreNullValues"] == "false"


@pytest.mark.parametrize("role", ROLES)
def test_the_queues_that_count_are_those_of_the_role(built: dict[str, Documents], role: str) -> None:
    every = {*CORE_QUEUES, *PLATFORM_QUEUES.values(), POISON}
    keda = of_kind(built["overlays/keda"], "ScaledObject")[f"pushq-{role}"]["spec"]["triggers"]
    (depth,) = [trigger["metadata"] for trigger in keda if trigger["name"] == "depth"]
    (wanted,) = re.findall(r'queue=~"([^"]+)"', depth["query"])
    unwanted = set(re.findall(r'queue!="([^"]+)"', depth["query"]))
    assert {queue for queue in every if re.fullmatch(wanted, queue)} - unwanted == queues_of(role)
    assert int(depth["threshold"]) in {DEFAULT_CONCURRENCY[role], 2 * DEFAULT_CONCURRENCY[role]}
    plain = of_kind(built["overlays/hpa"], "HorizontalPodAutoscaler")[f"pushq-{role}"]["spec"]["metrics"]
    (selector,) = plain[0]["external"]["metric"]["selector"]["matchExpressions"]
    assert set(selector["values"]) == queues_of(role)
    assert {trigger["name"] for trigger in keda} == ({"depth"} if role == "core" else {"depth", "lag"})


def test_the_release_window_lets_all_workers_have_something_to_do(built: dict[str, Documents]) -> None:
    (settings,) = of_kind(built["base"], "ConfigMap").values()
    for role in set(ROLES) - {"core"}:
        most = of_kind(built["overlays/keda"], "ScaledObject")[f"pushq-{role}"]["spec"]["maxReplicaCount"]
        assert int(settings["data"]["PUSHQ_RELEASE_WINDOW"]) >= most * DEFAULT_CONCURRENCY[role]


def test_every_query_is_promql_about_metrics_of_pushq(built: dict[str, Documents], tmp_path: Path) -> None:
    adapter = yaml.safe_load((KUBERNETES / "overlays/hpa/prometheus-adapter-values.yaml").read_text())
    rules = adapter["rules"]["external"]
    queries = [
        trigger["metadata"]["query"]
        for scaled in of_kind(built["overlays/keda"], "ScaledObject").values()
        for trigger in scaled["spec"]["triggers"]
    ]
    queries += [
        rule["metricsQuery"]
        .replace("<<.Series>>", rule["seriesQuery"])
        .replace("<<.LabelMatchers>>", 'a="b"')
        for rule in rules
    ]
    known = {metrics.queue_messages.name, metrics.oldest_waiting_batch.name}
    assert {name for query in queries for name in re.findall(r"pushq_\w+", query)} == known
    asked = {
        metric["external"]["metric"]["name"]
        for scaler in of_kind(built["overlays/hpa"], "HorizontalPodAutoscaler").values()
        for metric in scaler["spec"]["metrics"]
    }
    assert asked == {rule["seriesQuery"] for rule in rules} == known
    written = tmp_path / "rules.yml"
    group = {"name": "g", "rules": [{"record": f"r{n}", "expr": query} for n, query in enumerate(queries)]}
    written.write_text(yaml.safe_dump({"groups": [group]}))
    checked = subprocess.run(
        [find_promtool(), "check", "rules", written], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_prometheus_finds_the_pods(base: Documents, tmp_path: Path) -> None:
    scrape = yaml.safe_load((KUBERNETES / "prometheus.yml").read_text())
    for job in scrape["scrape_configs"]:
        # Debian's Prometheus is built without Kubernetes: the rest is checked.
        (discovery,) = job.pop("kubernetes_sd_configs")
        assert discovery == {"role": "pod", "namespaces": {"names": ["pushq"]}}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scrape))
    command = [find_promtool(), "check", "config", str(tmp_path / "prometheus.yml")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    for deployment in of_kind(base, "Deployment").values():
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        names = [port["name"] for port in container["ports"]]
        assert names == (["metrics", "http"] if container["args"][0] == "web" else ["metrics"])
