"""Which split a picture belongs to: as its source says, or by shares, the same whatever other pictures there are."""

import hashlib
import re
from dataclasses import dataclass

from thingstuff.convert.source import SourcePicture
from thingstuff.errors import InputError

NAMES = ("train", "val", "test")
_WITHOUT = "train"  # where neither the source nor the person speaks of splits
_SAFE = re.compile(r"(?!panoptic_)\w[\w.+-]*")


@dataclass(frozen=True)
class SplitRules:
    """Shares of train, val and test; none: as the source has it. Pictures of a group stay together."""

    shares: tuple[float, ...] = ()
    """Of train, then of val; what is left is the next one's."""
    group: str | None = None
    """A regular expression, searched in a picture's key; what its first group matches, or all of it, is the group."""
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) > 2 or not all(0 < s < 1 for s in self.shares) or sum(self.shares) > 1:
            shown = ",".join(f"{s:g}" for s in self.shares)
            raise InputError(
                f"--split {shown}: give train's share, such as 0.8 (the rest is val), or train's and val's, such as "
                "0.8,0.1 (the rest is test)"
            )
        if self.group is not None and not self.shares:
            raise InputError("--group keeps pictures together where they are split; give --split too")
        try:
            re.compile(self.group or "")
        except re.error as error:
            raise InputError(f"--group {self.group!r} is no regular expression ({error})") from None

    def split_of(self, picture: SourcePicture) -> str:
        """Return a picture's split; raises `InputError` where the group's pattern does not match its key."""
        if not self.shares:
            split = picture.split or _WITHOUT
            if not _SAFE.fullmatch(split):
                raise InputError(f"the split {split!r} of {picture.picture} cannot name a folder; rename it")
            return split
        place = self._place(self._group_of(picture))
        for name, border in zip(NAMES, _borders(self.shares), strict=False):
            if place < border:
                return name
        return NAMES[len(self.shares)]

    def _group_of(self, picture: SourcePicture) -> str:
        if self.group is None:
            return picture.key
        found = re.search(self.group, picture.key)
        if not found:
            raise InputError(f"--group {self.group!r} is not found in {picture.key!r}; correct the pattern")
        return (found[1] if found.re.groups else found[0]) or ""

    def _place(self, group: str) -> float:
        """Return a number from 0 to 1 that hangs on the group's name and the seed alone."""
        digest = hashlib.sha256(f"{self.seed}\n{group}".encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def parse_shares(text: str) -> tuple[float, ...]:
    """Return the shares of a text such as 0.8 or 0.8,0.1; raises `InputError` where they are no numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--split {text!r}: give a share, such as 0.8, or two, such as 0.8,0.1") from None


def _borders(shares: tuple[float, ...]) -> list[float]:
    return [sum(shares[: n + 1]) for n in range(len(shares))]
