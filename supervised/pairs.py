"""Which maps of a student follow which of a teacher: named, or chosen by stage.

Networks say what maps they have in `maps`: {name: (width, stride)}, in their order; ours say in `stages` which of them
end a stage. A network here is anything that says so: a backbone, or a folder of stored maps.
"""

from collections.abc import Mapping, Sequence

from .backbone import MapSize


def pair_maps(
    student: object,
    teacher: object,
    student_names: Sequence[str] = (),
    teacher_names: Sequence[str] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the student's maps, and those of the teacher's that guide them.

    Without names the teacher's are the ends of its stages, and the student's are spread over its blocks, see `spread`.
    ValueError for names that a network does not have, or that do not make pairs.
    """
    check_map_names(teacher, teacher_names, "--guide_teacher")
    guides = tuple(teacher_names) or stage_ends(teacher)
    check_map_names(student, student_names, "--guide_student")
    guided = tuple(student_names) or spread(student, len(guides))
    if len(guided) != len(guides):
        raise ValueError(
            f"{len(guided)} maps of the student ({', '.join(guided)}) and {len(guides)} of the teacher "
            f"({', '.join(guides)}) do not make pairs: name as many with --guide_student as with --guide_teacher"
        )
    return guided, guides


def spread(network: object, count: int) -> tuple[str, ...]:
    """`count` maps from the first block to the last; where a stage begins at one, the end of the stage before.

    For three this gives the published blocks of all eight configurations (0, 6, 11 of DeiT, PiT and ConViT; 0, 3, 6 and
    0, 7, 13 of T2T-ViT; 0, 3, 7 of PVT and PVTv2), but of CvT, 0, 6, 11 of 13 blocks, where the last one is taken.
    """
    names: list[str] = []
    stage_starts = set()  # of all but the first stage, and of those that have several maps
    for stage in maps_by_stage(network):
        if names and len(stage) > 1:
            stage_starts.add(len(names))
        names += stage
    last = len(names) - 1
    if count == 1:
        return (names[last],)
    spread_names = []
    for place in range(count):
        index = min(last, place * len(names) // (count - 1))
        if index in stage_starts:
            index -= 1
        spread_names.append(names[index])
    return tuple(spread_names)


def stage_ends(network: object) -> tuple[str, ...]:
    """The last map of each stage."""
    return tuple(stage[-1] for stage in maps_by_stage(network))


def maps_by_stage(network: object) -> list[list[str]]:
    """The names of all maps, stage by stage. ValueError for a network without maps.

    Where a network has no `stages` of names (timm's), a stage is what has one stride, and what comes before stride 4 is
    the stem.
    """
    maps = _maps(network)
    if not maps:
        raise ValueError(f"{type(network).__name__} gives no feature maps, which guidance needs")
    ends = getattr(network, "stages", None)
    if isinstance(ends, tuple):
        return _split_at_ends(maps, ends)
    return _split_by_stride(maps)


def _split_at_ends(maps: Mapping[str, MapSize], ends: tuple[str, ...]) -> list[list[str]]:
    stages: list[list[str]] = [[]]
    for name in maps:
        stages[-1].append(name)
        if name in ends:
            stages.append([])
    return [stage for stage in stages if stage]


def _split_by_stride(maps: Mapping[str, MapSize]) -> list[list[str]]:
    body_stride = min(4, max(size.stride for size in maps.values()))
    stages: list[list[str]] = []
    stride = None
    for name, size in maps.items():
        if size.stride < body_stride:
            continue
        if size.stride != stride:
            stages.append([])
            stride = size.stride
        stages[-1].append(name)
    return stages


def check_map_names(network: object, names: Sequence[str], flag: str) -> None:
    """ValueError unless each is the name of a map of this network."""
    maps = _maps(network)
    for name in names:
        if name not in maps:
            known_names = ", ".join(maps) or "none"
            raise ValueError(
                f"{flag} {name}: {type(network).__name__} has no map of this name; it has {known_names}"
            )


def _maps(network: object) -> Mapping[str, MapSize]:
    """The sizes of a network's maps by name; empty for a network that does not say."""
    return getattr(network, "maps", None) or {}
