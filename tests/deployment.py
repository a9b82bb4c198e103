"""What the files of a deployment say is run: docker-compose.yml, Procfile, deploy/systemd and deploy/kubernetes, read as data."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.services.tools import find_kubectl

ROOT = Path(__file__).resolve().parents[1]
UNITS = ROOT / "deploy" / "systemd"
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("base", "overlays/keda", "overlays/hpa")
#: Where the image and the units have pushq's programs.
PREFIX = "/opt/pushq/bin/"
#: What tini is for stands in the Dockerfile; here there is no first process to be.
INIT = ["tini", "--"]

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@dataclass(frozen=True)
class Process:
    """One process that a file starts.

    Attributes:
        name: of the service, the line, the unit or the Deployment.
        command: words; the first is ``pushq`` or ``celery``.
        environment: as the file gives it, unexpanded.
        health: the commands that ask whether it is well.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    health: Sequence[list[str]] = ()


def dockerfile() -> dict[str, list[tuple[str, str]]]:
    """Instructions with their arguments, by stage, lines joined."""
    stages: dict[str, list[tuple[str, str]]] = {}
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
        instruction, _, arguments = line.strip().partition(" ")
        if instruction == "FROM":
            stages[arguments.rpartition(" AS ")[2]] = []
        if instruction:
            stages[list(stages)[-1]].append((instruction, arguments.strip()))
    return stages


def entrypoint() -> list[str]:
    """What the image runs before its arguments."""
    (words,) = [arguments for name, arguments in dockerfile()["pushq"] if name == "ENTRYPOINT"]
    return list(yaml.safe_load(words))


def compose_processes() -> list[Process]:
    """The containers made of our own image."""
    return [
        Process(
            name,
            _bare([*service.get("entrypoint", entrypoint()), *service["command"]]),
            service["environment"],
            [service["healthcheck"]["test"][1:]] if "healthcheck" in service else [],
        )
        for name, service in COMPOSE["services"].items()
        if service["image"] == "pushq"
    ]


def procfile_processes() -> list[Process]:
    processes = []
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, rest = line.partition(": ")
        words = shlex.split(rest)
        settings = [word for word in words if re.match(r"[A-Z_]+=", word)]
        processes.append(Process(name, words[len(settings) :], dict(s.split("=", 1) for s in settings)))
    return processes


def unit_processes(roles: tuple[str, ...]) -> list[Process]:
    """The services; the template once for each role, as its instance of that name."""
    processes = []
    for path in sorted(UNITS.glob("*.service")):
        for instance in roles if path.stem.endswith("@") else ("",):
            service = unit(path)["Service"]
            environment = dict(
                word.split("=", 1)
                for line in [*_drop_in()["Service"]["Environment"], *service.get("Environment", [])]
                for word in shlex.split(line.replace("%i", instance))
            )
            (line,) = service["ExecStart"]
            words = [re.sub(r"\$\{(\w+)\}", lambda m: environment[m[1]], word) for word in shlex.split(line)]  # noqa: B023
            assert words[0].startswith(PREFIX)
            environment.pop("ROLE", None)
            environment |= env_file(UNITS / "pushq.env")
            own = UNITS / f"{path.stem.removeprefix('pushq-').replace('@', '-')}{instance}.env"
            environment |= env_file(own) if own.exists() else {}
            words[0] = words[0].removeprefix(PREFIX)
            processes.append(Process(f"{path.stem}{instance}", words, environment))
    return processes


def env_file(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("#"))


def _drop_in() -> dict[str, dict[str, list[str]]]:
    (path,) = (UNITS / "pushq-.service.d").glob("*.conf")
    return unit(path)


def unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Sections of a unit file; systemd's keys may come more than once."""
    sections: dict[str, dict[str, list[str]]] = {}
    current: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            current = sections.setdefault(line.strip("[]"), {})
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            current.setdefault(key, []).append(value)
    return sections


def manifests(overlay: str, folder: Path) -> list[dict[str, Any]]:
    """What ``kubectl apply -k`` of this folder of deploy/kubernetes would apply, built by kubectl itself in a copy below ``folder``."""
    copy = folder / "kubernetes"
    if not copy.exists():
        shutil.copytree(KUBERNETES, copy)
        if _kustomize_is_old():
            for path in copy.glob("overlays/*/kustomization.yaml"):
                path.write_text(
                    path.read_text().replace("resources:\n  - ../../base", "bases: [../../base]\nresources:")
                )
    built = subprocess.run(
        [find_kubectl(), "kustomize", copy / overlay],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
    )
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]


def _kustomize_is_old() -> bool:
    """Whether kubectl is older than 1.21, as in Debian 12: its Kustomize wants folders among ``bases``."""
    version = subprocess.run(
        [find_kubectl(), "version", "--client", "--output", "json"],
        capture_output=True,
        timeout=60,
        check=True,
    )
    return int(re.sub(r"\D", "", yaml.safe_load(version.stdout)["clientVersion"]["minor"])) < 21


def manifest_processes(documents: list[dict[str, Any]]) -> list[Process]:
    """The Deployments and Jobs among ``documents``."""
    settings = next(d["data"] for d in documents if d["kind"] == "ConfigMap")
    processes = []
    for document in documents:
        if document["kind"] not in {"Deployment", "Job"}:
            continue
        (container,) = document["spec"]["template"]["spec"]["containers"]
        environment = dict(settings) if "envFrom" in container else {}
        environment |= {entry["name"]: entry["value"] for entry in container.get("env", ())}
        probes = {
            tuple(probe["exec"]["command"]) for key, probe in container.items() if key.endswith("Probe")
        }
        processes.append(
            Process(
                document["metadata"]["name"],
                _bare([*entrypoint(), *container["args"]]),
                environment,
                [list(command) for command in sorted(probes)],
            )
        )
    return processes


def _bare(words: list[str]) -> list[str]:
    assert words[:2] == INIT
    return words[2:]
