"""A program as a file of ONNX, by PyTorch's own exporter, and its run by ONNX Runtime."""

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INSTALL = "pip install onnx onnxscript onnxruntime, or pip install 'multicrop[export]'"
LARGEST = 2**31 - 1  # bytes of a file of ONNX, which is one message of protobuf
INPUT = "images"


def check_installed() -> None:
    """ValueError where a package is missing: for callers who would read and build a network first."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"--to onnx needs {package}, which is not installed: {INSTALL}")


def to_onnx(
    program: ExportedProgram, axes: dict[int, str], output: str, metadata: dict[str, str]
) -> bytes:
    """The content of a file of ONNX: one input `images`, one output.

    axes: names of the input's axes along which any number is taken. ValueError where ONNX has no such operation, and
    where the network is too large for one file.
    """
    size = sum(value.numel() * value.element_size() for value in program.state_dict.values())
    if size > LARGEST:
        raise ValueError(
            f"--to onnx: the weights are {size / 2**30:.1f} GiB, a file of ONNX holds 2: take --to torch"
        )
    with quiet():
        try:
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=[INPUT],
                output_names=[output],
                dynamic_shapes=(axes,),
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ValueError(_reason(error)) from error
    assert exported is not None
    exported.model.metadata_props.update(metadata)
    _name_first_pixel(exported.model.graph)
    return exported.model_proto.SerializeToString()


def _name_first_pixel(graph: Any) -> None:
    """What reads the first pixel of images of any size is called by why it fails: runtimes say the name."""
    reads = graph.inputs[0]
    for axis in range(2):
        gathers = [node for node, _ in reads.uses() if node.op_type == "Gather"]
        if not gathers:
            return
        gathers[0].name = f"images_have_no_{('rows', 'columns')[axis]}"
        reads = gathers[0].outputs[0]


def runner(content: bytes) -> Callable[[Tensor], Tensor]:
    """What ONNX Runtime makes of images, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        (output,) = session.run(None, {INPUT: images.numpy()})
        return torch.from_numpy(output)

    return run


@contextmanager
def quiet() -> Iterator[None]:
    """What the exporter says about its own next versions and about steps that it leaves out is not for our users."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: Exception) -> str:
    """One line of the exporter's report: which operation it could not write."""
    missing = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
    if missing is None:
        first = str(error).strip().partition("\n")[0]
        return f"--to onnx: PyTorch could not write this network: {first}; --to torch can"
    return f"--to onnx: this network needs {missing[1]}, for which ONNX has no operation; take --to torch"
