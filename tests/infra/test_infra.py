"""Checks the files of container engines and clusters by those tools' rules and against the project.

The tests need no container engine and no cluster: they use the JSON schemas of Compose and Kubernetes, hadolint, and Prefect's code
that makes a job from a template.
"""

import asyncio
import copy
import importlib.util
import json
import re
import shlex
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.client.schemas.objects import FlowRun
from prefect.server.schemas.actions import DeploymentCreate, WorkPoolCreate
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names
from prefect.utilities.schema_tools.validation import ValidationError as Unfit
from prefect_kubernetes.settings import KubernetesSettings
from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

import quantmill
from flows.pools.pools import Pool, read_pools
from flows.server.bootstrap import _template
from flows.server.deployments import read_deployments
from quantmill.settings import Settings
from tasks.installed import locked

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
COMPOSE: dict[str, Any] = yaml.safe_load((INFRA / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (INFRA / "Dockerfile").read_text()
SITE = read_pools(KUBERNETES / "pools.yaml")
CHARTS = {
    name: yaml.safe_load((KUBERNETES / f"{name}.values.yaml").read_text())
    for name in ("prefect-server", "prefect-worker")
}
SECRET = re.compile(r"PASSWORD|TOKEN|SECRET|AUTH_STRING|ACCESS_KEY|NOTIFY_URL")
OPTIONAL = ("HF_TOKEN", "QUANTMILL_NOTIFY_URL")
REFERENCES = ("_SECRET_NAME", "STRING_SECRET_KEY")  # settings of Prefect's worker: where a secret is


@cache
def schema_of_compose() -> dict[str, Any]:
    """The Compose specification's own, as check-jsonschema carries it."""
    package = importlib.util.find_spec("check_jsonschema")
    assert package and package.origin
    return json.loads((Path(package.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())


def manifests() -> list[dict[str, Any]]:
    names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    return [found for name in names for found in yaml.safe_load_all((KUBERNETES / name).read_text())]


def job_of(pool: Pool, template: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the manifest of a run's job: server and worker of Prefect check and fill the pool's template."""
    template = template or _template(pool)
    WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=template)
    DeploymentCreate(name="any", flow_id=uuid4(), job_variables=pool.job_variables).check_valid_configuration(template)
    made = KubernetesWorkerJobConfiguration.from_template_and_values(
        template, dict(pool.job_variables), client=object()
    )
    configuration = asyncio.run(made)
    configuration.prepare_for_flow_run(FlowRun(name="gptq-4bit-g64", flow_id=uuid4()))
    return configuration.job_manifest


def check_manifest(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield (name, pod, container) of all that runs in Kubernetes by these files."""
    for found in [*manifests(), *(job_of(pool) for pool in SITE)]:
        if found["kind"] in ("Job", "Deployment"):
            pod = found["spec"]["template"]["spec"]
            for container in pod["containers"]:
                yield found["metadata"].get("name", "run"), pod, container


def environments() -> Iterator[tuple[str, str, Any]]:
    """Yield (place, variable, value) of every environment; a value from elsewhere in Kubernetes is a dict."""
    for name, service in SERVICES.items():
        yield from ((name, variable, value) for variable, value in service["environment"].items())
    for name, _, container in containers():
        yield from ((name, entry["name"], entry.get("value", entry.get("valueFrom"))) for entry in container["env"])
    lists = [CHARTS["prefect-server"]["global"]["prefect"]["env"], CHARTS["prefect-server"]["server"]["env"]]
    for entry in [*lists[0], *lists[1], *CHARTS["prefect-worker"]["worker"]["extraEnvVars"]]:
        yield "chart", entry["name"], entry.get("value", entry.get("valueFrom"))


# Each by its own tool.


def test_the_compose_file_is_one_by_the_specification() -> None:
    jsonschema.validate(COMPOSE, schema_of_compose())
    damaged = copy.deepcopy(COMPOSE)
    damaged["services"]["prefect"]["dependson"] = ["postgres"]
    with pytest.raises(jsonschema.ValidationError, match="dependson"):
        jsonschema.validate(damaged, schema_of_compose())


def test_hadolint_has_nothing_to_say_of_the_dockerfile(tmp_path: Path) -> None:
    hadolint = str(Path(sysconfig.get_path("scripts")) / "hadolint")
    subprocess.run([hadolint, str(INFRA / "Dockerfile")], check=True)
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    refused = subprocess.run([hadolint, str(tmp_path / "Dockerfile")], capture_output=True, text=True)
    assert refused.returncode and "DL3006" in refused.stdout


@pytest.mark.parametrize("manifest", manifests(), ids=lambda found: f"{found['kind']}-{found['metadata']['name']}")
def test_the_manifests_are_what_kubernetes_takes(manifest: dict[str, Any]) -> None:
    check_manifest(manifest)
    with pytest.raises(kubernetes_validate.ValidationError):
        check_manifest(manifest | {"sepc": {}})


@pytest.mark.parametrize("pool", SITE, ids=lambda pool: pool.name)
def test_a_template_becomes_a_job_that_kubernetes_takes(pool: Pool) -> None:
    manifest = job_of(pool)
    spec = manifest["spec"]["template"]["spec"]
    # Prefect's worker refuses a template without these two at this place, where Kubernetes has no such fields and ignores them.
    assert spec.pop("parallelism") == spec.pop("completions") == 1
    check_manifest(manifest)
    (container,) = spec["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu", 0) == (pool.device == "cuda")
    assert ("nvidia.com/gpu" in str(spec["tolerations"])) == bool(spec["nodeSelector"]) == (pool.device == "cuda")
    assert not re.findall(r"\{\{.*?\}\}", json.dumps(manifest))
    assert (
        int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
        > (pool.device == "cpu") * pool.memory
    )
    assert set(pool.job_variables) <= set(_template(pool)["variables"]["properties"])


def test_a_damaged_template_is_refused() -> None:
    gpu = next(pool for pool in SITE if pool.device == "cuda")
    undeclared, unfit = _template(gpu), gpu.model_copy(update={"job_variables": {"gpu_count": "one"}})
    del undeclared["variables"]["properties"]["gpu_count"]
    with pytest.raises(ValueError, match="gpu_count"):
        job_of(gpu, undeclared)
    with pytest.raises(Unfit, match="gpu_count"):
        job_of(unfit)


# Against the rest of the project.


def test_every_variable_is_one_that_somebody_reads() -> None:
    mlflow = importlib.util.find_spec("mlflow")
    assert mlflow and mlflow.origin
    package = Path(mlflow.origin).parent
    read_by_mlflow = (package / "environment_variables.py").read_text() + (package / "cli" / "__init__.py").read_text()
    known = {
        "QUANTMILL": {f"QUANTMILL_{name.upper()}" for name in Settings.model_fields},
        "PREFECT": {*_get_valid_setting_names(PrefectSettings), *_get_valid_setting_names(KubernetesSettings)},
        "MLFLOW": set(re.findall(r'"(MLFLOW_\w+)"', read_by_mlflow)),
    }
    added_by_the_worker = {"PREFECT__FLOW_RUN_ID", "PREFECT__FLOW_ID", "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR"}
    used = {name for _, name, _ in environments()} | set(re.findall(r"\b([A-Z]+_\w+)=", DOCKERFILE))
    unknown = {name for name in used - added_by_the_worker if name not in known.get(name.partition("_")[0], {name})}
    assert not unknown
    assert {name.partition("_")[0] for name in used} >= set(known)


def test_secrets_have_no_default_and_stand_in_no_file() -> None:
    for place, name, value in environments():
        if SECRET.search(name) and not name.endswith(REFERENCES):
            required = isinstance(value, dict) or re.fullmatch(r"\$\{\w+:\?.+\}", value)
            assert required or (name in OPTIONAL and re.fullmatch(r"\$\{\w+:-\}", value)), (place, name, value)
    assert not SECRET.search(" ".join(re.findall(r"^(?:ARG|ENV) .*(?:\\\n.*)*", DOCKERFILE, re.MULTILINE)))
    for chart in CHARTS.values():
        assert not re.findall(r"'(?:authString|password|connectionString)'", str(chart))


def test_everything_asks_for_a_login() -> None:
    assert "PREFECT_SERVER_API_AUTH_STRING" in SERVICES["prefect"]["environment"]
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= set(SERVICES["s3"]["environment"])
    (deployment,) = (container for name, _, container in containers() if name == "mlflow")
    for command in (SERVICES["mlflow"]["command"], deployment["args"]):
        assert "--app-name=basic-auth" in command
    assert "admin_password" not in (INFRA / "mlflow-auth.ini").read_text()
    server, worker = (
        CHARTS["prefect-server"]["server"],
        CHARTS["prefect-worker"]["worker"]["selfHostedServerApiConfig"],
    )
    assert server["basicAuth"] == worker["basicAuth"] == {"enabled": True, "existingSecret": "prefect-auth"}


def test_the_documents_list_the_secrets() -> None:
    asked = set(re.findall(r"\$\{(\w+):", (INFRA / "compose.yaml").read_text()))
    page = (
        (ROOT / "docs" / "operations.md").read_text().partition("## Containers and Kubernetes")[2].partition("\n## ")[0]
    )
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == asked
    made = {
        (words[words.index("generic") + 1], found.partition("=")[0])
        for line in re.findall(
            r"^ {4}kubectl .* create secret (?:.*\\\n)*.*$", (KUBERNETES / "README.md").read_text(), re.MULTILINE
        )
        for words in [shlex.split(line.replace("\\\n", " "), comments=True)]
        for found in (word.removeprefix("--from-file=") for word in words if word.startswith("--from-file="))
    }
    wanted = {
        (value["secretKeyRef"]["name"], value["secretKeyRef"]["key"])
        for _, _, value in environments()
        if isinstance(value, dict)
    }
    by_charts = {("prefect-auth", "auth-string"), (CHARTS["prefect-server"]["secret"]["name"], "connection-string")}
    assert made == wanted | by_charts


def test_images_are_pinned_and_are_of_the_locked_versions() -> None:
    pulled = re.findall(r"^FROM (\S+:\S+)", DOCKERFILE, re.MULTILINE)
    pulled += [service["image"] for service in SERVICES.values()] + [
        container["image"] for _, _, container in containers()
    ]
    charts = CHARTS["prefect-server"]["global"]["prefect"], CHARTS["prefect-worker"]["worker"]
    pulled += [f"{chart['image']['repository']}:{chart['image']['prefectTag']}" for chart in charts]
    versions = {"quantmill": quantmill.__version__, "prefecthq/prefect": locked(("prefect",))["prefect"]}
    for image in pulled:
        name, _, tag = image.partition(":")
        assert re.match(r"\d+\.\d+", tag), image
        assert tag.partition("-")[0] == versions.get(name, tag.partition("-")[0]), image
    assert {image.partition(":")[0] for image in pulled} == {"python", "postgres", *versions}
    targets = re.findall(r"^FROM base AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert {image.rpartition("-")[2] for image in pulled if image.startswith("quantmill")} <= set(targets)


def test_nobody_is_root_and_nothing_can_be_changed() -> None:
    stages = [stage for stage in DOCKERFILE.split("\nFROM ")[1:] if re.match(r"base AS (server|cpu|cuda)\n", stage)]
    assert [re.findall(r"^USER (.*)$", stage, re.MULTILINE) for stage in stages] == [["10001:10001"]] * 3
    for name, service in SERVICES.items():
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"] and "privileged" not in service, name
        assert service["image"].startswith("quantmill:") or not service["user"].startswith("0"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["deploy"]["resources"]["limits"]["memory"] and service["restart"] and service["healthcheck"], (
            name
        )
    for name, pod, container in containers():
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001, name
        assert pod["automountServiceAccountToken"] is False and container["resources"]["limits"]["memory"], name
        assert container["securityContext"]["readOnlyRootFilesystem"], name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name


def test_every_pool_has_its_worker() -> None:
    commands = [" ".join(service.get("command", [])) for service in SERVICES.values()]
    assert re.findall(r"--pool=(\S+)", " ".join(commands)) == [
        pool.name for pool in read_pools(ROOT / "deployments" / "pools.yaml")
    ]
    (loop,) = re.findall(r"for pool in (.*); do", (KUBERNETES / "README.md").read_text())
    assert loop.split() == [pool.name for pool in SITE]
    assert {entry.work_pool.name for entry in read_deployments(SITE)} == {pool.name for pool in SITE}


def test_the_images_hold_what_the_commands_need() -> None:
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    sources = {source for line in copied for source in line.split()}
    assert not [source for source in sources if not (ROOT / source).exists()]
    let_through = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert not [source for source in sources if not any(f"{source}/".startswith(f"{kept}/") for kept in let_through)]
    code = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()} - {"tests", "benchmarks", "infra"}
    assert code | {"deployments"} <= sources


def test_nobody_is_told_what_happens_here() -> None:
    (base,) = (stage for stage in DOCKERFILE.split("\nFROM ") if stage.startswith("python:"))
    images = set(re.findall(r"\b(\w+=(?:1|true|false))\b", base))
    assert {"DO_NOT_TRACK=1", "PREFECT_SERVER_ANALYTICS_ENABLED=false"} < images
    assert {"MLFLOW_DISABLE_TELEMETRY=true", "HF_HUB_DISABLE_TELEMETRY=1"} < images
    charts = [(name, value) for place, name, value in environments() if place == "chart"]
    assert charts.count(("DO_NOT_TRACK", "1")) == 2 and ("PREFECT_SERVER_ANALYTICS_ENABLED", "false") in charts
    assert "-master.telemetry=false" in SERVICES["s3"]["command"]


def test_the_config_map_holds_the_list_and_its_templates() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    (lists,) = kustomization["configMapGenerator"]
    assert set(lists["files"]) == {"pools.yaml", *(pool.template.name for pool in SITE if pool.template)}
    mounted = {
        volume["configMap"]["name"] for _, pod, _ in containers() for volume in pod["volumes"] if "configMap" in volume
    }
    assert mounted == {lists["name"]}
    assert {pool.name for pool in SITE} == {pool.name for pool in SITE if pool.type == "kubernetes"}
