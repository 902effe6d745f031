"""Chooses the pool for a variant: the smallest pool of a list that can take the variant.

    pools:
      - {name: cpu, memory: 16GB}
      - {name: gpu-24, device: cuda, memory: 24GB, methods: [baseline, gptq, awq, autoround, hqq, bitsandbytes]}
      - {name: gpu-80, device: cuda, memory: 80GB, methods: [baseline, gptq, awq, autoround], job_variables: {gpu_type: h100}}

`QUANTMILL_POOLS` names the file; without it every variant runs on this machine. Each pool is a Prefect work pool of the
same name with a deployment `variant/<name>`; `quantmill bootstrap` makes both.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from quantmill.errors import RequestError
from quantmill.files.yaml_file import read_yaml
from quantmill.recipe.methods import MethodName
from quantmill.recipe.recipe import VariantSpec
from tasks import environments

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class Pool(BaseModel):
    """One work pool: the resources of its workers, and the variants that it takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The work pool's name in Prefect.")
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="The device that its engines use.")
    memory: int = Field(gt=0, description="Bytes of memory for one variant: the GPU's, or the machine's.")
    threads: int = Field(default=0, ge=0, description="Threads of an engine; 0: as many as on the planning machine.")
    processor: str = Field(
        default="",
        pattern=r"^[a-z0-9_-]*$",
        description="Class of its workers' processors, such as avx2 or avx512-bf16; empty: as on the planning machine.",
    )
    methods: tuple[MethodName, ...] = Field(default=(), description="Methods that the pool takes; empty: any.")
    environments: tuple[str, ...] = Field(default=(), description="Environments that are made on its workers.")
    queue: str = Field(default="variants", description="The work queue that variants go to.")
    slots: int = Field(
        default=0, ge=0, description="Variants at once over all its workers; 0: as many as the workers take."
    )
    type: str = Field(default="process", description="The type of worker: process, or a type of a Prefect integration.")
    template: Path | None = Field(
        default=None, description="A base job template (JSON), relative to the list; required unless type is process."
    )
    job_variables: dict[str, Any] = Field(default={}, description="Infrastructure settings: image, gpu_count, command.")

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        """Take `24GB` as well as a number."""
        if isinstance(value, str) and (found := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)):
            if found[2].upper() not in _UNITS:
                raise ValueError(f"unknown unit {found[2]}; allowed: {', '.join(_UNITS)}")
            return int(float(found[1]) * _UNITS[found[2].upper()])
        return value

    @field_validator("environments")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for name in names:
                environments.read(name)
        except RequestError as error:
            raise ValueError(str(error)) from error
        return names

    @model_validator(mode="after")
    def _has_a_template(self) -> "Pool":
        if self.type != "process" and self.template is None:
            raise ValueError(f"template: a pool of type {self.type} needs one")
        return self


class PoolList(BaseModel):
    """The content of a file of pools."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: tuple[Pool, ...] = Field(min_length=1, description="In any order; a variant goes to the smallest that fits.")

    @field_validator("pools")
    @classmethod
    def _once(cls, pools: tuple[Pool, ...]) -> tuple[Pool, ...]:
        names = [pool.name for pool in pools]
        if double := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"pool {double} is listed twice")
        return pools


def read_pools(path: Path) -> tuple[Pool, ...]:
    """Return the pools of a file.

    Raises:
        RequestError: the file cannot be read, or a field holds a value that is not allowed.
    """
    return tuple(
        pool.model_copy(update={"template": pool.template and path.absolute().parent / pool.template})
        for pool in read_yaml(path, PoolList).pools
    )


def candidates(
    spec: VariantSpec, needed_bytes: int, device: str, pools: Iterable[Pool], environment: str = ""
) -> list[Pool]:
    """Return the pools that can take a variant, best first.

    Pools that name the method come before pools for any method, smaller pools before larger ones. `device` is the recipe's
    device: `auto`, `cpu`, `cuda` or `cuda:N`. A variant that needs an `environment` goes to pools that list it.

    Raises:
        RequestError: no pool can take the variant.
    """
    wanted, known = device.partition(":")[0], list(pools)
    fitting = [
        pool
        for pool in known
        if (not pool.methods or spec.method in pool.methods)
        and pool.memory >= needed_bytes
        and (not environment or environment in pool.environments)
        and (wanted == "auto" or pool.device == wanted or (pool.device == "cpu" and wanted not in spec.maker.devices))
    ]
    if not fitting:
        sizes = ", ".join(
            f"{pool.name} ({pool.device}, {pool.memory / 1e9:.3g} GB, {', '.join(pool.methods) or 'any method'})"
            for pool in known
        )
        place = f" in the environment {environment}" if environment else ""
        raise RequestError(
            f"{spec.name}: no pool takes it: it needs about {needed_bytes / 1e9:.3g} GB on device {device}{place}; there are {sizes}"
        )
    return sorted(fitting, key=lambda pool: (not pool.methods, pool.memory, pool.name))
