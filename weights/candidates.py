"""Which network of a file is the one that a backbone wants: a search over its dictionaries and its names' prefixes.

A file may hold several state dicts (student and teacher, raw and averaged weights), and in one of them several networks
under prefixes of their own (`module.base_encoder.`, `teacher_backbone.`, a decoder). No list of programs is kept here.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch import Tensor

StateDict = dict[str, Tensor]
# Another program's names or table sizes into those of a network
Adapt = Callable[[StateDict, nn.Module], StateDict]

NETWORKS = ("teacher", "student")  # keys that a file without such a network need not have
STATE_DICTS = ("state_dict", "model_state_dict", "model_state", "model")
WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "encoder.")
HEADS = ("head.", "mlphead.", "fc.", "classifier.", "last_layer.", "head_drop.")
# Words in the names of copies that follow a network and are not what was trained
AVERAGED = {"ema", "average", "averaged", "momentum", "target", "swa", "shadow"}
DEPTH = 3  # dictionaries inside dictionaries are looked into so far
# Less than this share of a network is no fit: single layers of unlike networks may have the same names and shapes
LEAST_SHARE = 0.25

# Of an `adapt` that is given tensors of another family: timm's own are not written for that
ADAPT_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """Where in a file a network is: in which of its dictionaries, and how its names begin there."""

    dictionary: str = ""  # "state_dict", "state.model", "" for the file's own tensors
    prefix: str = ""  # "module.backbone."

    def has_part(self, key: str) -> bool:
        """Whether a part of the place is called so: `teacher` of `teacher.backbone.`"""
        return f".{key}." in f".{self.dictionary}.{self.prefix}."

    def has_word(self, key: str) -> bool:
        """Whether a part of the place has such a word: `ema` of `model_ema`."""
        return key in _words(f"{self.dictionary}.{self.prefix}")

    @property
    def averaged(self) -> bool:
        return not AVERAGED.isdisjoint(_words(f"{self.dictionary}.{self.prefix}"))

    def inside(self, other: "Place") -> bool:
        return self.dictionary == other.dictionary and self.prefix.startswith(other.prefix)

    def key_beside(self, other: "Place") -> str:
        """What tells this place from the other one, as --checkpoint_key takes it."""
        if self.dictionary != other.dictionary:
            return self.dictionary or self.prefix.removesuffix(".")
        others = other.prefix.split(".")
        parts = [part for part in self.prefix.split(".") if part and part not in others]
        return parts[0] if parts else self.prefix.removesuffix(".")


@dataclass(frozen=True)
class Choice:
    """The place that was chosen, and keys of others in the file that would fit as well."""

    place: Place
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Candidates:
    """The state dicts of a file, by the names of the dictionaries that they lie in, and the key that was asked for.

    The key is `teacher` or `student`, which a file need not have, or the name of any part of the file.
    """

    states: dict[str, StateDict]
    key: str = "teacher"
    flag: str = "--checkpoint_key"
    """What asks for the key, for messages."""

    def guess(self) -> Place:
        """The likeliest place by the names alone: the dictionary usual for networks, and all that wrappers hold."""
        first: dict[str, Place] = {}  # of each dictionary; it is before those inside it
        for place in self.named():
            first.setdefault(place.dictionary, place)
        place = min(first.values(), key=self._usual)
        return Place(place.dictionary, _unwrapped(self.states[place.dictionary], place.prefix))

    def best(self, network: nn.Module, adapt: Adapt | None) -> Choice:
        """The place under which most tensors have the names and shapes of the network's, after `adapt`.

        Of equal ones that which is trained goes before its average, then what `guess` says, then the first in the
        file. Where less than a quarter of the network fits under a prefix, names alone decide, else it is the guess.
        """
        groups = [self.named()]
        if (
            self.key == "teacher"
        ):  # by default, and a file's teacher may be a network of another kind
            groups.append(list(self._places()))
        for places in groups:
            choice = self._best_of(places, network, adapt)
            if choice and self.key == "teacher":  # nobody need have asked for it: others are named
                everywhere = self._fits(list(self._places()), network, adapt)
                return Choice(choice.place, _others_like(choice.place, everywhere))
            if choice:
                return choice
        return Choice(self._by_names(network) or self.guess())

    def _by_names(self, network: nn.Module) -> Place | None:
        """The place with most of the network's names, whatever their shapes; None where that is less than a quarter."""
        own, guess = set(network.state_dict()), self.guess()
        counts = {place: sum(name in own for name in self.tensors(place)) for place in self.named()}
        best = max(
            counts,
            key=lambda place: (counts[place], not place.averaged, place == guess),
            default=None,
        )
        return best if best and counts[best] >= max(1, LEAST_SHARE * len(own)) else None

    def _best_of(
        self, places: list[Place], network: nn.Module, adapt: Adapt | None
    ) -> Choice | None:
        """The best of these places; None where less than a quarter of the network fits under any."""
        fits = self._fits(places, network, adapt)
        guess, order = self.guess(), list(self._places())
        ranked = sorted(
            fits,
            key=lambda place: (-fits[place], place.averaged, place != guess, order.index(place)),
        )
        if not ranked or fits[ranked[0]] < max(1, LEAST_SHARE * len(network.state_dict())):
            return None
        by_rank = {place: fits[place] for place in ranked}
        return Choice(ranked[0], _others_like(ranked[0], by_rank))

    def _fits(
        self, places: list[Place], network: nn.Module, adapt: Adapt | None
    ) -> dict[Place, int]:
        """How many tensors of each of these places fit, but of those that are too small to matter."""
        own = {name: value.shape for name, value in network.state_dict().items()}
        fits: dict[Place, int] = {}
        for place in sorted(places, key=lambda place: -self.count(place)):
            if self.count(place) < max(fits.values(), default=0) / 2:
                break
            fits[place] = _fit(self.tensors(place), own, network, adapt)
        return fits

    def tensors(self, place: Place) -> StateDict:
        """What is at a place, named without its prefix."""
        inside = {}
        for name, value in self.states[place.dictionary].items():
            if name.startswith(place.prefix):
                inside[name.removeprefix(place.prefix)] = value
        return inside

    def count(self, place: Place) -> int:
        """How many tensors are at a place."""
        return sum(name.startswith(place.prefix) for name in self.states[place.dictionary])

    def widest(self, dictionary: str) -> list[str]:
        """The prefixes that more than half of a dictionary's names have, the shortest first."""
        state = self.states[dictionary]
        return [prefix for prefix, count in _counts(state).items() if count > len(state) / 2]

    def _places(self) -> Iterator[Place]:
        """All places, in the order of the file."""
        for dictionary, state in self.states.items():
            for prefix in _counts(state):
                yield Place(dictionary, prefix)

    def _usual(self, place: Place) -> tuple[bool, int]:
        """Orders dictionaries: averages last, the one called as the key first, then names that networks often have."""
        names = [self.key, *STATE_DICTS, ""]
        rank = names.index(place.dictionary) if place.dictionary in names else len(names)
        return place.averaged, rank

    def named(self) -> list[Place]:
        """The places that the key names, as a part or else as a word; all where none is called so."""
        places = list(self._places())
        exact = [place for place in places if place.has_part(self.key)]
        return exact or [place for place in places if place.has_word(self.key)] or places


