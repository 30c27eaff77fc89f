"""The process that parses and builds: `python -m qvggt.engines.build_worker`, started by `qvggt.engines.trt_build`.

A process of its own because TensorRT's parser can crash on foreign graphs, keeps one logger for the whole process, and
gives its memory back only with the process. It reads one JSON request line on stdin and answers with one JSON object a
line on what was stdout; it ends when its parent closes stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from qvggt.engines.compatibility import too_old

Send = Callable[..., None]

WARNINGS = 20  # kept of a build; there are thousands with some networks
MESSAGE = 2000  # characters kept of one
TICK = 0.5  # seconds


class Refused(Exception):
    """The builder said no: `stage` is load, version, parse, profile or build; `reasons` are its words, worst first."""

    def __init__(self, stage: str, reasons: list[dict[str, str]]) -> None:
        super().__init__(stage)
        self.stage, self.reasons = stage, reasons


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever native code prints must not end up between the answers
    with open(0, "rb", buffering=0, closefd=False) as stream:  # unbuffered: `_follow_parent` reads on
        request = json.loads(stream.readline())
    lock = threading.Lock()

    def send(kind: str, **values: Any) -> None:
        with lock:
            answers.write(json.dumps({"kind": kind, **values}) + "\n")

    threading.Thread(target=_follow_parent, daemon=True).start()
    threading.Thread(target=_tick, args=(send,), daemon=True).start()
    try:
        send("done", **build(request, send))
    except Refused as refused:
        send("refused", stage=refused.stage, reasons=refused.reasons)
    except Exception as error:  # whatever a binding raises: the parent names the file
        send("refused", stage="build", reasons=[{"text": f"{type(error).__name__}: {error}"[:MESSAGE]}])
    answers.flush()
    os._exit(0)  # past destructors of half-built native objects, which may crash


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def _tick(send: Send) -> None:
    """Report the processor time used: the build lets Python run beside it."""
    while True:
        time.sleep(TICK)
        send("tick", cpu=time.process_time())


def build(request: dict[str, Any], send: Send) -> dict[str, Any]:
    """Build request["onnx"] into request["engine"], the layer table into request["table"]; returns what was measured.

    request: backend and its module ("tensorrt_rtx" or "tensorrt"), onnx, engine, table: paths; profiles: each input
    name -> [min, opt, max]; capabilities: names such as "SM89", empty for the default; level, workspace (bytes),
    timings (path to read, path to write): None for the builder's own; flags: names of BuilderFlag.
    """
    try:
        trt: Any = importlib.import_module(request["module"])
    except ImportError as error:
        raise Refused("load", [{"text": str(error)[:MESSAGE]}]) from error
    if reason := too_old(request["backend"], str(getattr(trt, "__version__", ""))):
        raise Refused("version", [{"text": reason}])
    with open(request["table"], "w", encoding="utf-8") as table:
        logger = _logger(trt, table, send)
        builder = trt.Builder(logger)
        flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if flags is None else 1 << int(flags))
        parser = trt.OnnxParser(network, logger)  # builder and network must outlive it
        if not parser.parse_from_file(request["onnx"]):
            raise Refused("parse", [_parser_error(parser.get_error(i)) for i in range(parser.num_errors)])
        send("network", layers=network.num_layers, cpu=time.process_time())
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        _set_capabilities(trt, config, request["capabilities"])
        for profile in request["profiles"]:
            _add_profile(builder, config, profile)
        timings = _set_options(trt, config, request, logger)
        if not _write_engine(trt, builder, network, config, request["engine"]):
            # without a GPU a failed build also complains of the driver, which is not why it failed
            errors = sorted(logger.errors, key=lambda text: "CUDA driver version is insufficient" in text)
            raise Refused("build", [{"text": text} for text in errors])
        if timings is not None:
            with open(request["timings"][1], "wb") as file:
                file.write(timings.serialize())
        _inspect(trt, logger, request, table)
    measured = {"layers": network.num_layers, "peak_bytes": _peak_bytes(), "warnings": logger.warnings}
    return {"version": str(trt.__version__), **measured, **logger.memory}


def _logger(trt: Any, table: Any, send: Send) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps errors, warnings and memory figures, writes layer tables to `table`, reports the node being parsed."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.memory: dict[str, int] = {}

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message[:MESSAGE])
            elif severity == trt.ILogger.Severity.WARNING:
                if len(self.warnings) < WARNINGS and message[:MESSAGE] not in self.warnings:
                    self.warnings.append(message[:MESSAGE])
            elif message.startswith("Layers:"):
                table.write(message + "\n")
            elif message.startswith("Parsing node: "):
                send("node", name=message.removeprefix("Parsing node: ")[:MESSAGE])
            else:
                for key, start in (("weight_bytes", "Total Weights"), ("activation_bytes", "Total Activation")):
                    if message.startswith(f"{start} Memory: "):
                        size = int(message.split(": ")[1].split()[0])  # told of every profile
                        self.memory[key] = max(size, self.memory.get(key, 0))

    return Logger()


def _parser_error(error: Any) -> dict[str, str]:
    return {"text": str(error.desc())[:MESSAGE], "node": str(error.node_name()), "operator": str(error.node_operator())}


def _set_capabilities(trt: Any, config: Any, names: list[str]) -> None:
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")] if names else []
    shown = {name: f"{name[2:-1]}.{name[-1]}" for name in (*names, *known)}
    for name in names:
        if name not in known:
            text = f"--cc {shown[name]}: this builder knows {', '.join(shown[other] for other in known)}"
            raise Refused("profile", [{"text": text}])
    if names:
        config.num_compute_capabilities = len(names)
        for i, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), i)


def _set_options(trt: Any, config: Any, request: dict[str, Any], logger: Any) -> Any:
    """Returns the timing cache the build fills, None without one."""
    feature = getattr(getattr(trt, "PreviewFeature", None), "RUNTIME_ACTIVATION_RESIZE_10_10", None)
    if feature is not None:  # contexts then need the scratch memory of their shapes, not of the profile's largest
        config.set_preview_feature(feature, True)
    if request["level"] is not None:
        config.builder_optimization_level = request["level"]
    if request["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace"])
    for name in request["flags"]:
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise Refused("profile", [{"text": f"--{name.lower().replace('_', '-')}: this builder has it not"}])
        config.set_flag(flag)
    if request["timings"] is None:
        return None
    path = request["timings"][0]
    kept = b""
    if os.path.exists(path):
        with open(path, "rb") as file:
            kept = file.read()
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):  # of another version or GPU, or damaged
        logger.warnings.append(f"{path}: is not a timing cache of this builder and GPU; it is made anew")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _add_profile(builder: Any, config: Any, shapes: dict[str, list[list[int]]]) -> None:
    profile = builder.create_optimization_profile()
    for name, (low, opt, high) in shapes.items():
        profile.set_shape(name, low, opt, high)
    if config.add_optimization_profile(profile) < 0:
        raise Refused("profile", [{"text": f"frame counts refused for inputs {', '.join(shapes)}"}])


def _write_engine(trt: Any, builder: Any, network: Any, config: Any, path: str) -> bool:
    with open(path, "wb") as file:
        if not hasattr(builder, "build_serialized_network_to_stream"):
            engine = builder.build_serialized_network(network, config)
            if engine is None:
                return False
            file.write(engine)
            return True

        class Writer(trt.IStreamWriter):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IStreamWriter.__init__(self)

            def write(self, data: bytes) -> int:
                return file.write(data)

        return bool(builder.build_serialized_network_to_stream(network, config, Writer())) and file.tell() > 0


def _inspect(trt: Any, logger: Any, request: dict[str, Any], table: Any) -> None:
    """TensorRT prints no table in RTX's form: ask the engine itself where there is a GPU to open it on."""
    if table.tell() > 0 or request["module"] != "tensorrt":
        return
    with open(request["engine"], "rb") as file:
        engine = trt.Runtime(logger).deserialize_cuda_engine(file.read())
    if engine is not None:
        table.write(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _peak_bytes() -> int | None:
    """Largest resident size of this process, None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()
