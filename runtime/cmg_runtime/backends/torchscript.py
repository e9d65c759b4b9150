"""The ``torchscript`` backend: a saved graph that needs torch but none of this package's network code."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import torch

from cmg_runtime.backends.torch import TorchBackend
from cmg_runtime.errors import BackendUnavailable, first_line
from cmg_runtime.folder.manifest import Artifact, Manifest, read_verified


class TorchScriptBackend(TorchBackend):
    """See :class:`cmg_runtime.backends.Backend`."""

    @classmethod
    def load(
        cls, folder: Path, artifact: Artifact, manifest: Manifest, num_envs: int, device: torch.device
    ) -> TorchScriptBackend:
        content = read_verified(folder, artifact)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript's own; the artifact exists already
                network = torch.jit.load(io.BytesIO(content), map_location=device)
        except RuntimeError as error:  # saved by a torch that writes what this one does not read
            saved_by = artifact.tools.get("torch", "another version")
            raise BackendUnavailable(
                f"torch {torch.__version__} cannot load {artifact.file}, saved by {saved_by} ({first_line(error)}); "
                "export it with this torch or choose another backend"
            ) from None
        return cls(network.eval(), device)