def _others_like(first: Place, fits: dict[Place, int]) -> tuple[str, ...]:
    """The keys of the places beside the first of which at least half as much fits."""
    others = []
    for place, count in fits.items():
        like = count >= fits[first] / 2
        if like and not (place.inside(first) or first.inside(place)):
            others.append(place.key_beside(first))
    return tuple(dict.fromkeys(others))


def candidates(content: Any, path: Path, key: str, flag: str = "--checkpoint_key") -> Candidates:
    """What of a file's content may be a network. ValueError where nothing is, or nothing is called like the key."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights")
    states = _state_dicts(content)
    found = Candidates(states, key, flag)
    if not states:
        names = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise ValueError(f"{path} holds no weights: it has {names}")
    named = any(place.has_word(key) or place.has_part(key) for place in found.named())
    if not (named or key in NETWORKS):
        choices = _choices(states)
        remedy = f"choose {flag} among {', '.join(choices)}"
        if not choices:
            remedy = f"all its tensors are of one network, leave {flag} out"
        raise ValueError(f"{path} has no {key!r}; {remedy}")
    return found


def _choices(states: dict[str, StateDict]) -> list[str]:
    """What a key may be: dictionaries, or the first parts of names in the only one, where several hold networks."""
    outer = list(dict.fromkeys(name.partition(".")[0] for name in states if name))
    if outer:
        return outer
    parts = Counter(name.partition(".")[0] for name in states[""])
    large = [name for name, count in parts.items() if count >= LEAST_SHARE * len(states[""])]
    return large if len(large) > 1 else []


def _state_dicts(content: dict, path: str = "", depth: int = DEPTH) -> dict[str, StateDict]:
    """The tensors of a dictionary and of those inside it, by the dictionaries' names."""
    states: dict[str, StateDict] = {}
    tensors: StateDict = {}
    for name, value in content.items():
        if not isinstance(name, str):  # an optimizer's
            continue
        if isinstance(value, nn.Module):
            value = value.state_dict()
        if isinstance(value, Tensor):
            tensors[name] = value
        elif isinstance(value, dict) and depth:
            states |= _state_dicts(value, f"{path}.{name}" if path else name, depth - 1)
    return {path: tensors} | states if tensors else states


def _counts(state: Iterable[str]) -> Counter[str]:
    """How many names begin with each prefix that ends at a dot, in the order of the names."""
    counts: Counter[str] = Counter()
    for name in state:
        counts[""] += 1
        for dot in re.finditer(r"\.", name):
            counts[name[: dot.end()]] += 1
    return counts


def _fit(tensors: StateDict, own: dict[str, Any], network: nn.Module, adapt: Adapt | None) -> int:
    """How many tensors have a name and shape of the network's."""
    if adapt:
        try:
            tensors = adapt(tensors, network)
        except ADAPT_ERRORS:
            return 0  # not of this family
    return sum(name in own and own[name] == value.shape for name, value in tensors.items())


def _unwrapped(state: StateDict, prefix: str) -> str:
    """The prefix with all wrappers' after it; where a `backbone.` part exists only that part is the backbone."""
    while True:
        inside = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
        if any(name.startswith("backbone.") for name in inside):
            prefix += "backbone."
            continue
        wrapper = _wrapper(inside)
        if wrapper is None:
            return prefix
        prefix += wrapper


def _wrapper(names: list[str]) -> str | None:
    """The prefix that all names but those of heads have."""
    body = [name for name in names if not name.startswith(HEADS)]
    for prefix in WRAPPERS:
        if any(name.startswith(prefix) for name in names):
            return prefix if all(name.startswith(prefix) for name in body) else None
    return None


def _words(path: str) -> set[str]:
    return set(re.split(r"[._]", path))
