"""Which maps of a student follow which of a teacher: named, or found by stage.

Networks say what maps they have in `maps`: {name: (width, stride)}, in their order; ours say in `stages` which of them
end a stage.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby


def pair_maps(
    student, teacher, student_names: Sequence[str] = (), teacher_names: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the student's maps, and those of the teacher's that guide them.

    Without names the teacher's are the ends of its stages, and the student's are spread over its blocks, see `spread`.
    ValueError for names that a network does not have, or that do not make pairs.
    """
    theirs = named(teacher, teacher_names, "--guide_teacher") or stages(teacher)
    own = named(student, student_names, "--guide_student") or spread(student, len(theirs))
    if len(own) != len(theirs):
        raise ValueError(
            f"{len(own)} maps of the student ({', '.join(own)}) and {len(theirs)} of the teacher ({', '.join(theirs)}) "
            "do not make pairs: name as many with --guide_student as with --guide_teacher"
        )
    return own, theirs


def spread(network, count: int) -> tuple[str, ...]:
    """`count` maps from the first block to the last; where a stage begins at one, the end of the stage before.

    For three this gives the published blocks of all eight configurations (0, 6, 11 of DeiT, PiT and ConViT; 0, 3, 6 and
    0, 7, 13 of T2T-ViT; 0, 3, 7 of PVT and PVTv2), but of CvT, 0, 6, 11 of 13 blocks, where the last one is taken.
    """
    split = by_stage(network)
    names = [name for stage in split for name in stage]
    begins = accumulate((len(stage) for stage in split), initial=0)
    begins = {
        begin for begin, stage in zip(begins, split, strict=False) if begin and len(stage) > 1
    }
    last = len(names) - 1
    places = (
        [min(last, place * len(names) // (count - 1)) for place in range(count)]
        if count > 1
        else [last]
    )
    return tuple(names[place - (place in begins)] for place in places)


def stages(network) -> tuple[str, ...]:
    """The last map of each stage."""
    return tuple(stage[-1] for stage in by_stage(network))


def by_stage(network) -> list[tuple[str, ...]]:
    """The names of all maps, stage by stage. ValueError for a network without maps.

    Where a network has no `stages` of names (timm's), a stage is what has one stride, and what comes before stride 4 is
    the stem.
    """
    maps = getattr(network, "maps", None)
    if not maps:
        raise ValueError(f"{type(network).__name__} gives no feature maps, which guidance needs")
    ends = getattr(network, "stages", None)
    if isinstance(ends, tuple):
        numbers = accumulate((name in ends for name in maps), initial=0)
        groups = groupby(zip(numbers, maps, strict=False), key=lambda pair: pair[0])
        return [tuple(name for _, name in group) for _, group in groups]
    least = min(4, max(found.stride for found in maps.values()))
    body = [name for name, found in maps.items() if found.stride >= least]
    return [tuple(group) for _, group in groupby(body, key=lambda name: maps[name].stride)]


def named(network, names: Sequence[str], flag: str) -> tuple[str, ...]:
    """The names, each of a map of this network, else ValueError."""
    for name in names:
        if name not in (getattr(network, "maps", None) or {}):
            known = ", ".join(getattr(network, "maps", None) or ()) or "none"
            raise ValueError(
                f"{flag} {name}: {type(network).__name__} has no map of this name; it has {known}"
            )
    return tuple(names)
