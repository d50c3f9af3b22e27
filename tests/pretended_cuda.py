"""A pretended GPU: tensors of the CPU are real, those of CUDA have a shape and a type and no storage.

    python tests/pretended_cuda.py [CASE ...]   # a JSON object: what a step of each case sends to a GPU and asks of it

In a process of its own, because much of torch is replaced. Launches are operations that are no views, lists of tensors
by the dozen as torch works on them; what a kernel costs, and which of the fused attentions it is, is not known here.
"""

import ctypes
import importlib.metadata
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# All that a torch built for CUDA asks of the runtime in a step: how many devices there are, and for their streams
DRIVER = """
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaGetLastError(void) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaEventCreateWithFlags(void **event, unsigned flags) { *event = 0; return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventRecordWithFlags(void *event, void *stream, unsigned flags) { return 0; }
int cudaEventQuery(void *event) { return 0; }
int cudaEventDestroy(void *event) { return 0; }
int cudaEventSynchronize(void *event) { return 0; }
int cudaEventElapsedTime(float *ms, void *start, void *end) { *ms = 0; return 0; }
int cudaStreamWaitEvent(void *stream, void *event, unsigned flags) { return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = *active = 0; return 0; }
"""


def needs_driver() -> bool:
    files = importlib.metadata.files("torch") or []
    return any(file.name == "libtorch_cuda.so" for file in files)


def pretend_driver() -> None:
    """In place of one that there may be, before torch is imported; a torch built for CPUs asks for none."""
    assert "torch" not in sys.modules
    if needs_driver():
        with tempfile.TemporaryDirectory() as folder:
            library = f"{folder}/libcuda.so.1"
            compiler = f"cc -x c -shared -fPIC -Wl,-soname,libcuda.so.1 -o {library} -"
            subprocess.run(compiler.split(), input=DRIVER, text=True, check=True)
            ctypes.CDLL(library, ctypes.RTLD_GLOBAL)


if __name__ == "__main__":
    pretend_driver()

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor  # noqa: E402
from torch._C._distributed_c10d import _create_work_from_future  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves, tree_map_only  # noqa: E402

aten: Any = torch.ops.aten
ATTENTION = torch.nn.functional.scaled_dot_product_attention
COPIES = (aten._to_copy.default, aten.copy_.default)
# They make or describe a tensor and leave the GPU alone, as views do
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "device"),
    *("detach", "_unsafe_view", "lift_fresh", "alias", "set_", "resize_", "is_same_size"),
}
LOOPS = {"linalg_qr", "linalg_householder_product"}  # over the matrices of a batch (pytorch#143281)
WAITS = {"_linalg_svd", "_linalg_eigh", "linalg_pinv"}  # to hear whether they have converged
# What torch itself does not know without storage, and what it returns
UNKNOWN = {
    aten._fused_sgd_.default: lambda *_, **__: None,
    aten.batch_norm_stats.default: lambda x, _: of_channels(x, 2),
    aten.batch_norm_gather_stats_with_counts.default: lambda x, *_: of_channels(x, 2),
    aten.batch_norm_elemt.default: lambda x, *_: torch.empty_like(x),
    aten.batch_norm_backward_reduce.default: lambda _, x, *__: of_channels(x, 4),
    aten.batch_norm_backward_elemt.default: lambda _, x, *__: torch.empty_like(x),
}
# How many lists' tensors one launch takes, by the number of lists: depth_to_max_tensors of MultiTensorApply.cuh
FOREACH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}


class Shapes(FakeTensorMode):
    """That a tensor of it may be copied with its module, as the teacher is."""

    def __deepcopy__(self, memo: dict) -> "Shapes":
        return self


