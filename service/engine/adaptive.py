"""When an ensemble has enough members: pure arithmetic on the members that are there.

Members come in rounds. After each, the change that the next round would make to the answer is
estimated from how much the members differ, and no more are added once it is small enough. The
decision is a function of the members alone, so equal seeds decide alike, up to the rounding of
the kernels: batch mates may move a member's last bits, and so an estimate that lies within those
bits of the tolerance.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

# Members after which convergence is looked at: from two, which have a spread, in steps of about
# 1.4, so that little is computed beyond what was needed and few rounds wait for each other.
ROUNDS = (2, 3, 4, 6, 8, 12, 16, 20)
SAMPLE_SIDE = 64  # pixels looked at along each side: spread is smooth, and a round must be cheap


def next_round(members: int, most: int) -> int:
    """The ensemble size at which to look next, after `members` of at most `most`.

    `members` is 0 before the first round; the answer equals it when there are no more to add.
    Raises ValueError unless 0 <= members <= most <= 20 and most >= 1.
    """
    if not 0 <= members <= most or not 1 <= most <= ROUNDS[-1]:
        raise ValueError(f"no round follows {members} of at most {most} members")
    return next((size for size in ROUNDS if members < size < most), most)


def estimated_change(
    fields: Mapping[str, Float32[np.ndarray, "members height width"]], next_members: int
) -> float:
    """How far the mean of n members is expected to move when it becomes one of `next_members`.

    `fields` are the members' encoded fields (nominal range [-1, 1]), n of each and of one size; the
    answer is in that unit: the root mean square, over the fields and a strided sample of at most
    64 x 64 pixels, of sd * sqrt(1/n - 1/next), with sd the members' standard deviation (divisor
    n - 1). That is the standard deviation of the difference between the mean of n independent draws
    and the mean of those and more (variance of a mean). A median moves by up to sqrt(pi/2) as much
    where members are Gaussian. Infinite for one member. Raises ValueError when there are no fields
    or no members, when they differ in number, or when `next_members` is less than n.
    """
    counts = {len(members) for members in fields.values()}
    if len(counts) != 1:
        raise ValueError("fields must be given, and have equally many members")
    (num_members,) = counts
    if not 1 <= num_members <= next_members:
        raise ValueError(f"{next_members} members do not follow {num_members}")
    if num_members == 1:
        return math.inf
    variances = [_sample(members).var(axis=0, ddof=1).mean() for members in fields.values()]
    return math.sqrt(float(np.mean(variances)) * (1 / num_members - 1 / next_members))


def _sample(
    members: Float32[np.ndarray, "members height width"],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    height, width = (-(-side // SAMPLE_SIDE) for side in members.shape[1:])  # strides, rounded up
    return members[:, ::height, ::width].astype(np.float64)
