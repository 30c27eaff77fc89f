"""A model by name: where its weights are, then the weights."""

from __future__ import annotations

from pathlib import Path

from qvggt.errors import QvggtError
from qvggt.hub.names import find_weights
from qvggt.models.family import ModelConfig
from qvggt.models.loading import Predicting, load_weights
from qvggt.models.network import Network
from qvggt.quant.checkpoint import is_calibrated, load_calibrated
from qvggt.quant.handle import Model
from qvggt.tensor_shards import weights_sha256


def load(source: str | Path, *, revision: str | None = None, offline: bool = False) -> Model:
    """A model by name: "tiny", "vggt-1b", a weights file or folder, a Hub id (ID:FILE where it holds several weights
    files), or a calibrated checkpoint directory.

    What trainers write ({"model": ..., "optimizer": ...}) and shards with their index are weights, too; heads that the
    file does not hold are left out, as the track head is.
    revision: Hub commit, tag or branch. offline (or HF_HUB_OFFLINE=1): the Hub cache only; without it the network is
    used for a Hub id and for nothing else. QvggtError names what is missing or damaged.
    """
    if is_calibrated(source):
        if revision is not None:
            raise QvggtError(f"{source}: is a local calibrated checkpoint, which has no revision; leave it out")
        loaded = load_calibrated(source)
        return Model(loaded.model, str(source), loaded.sha256, loaded.scheme, loaded.provenance)
    path = find_weights(source, revision=revision, offline=offline)
    return Model(load_model(path, heads="predicting", check_finite=True), str(source), weights_sha256(path))


def load_model(
    source: str | Path,
    *,
    config: ModelConfig | None = None,
    heads: tuple[str, ...] | Predicting | None = None,
    revision: str | None = None,
    offline: bool = False,
    check_finite: bool = False,
) -> Network:
    """A network on the CPU in fp32, in eval mode, without gradients.

    source: "tiny", "vggt-1b", a .safetensors/.pt/.pth file, a directory with weights, or a
    Hub id (see `find_weights`, also for `revision` and `offline`).
    config: sizes of the model. By default those in the file's metadata, else those under "qvggt_config" in a
    config.json beside it, else VGGT-1B.
    heads: the heads to build, default those of the config; "predicting": those the file holds, but the track head.
    Keys of other heads are ignored and never read.

    fp32 weights stay memory-mapped, so do not change the file in place while the model lives; fp16, bf16 and fp64
    weights are converted to fp32 on load. Either way there is one copy in memory. `check_finite` reads every weight
    once and refuses NaN and infinity. Everything else must match exactly: missing, unexpected or mis-shaped keys, a
    head that the file lacks, and damaged or unsafe files raise one QvggtError.
    """
    path = find_weights(source, revision=revision, offline=offline)
    return load_weights(path, config=config, heads=heads, check_finite=check_finite)