class PretendedGpu(TorchDispatchMode):
    """What happens on the GPU and between it and the CPU, each a Counter of places (file:line of this project).

    A pinned copy does not wait; a pageable one to the GPU, one back, and a read of a number do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes = Shapes()
        self.launches: Counter[str] = Counter()
        self.kernels: Counter[str] = Counter()  # the launches by the name of the operation
        self.bytes: Counter[str] = (
            Counter()
        )  # that their operations read and write, each tensor once
        self.pinned: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()
        self.back: Counter[str] = Counter()
        self.reads: Counter[str] = Counter()
        self.collectives: Counter[str] = Counter()
        self._in_pinned_memory: dict[int, Tensor] = {}  # kept, so that no id comes twice

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        device = kwargs.get("device")
        sent = device is not None and torch.device(device).type == "cuda"
        if not sent and not any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return func(*args, **kwargs)
        if (
            func.namespace == "c10d"
        ):  # of torch's fake process group, where a collective does nothing
            self.collectives[place()] += 1
            alone = isinstance(args[0], Tensor)
            return args[0], ended([args[0]] if alone else args[0])
        if func is aten._local_scalar_dense.default:
            self.reads[place()] += 1
            return args[0].dtype == torch.bool  # what is checked holds, numbers are 0
        real = [t for t in tensors if t.ndim and not isinstance(t, FakeTensor)]
        if real and func not in COPIES:
            raise RuntimeError(f"{func} at {place()} mixes tensors of the CPU and of CUDA")
        fake_args, fake_kwargs = args, kwargs
        if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            fake_args, fake_kwargs = tree_map_only(Tensor, self._fake, (args, kwargs))
        with self.shapes:  # raises where a shape follows from what is on the device
            out = UNKNOWN.get(func, func)(*fake_args, **fake_kwargs)
        if func in COPIES and len({t.device.type for t in (*tensors, out)}) > 1:
            return self._copied(tensors, out)
        name = func._schema.name.removeprefix("aten::")
        count = launches(func, name, args)
        if count:
            self.launches[place()] += count
            self.kernels[name] += count
            self.bytes[place()] += moved(tensors) + moved(tree_leaves(out))
        if name in WAITS:
            self.reads[place()] += 1
        return out

    def pin(self, tensor: Tensor, *_: Any) -> Tensor:
        """What stands for Tensor.pin_memory."""
        twin = tensor.detach().clone()
        self._in_pinned_memory[id(twin)] = twin
        return twin

    def _fake(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.shapes.from_tensor(tensor)

    def _copied(self, tensors: list[Tensor], out: Tensor) -> Tensor:
        source = tensors[-1]
        if isinstance(source, FakeTensor):
            self.back[place()] += 1
            return torch.zeros(out.shape, dtype=out.dtype)
        kind = self.pinned if id(source) in self._in_pinned_memory else self.pageable
        kind[place()] += 1
        return out


def of_channels(images: Tensor, count: int) -> tuple[Tensor, ...]:
    """So many statistics of images (B, C, ...)."""
    return tuple(
        torch.empty(images.shape[1], device=images.device, dtype=torch.float32)
        for _ in range(count)
    )


def ended(tensors: list[Tensor]) -> Any:
    """What a collective on these tensors is waited for with."""
    result: Any = torch.futures.Future()
    result.set_result(tensors)
    return _create_work_from_future(result).boxed()


def moved(tensors: list) -> int:
    """The bytes of some tensors, those of one that repeats its storage once; of several that are one, once."""
    seen = {id(tensor): tensor for tensor in tensors if isinstance(tensor, FakeTensor)}
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in seen.values())


def launches(func: Any, name: str, args: tuple) -> int:
    """At least so many kernels; a list of tensors goes one by one where a list beside it has other shapes."""
    if func.is_view or name in NO_KERNEL or func.namespace == "prim":
        return 0
    if name.startswith(("_foreach", "_fused")):
        lists = [each for each in args if isinstance(each, (list, tuple)) and each]
        lists = [each for each in lists if isinstance(each[0], Tensor)]
        shapes = [[tensor.shape for tensor in each] for each in lists]
        if name.startswith("_foreach") and any(each != shapes[0] for each in shapes):
            return len(lists[0])
        return -(-len(lists[0]) // FOREACH[len(lists)])
    return args[0].shape[:-2].numel() if name in LOOPS else 1


def place() -> str:
    """The innermost line of the project that is under way."""
    frame = sys._getframe()
    while frame is not None:
        file = file_of_project(frame.f_code.co_filename)
        if file:
            return f"{file}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


@cache
def file_of_project(name: str) -> str | None:
    """Its path from the root; None of another file, or of one of the tests."""
    path = Path(name)
    is_ours = path.is_relative_to(ROOT) and not path.is_relative_to(TESTS)
    return str(path.relative_to(ROOT)) if is_ours else None


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **more: Any):
    """Fused, on whatever wheel: without a GPU torch would take it apart."""
    if not isinstance(q, FakeTensor):
        return ATTENTION(q, k, v, attn_mask, **more)
    dropout = more.pop("dropout_p", 0.0)
    out, *_ = aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, True, dropout, **more
    )
    return out


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """`with pretended_gpu() as gpu:` whatever runs on torch.device("cuda", 0) is counted."""
    gpu = PretendedGpu()

    def sent(make: Callable) -> Callable:
        return lambda *a, device=None, **k: make(*a, **k).to(device or "cpu")

    def nothing(*_: Any, **__: Any) -> None:
        return None

    replaced = {
        "torch.tensor": sent(torch.tensor),  # with a device they go past every mode
        "torch.as_tensor": sent(torch.as_tensor),
        "torch.Tensor.pin_memory": gpu.pin,
        "torch.nn.functional.scaled_dot_product_attention": attention,
        "torch.cuda._lazy_init": nothing,
        "torch.cuda.set_device": nothing,
        "torch.cuda.manual_seed_all": nothing,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.mem_get_info": lambda *_: (80 << 30, 80 << 30),
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.utils.swap_tensors": nothing,  # of a module that is there already
        "torch._C._select_conv_backend": lambda *_, **__: torch._C._ConvBackend.Cudnn,
        "torch._C._conv_determine_backend_memory_format": lambda *_: torch.contiguous_format,
    }
    # A function in place of a method would not be told of the tensor
    method = replaced["torch.Tensor.pin_memory"]
    replaced["torch.Tensor.pin_memory"] = lambda tensor, *_: method(tensor)
    with ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(gpu)
        yield gpu


# The cases

SMALL = {"embed_dim": 24, "num_layers": 2, "num_heads": 2}
STAGE_ONE = {  # what each takes beside test_device.ONE
    "vit": SMALL,
    "vit, fp16, sgd": {**SMALL, "optimizer": "sgd", "precision": "fp16"},
    "vit, fp16, lars": {**SMALL, "optimizer": "lars", "precision": "fp16"},
    "swin": {"arch": "swin", "embed_dim": 24, "num_heads": 2},
    "cait": {"arch": "cait", **SMALL},
    "cct": {"arch": "compact:cct_2_3x2"},
    "resnet": {"arch": "resnet8"},
    "vit, two ranks": SMALL,
    "resnet, two ranks": {"arch": "resnet8"},
    "manifold": {"arch": "manifold_cvt_2_4_32"},
    "grassmann": {"arch": "grassmanian_vit_2_4_32"},
}
PUBLISHED = {  # for docs/speed.md: networks as published, 2 + 8 crops of 32 px, batches of 256; minutes of counting
    "published vit": {"arch": "vit"},
    "published swin": {"arch": "swin"},
    "published cait": {"arch": "cait"},
    "published cct": {"arch": "compact:cct_7_3x1_32"},
    "published resnet": {"arch": "resnet56"},
}
PROBES = {"k-NN probe": (2000, 1000), "k-NN probe in parts": (4000, 1000)}  # training, test images
CASES = (*STAGE_ONE, *PROBES, "stage two", "stored maps", "evaluation", "check of the losses")


def function_of(case: str, cuda: torch.device) -> Callable[[int], Any]:
    """What is counted, a function of the step's number."""
    import test_device
    from conftest import recipe
    from test_map_transform import maps, shifted

    from multicrop.augment.evaluation import EvalTransform
    from multicrop.config.pretrain import Recipe
    from multicrop.engine.guard import Guard

    if case in STAGE_ONE:
        flags = {**test_device.ONE, "accumulate": 1, **STAGE_ONE[case]}
        return test_device.whole_step("one", cuda, recipe(Recipe, **flags))
    if case in PUBLISHED:
        settings = recipe(Recipe, image_size=32, compile=False, **PUBLISHED[case])
        return test_device.whole_step("one", cuda, settings, batch=256)
    if case in PROBES:
        return probe(*PROBES[case], cuda, "in parts" in case)
    if case == "stage two":
        return test_device.whole_step("two", cuda)
    if case == "stored maps":
        found = maps(2, 3, 4, 4).to(cuda)
        return lambda step: shifted(found, [[1, 7], [2, 3]], [False, True])
    if case == "evaluation":
        images, rgb = test_device.PIXELS.to(cuda), test_device.RGB
        transform = EvalTransform(32, rgb, rgb, crop_pct=0.875)
        return lambda step: transform(images)
    guard, loss = Guard(), torch.ones((), device=cuda)

    def check(step: int) -> None:
        guard.add(step, loss)
        guard.check(asked=False)

    return check


