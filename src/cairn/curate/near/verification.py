"""Which members of a bucket are near duplicates: those whose signatures say so.

Files of a similarity far below the threshold share a band too, seldom each but in great number:
they are many more. Of each bucket the first member leads; members like it are linked to it, and of
the rest the first leads in turn.
"""

import numpy as np
import numpy.typing as npt

from cairn.curate.near.definition import BANDS, PERMUTATIONS

MOST_LEADERS = 64  # of one bucket; who is like none of them has no duplicate there
AT_ONCE = 2**16  # pairs whose signatures are held at a time

Ints = npt.NDArray[np.int64]


def similarity(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity float [N] of compact signatures uint8 [N, PERMUTATIONS] each.

    Bytes of unequal minima agree once in 256; that is taken off. The standard error is 0.029 where
    the similarity is 0.7.
    """
    agree = np.count_nonzero(one == other, axis=-1) / PERMUTATIONS
    return (agree - 1 / 256) / (1 - 1 / 256)


def links(buckets: Ints, compact: npt.NDArray[np.uint8], least: float) -> Ints:
    """Pairs int64 [E, 2], smaller number first, of members whose similarity is `least` or more.

    buckets: int64 [M, 3], for each bucket and each member but its first: the first member, the
    band, the member. compact: uint8 [count, PERMUTATIONS], compact signatures by member. With
    `least` 0 whoever shares a band is linked. The same whatever the order of the rows. Time is
    linear in M.
    """
    leader, band, member = buckets.reshape(-1, 3).T
    bucket = leader * BANDS + band
    order = np.lexsort((member, bucket))
    bucket, leader, member = bucket[order], leader[order], member[order]
    count = member.max(initial=0) + 1
    found = [np.empty(0, np.int64)]
    for _ in range(MOST_LEADERS):
        pairs, place = np.unique(leader * count + member, return_inverse=True)
        alike = _alike(*divmod(pairs, count), compact, least)
        found.append(pairs[alike])
        left = ~alike[place]
        bucket, member = bucket[left], member[left]
        leads = np.diff(bucket, prepend=-1) != 0
        sizes = np.diff(np.flatnonzero(leads), append=len(bucket))
        leader = np.repeat(member[leads], sizes)[~leads]
        bucket, member = bucket[~leads], member[~leads]
        if not len(member):
            break
    return np.stack(divmod(np.unique(np.concatenate(found)), count), 1)


def _alike(
    ones: Ints, others: Ints, compact: npt.NDArray[np.uint8], least: float
) -> npt.NDArray[np.bool_]:
    alike = np.ones(len(ones), bool)
    for start in range(0, len(ones) if least > 0 else 0, AT_ONCE):
        some = slice(start, start + AT_ONCE)
        alike[some] = similarity(compact[ones[some]], compact[others[some]]) >= least
    return alike
