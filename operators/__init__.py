"""Taxiway: one package for each stage of a model's life, and here the names that a DAG file imports.

``from operators import SubmitRayJobOperator, ValidateOperator``

A name is imported from its module when it is first asked for. So ``import operators`` costs nothing, and does not import
Airflow: the Ray cluster and the provider's description import packages below this one.
"""

# ruff: noqa: I001 - isort would give each name of the block at the end a statement of its own
from __future__ import annotations

from typing import TYPE_CHECKING

_NAMES_OF = {
    "compute.cluster.operators": (
        "CreateKubeRayClusterOperator",
        "DeleteKubeRayClusterOperator",
        "StartLocalRayOperator",
        "StopLocalRayOperator",
    ),
    "compute.cluster.policy": ("KubeRayCluster",),
    "compute.decorators": ("ray_task",),
    "compute.errors": ("FinalRayJobError", "RayJobError", "RayJobFailedError", "TransientRayJobError"),
    "compute.hook": ("RayHook",),
    "compute.module_job": ("RayModuleOperator",),
    "compute.operators": ("SubmitRayJobOperator",),
    "compute.retries": ("JOB_RETRIES",),
    "compute.triggers": ("RayJobTrigger",),
    "core.errors": (
        "ConfigurationError",
        "RejectedError",
        "ServiceError",
        "ServiceRefusedError",
        "SpecError",
        "TaxiwayError",
    ),
    "core.loader": ("load_spec", "load_specs"),
    "drills.operators": (
        "ClaimDrillOperator",
        "CleanUpDrillOperator",
        "DrillOperator",
        "PrepareDrillOperator",
        "RemoveDrillCopiesOperator",
    ),
    "gates.operators": ("EvaluateOperator", "GateOperator"),
    "registry.assets": ("challenger_by_hand", "model_asset"),
    "registry.hook": ("MlflowHook",),
    "registry.operators": (
        "CompareVersionsOperator",
        "DeleteAliasOperator",
        "RegisterModelOperator",
        "RegisterOperator",
        "SetAliasOperator",
        "TagVersionOperator",
    ),
    "registry.sensors": ("ModelAliasSensor", "ModelVersionSensor"),
    "registry.triggers": ("ModelEventTrigger", "new_changes"),
    "rollout.approval.operators": ("ApproveOperator",),
    "rollout.notifiers": ("WebhookNotifier",),
    "rollout.operations.operators": (
        "ReconcileOperator",
        "RetireOperator",
        "ReturnToOperator",
        "ScheduleRetirementOperator",
    ),
    "rollout.operators": (
        "BeginReleaseOperator",
        "DeployOperator",
        "PromoteOperator",
        "RollBackOperator",
        "SmokeTestOperator",
    ),
    "rollout.steps.operators": ("CanaryStepOperator", "ShadowOperator", "WatchOperator"),
    "validation.gx.operators": ("ValidateBatchOperator", "ValidateCheckpointOperator"),
    "validation.operators": ("GXValidationFailed", "ValidateOperator"),
    "validation.snapshots.operators": ("SnapshotOperator", "ValidateSnapshotOperator"),
}
_MODULE_OF = {name: f"operators.{module}" for module, names in _NAMES_OF.items() for name in names}

# The same names once more, for type checkers and editors: `X as X` says that a name is public.
if TYPE_CHECKING:
    from operators.compute.cluster.operators import (
        CreateKubeRayClusterOperator as CreateKubeRayClusterOperator,
        DeleteKubeRayClusterOperator as DeleteKubeRayClusterOperator,
        StartLocalRayOperator as StartLocalRayOperator,
        StopLocalRayOperator as StopLocalRayOperator,
    )
    from operators.compute.cluster.policy import KubeRayCluster as KubeRayCluster
    from operators.compute.decorators import ray_task as ray_task
    from operators.compute.errors import (
        FinalRayJobError as FinalRayJobError,
        RayJobError as RayJobError,
        RayJobFailedError as RayJobFailedError,
        TransientRayJobError as TransientRayJobError,
    )
    from operators.compute.hook import RayHook as RayHook
    from operators.compute.module_job import RayModuleOperator as RayModuleOperator
    from operators.compute.operators import SubmitRayJobOperator as SubmitRayJobOperator
    from operators.compute.retries import JOB_RETRIES as JOB_RETRIES
    from operators.compute.triggers import RayJobTrigger as RayJobTrigger
    from operators.core.errors import (
        ConfigurationError as ConfigurationError,
        RejectedError as RejectedError,
        ServiceError as ServiceError,
        ServiceRefusedError as ServiceRefusedError,
        SpecError as SpecError,
        TaxiwayError as TaxiwayError,
    )
    from operators.core.loader import (
        load_spec as load_spec,
        load_specs as load_specs,
    )
    from operators.drills.operators import (
        ClaimDrillOperator as ClaimDrillOperator,
        CleanUpDrillOperator as CleanUpDrillOperator,
        DrillOperator as DrillOperator,
        PrepareDrillOperator as PrepareDrillOperator,
        RemoveDrillCopiesOperator as RemoveDrillCopiesOperator,
    )
    from operators.gates.operators import (
        EvaluateOperator as EvaluateOperator,
        GateOperator as GateOperator,
    )
    from operators.registry.assets import (
        challenger_by_hand as challenger_by_hand,
        model_asset as model_asset,
    )
    from operators.registry.hook import MlflowHook as MlflowHook
    from operators.registry.operators import (
        CompareVersionsOperator as CompareVersionsOperator,
        DeleteAliasOperator as DeleteAliasOperator,
        RegisterModelOperator as RegisterModelOperator,
        RegisterOperator as RegisterOperator,
        SetAliasOperator as SetAliasOperator,
        TagVersionOperator as TagVersionOperator,
    )
    from operators.registry.sensors import (
        ModelAliasSensor as ModelAliasSensor,
        ModelVersionSensor as ModelVersionSensor,
    )
    from operators.registry.triggers import (
        ModelEventTrigger as ModelEventTrigger,
        new_changes as new_changes,
    )
    from operators.rollout.approval.operators import ApproveOperator as ApproveOperator
    from operators.rollout.notifiers import WebhookNotifier as WebhookNotifier
    from operators.rollout.operations.operators import (
        ReconcileOperator as ReconcileOperator,
        RetireOperator as RetireOperator,
        ReturnToOperator as ReturnToOperator,
        ScheduleRetirementOperator as ScheduleRetirementOperator,
    )
    from operators.rollout.operators import (
        BeginReleaseOperator as BeginReleaseOperator,
        DeployOperator as DeployOperator,
        PromoteOperator as PromoteOperator,
        RollBackOperator as RollBackOperator,
        SmokeTestOperator as SmokeTestOperator,
    )
    from operators.rollout.steps.operators import (
        CanaryStepOperator as CanaryStepOperator,
        ShadowOperator as ShadowOperator,
        WatchOperator as WatchOperator,
    )
    from operators.validation.gx.operators import (
        ValidateBatchOperator as ValidateBatchOperator,
        ValidateCheckpointOperator as ValidateCheckpointOperator,
    )
    from operators.validation.operators import (
        GXValidationFailed as GXValidationFailed,
        ValidateOperator as ValidateOperator,
    )
    from operators.validation.snapshots.operators import (
        SnapshotOperator as SnapshotOperator,
        ValidateSnapshotOperator as ValidateSnapshotOperator,
    )
else:
    __all__ = list(_MODULE_OF)

    # Hidden from type checkers, which would take any other name for right.
    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        globals()[name] = value = getattr(import_module(_MODULE_OF[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE_OF})