def probe(train: int, test: int, cuda: torch.device, in_parts: bool) -> Callable[[int], Any]:
    """The online k-NN of stage one, with `vit` as above; in parts: of 250 test images and 1,500 training images."""
    import test_device
    from conftest import recipe

    from multicrop.commands import _student
    from multicrop.commands._data import ProbeImages
    from multicrop.commands._monitor import online_knn
    from multicrop.config.pretrain import Recipe
    from multicrop.datasets._images import ImageSet
    from multicrop.probes import knn

    def images(count: int) -> ImageSet:
        pixels = test_device.PIXELS.repeat(-(-count // 64), 1, 1, 1)[:count]
        return ImageSet(
            pixels, torch.arange(count) % 10, tuple("abcdefghij"), *[test_device.RGB] * 2
        )

    settings = recipe(Recipe, **{**test_device.ONE, **SMALL})
    teacher = _student.build(settings, 3, cuda).teacher.backbone
    sets = ProbeImages(images(train), images(test))
    sizes = {"_SIMILARITIES": 1500 * 250, "_BLOCK": 1500} if in_parts else {}

    def measure(step: int) -> float:
        with mock.patch.multiple(knn, **sizes) if sizes else nullcontext():
            return online_knn(teacher, sets, settings, cuda, torch.bfloat16)

    return measure


@contextmanager
def pretended_ranks(count: int) -> Iterator[None]:
    """This process as the first of so many ranks, whose others do what it does."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    compared = "torch.nn.parallel.distributed._verify_param_shape_across_processes"
    try:
        with mock.patch(compared, lambda *_: True):  # with what no other rank has sent
            yield
    finally:
        dist.destroy_process_group()


def counts(case: str, gpu: PretendedGpu) -> dict[str, dict[str, int]]:
    """What the last of a few steps does: the Counters of PretendedGpu by their names."""
    several = case.endswith("two ranks")
    with pretended_ranks(2) if several else nullcontext():
        step = function_of(case, torch.device("cuda", 0))
        last = (
            1 + several
        )  # constants are sent once and kept; several ranks arrange their gradients after a step
        for number in range(last):
            step(number)
        counters = {name: each for name, each in vars(gpu).items() if isinstance(each, Counter)}
        for counter in counters.values():
            counter.clear()
        step(last)
    return {name: dict(counter.most_common()) for name, counter in counters.items()}


def main() -> None:
    sys.path[:0] = [str(ROOT), str(TESTS)]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # deepcopy does
    with pretended_gpu() as gpu:
        print(json.dumps({case: counts(case, gpu) for case in sys.argv[1:] or CASES}))


if __name__ == "__main__":
    main()
