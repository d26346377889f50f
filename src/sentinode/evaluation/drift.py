"""Has something changed since the training? A test for a stream of cases that may be looked at after each of them.

If new cases are like the training's, all of them are exchangeable: none has a reason to be the unusual one. A conformal
test martingale is a gambler who bets on the opposite (Vovk, Gammerman and Shafer 2022, "Algorithmic learning in a
random world", 2nd edition, ch. 8; Vovk 2021, "Testing randomness online", Statistical Science 36:595-611): from 1, and
against fair odds. Under exchangeability such a gambler reaches 1/alarm ever with a probability of at most alarm (Ville
1939), so that one may look after each case, and stop when one likes.

A case joins the pool once its p-value is known. So the p-values are independent and uniform however few the training's
distances are: a pool that stayed as it is would make them depend on its luck.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sentinode.errors import PlanError
from sentinode.seeds import stream

__all__ = ["DriftTest", "conformal_p_values", "drift_test", "joined", "log_martingale"]

POWERS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the mixture of power martingales."""

JUMPS, RATE = (-1.0, 0.0), 0.01
"""Of the simple jumper, and how often it changes its mind. Vovk's third jump, 1, bets on cases that are too usual: no
drift that need alarm anyone, and training patients who were left out lie a little further away by construction."""

SHARES = (0.5, 0.75, 0.95)
"""Of its money that the gambler puts on a change at the first case."""


@dataclass(frozen=True, eq=False)
class DriftTest:
    """What a stream of cases says against "nothing has changed".

    Parameters
    ----------
    p_values : (n,) float64
        Smoothed conformal p-value of each case, in order: small is unusual.
    log10_evidence : (n,) float64
        Logarithm (base 10) of the martingale after each case (0 before the first), or of what `joined` makes of some.
    alarm : float
        Probability of a false alarm, ever.
    """

    p_values: NDArray[np.float64]
    log10_evidence: NDArray[np.float64]
    alarm: float

    @property
    def alarmed_at(self) -> int | None:
        """How many cases it took, or None."""
        over = np.flatnonzero(self.log10_evidence >= -np.log10(self.alarm))
        return int(over[0]) + 1 if len(over) else None


def conformal_p_values(known: ArrayLike, new: ArrayLike, rng: np.random.Generator) -> NDArray[np.float64]:
    """Say of each case how unusual it is among those before it.

    Parameters
    ----------
    known : (m,) float
        Distances of cases that nothing is asked of; their order does not matter.
    new : (n,) float
        Distances of the stream, in order.
    rng : numpy.random.Generator
        Breaks ties, among them that of a case with itself.

    Returns
    -------
    (n,) float64
        Above 0, at most 1; independent and uniform if all are exchangeable (Vovk et al. 2022, proposition 2.4).

    Examples
    --------
    >>> p = conformal_p_values([1, 2, 3], [9, 9.5], np.random.default_rng(1))
    >>> bool(p[0] <= 1 / 4), bool(p[1] <= 1 / 5)
    (True, True)
    """
    pool = np.concatenate([np.asarray(known, dtype=np.float64), np.asarray(new, dtype=np.float64)])
    n = len(np.asarray(new))
    share = 1 - rng.random(n)  # in (0, 1]: a p-value of 0 would make the gambler infinitely rich
    p_values = np.empty(n)
    for place, end in enumerate(range(len(pool) - n, len(pool))):
        so_far, here = pool[: end + 1], pool[end]
        p_values[place] = ((so_far > here).sum() + share[place] * (so_far == here).sum()) / (end + 1)
    return p_values


def log_martingale(p_values: ArrayLike, n_known: int) -> NDArray[np.float64]:
    """Let a gambler bet on small p-values, a third of the money each way.

    The mixture of power martingales bets e p^(e-1) and is quick where single cases are far out. The simple jumper bets
    1 + j (p - 1/2) and notices what is moderate and begins late. The third knows what p is once every case is of
    another kind: cases of that kind are exchangeable among themselves, so after i of them p is uniform up to
    i/(m + i), and the density of p is the best bet (Fedorova, Gammerman, Nouretdinov and Vovk 2012, "Plug-in
    martingales for testing exchangeability on-line", ICML). It is what alarms soon where the training's patients are
    few. The mean of martingales is one.

    Parameters
    ----------
    p_values : (n,) float
        Of `conformal_p_values`.
    n_known : int
        Distances that the pool began with.

    Returns
    -------
    (n,) float64
        Natural logarithm of the money after each case.
    """
    p = np.asarray(p_values, dtype=np.float64)
    logs = np.log(p)
    power = [np.cumsum(np.log(one) + (one - 1) * logs) for one in POWERS]
    count = np.arange(1, len(p) + 1)
    odds = (n_known + count) / count
    change = [np.cumsum(np.log(1 - share + share * odds * (p <= 1 / odds))) for share in SHARES]
    return _mean_of([_mean_of(power), _jumper(p), _mean_of(change)])


def drift_test(known: ArrayLike, new: ArrayLike, alarm: float = 0.01, seed: int = 0) -> DriftTest:
    """Test whether cases are exchangeable with those that are known.

    Parameters
    ----------
    known : (m,) float
        Distances of training patients who were left out.
    new : (n,) float
        Distances of new cases, in the order in which they came.
    alarm : float
        Probability of a false alarm, ever.
    seed : int
        Of what breaks ties: one stream always gets one answer.

    Returns
    -------
    DriftTest
        Evidence after each case.

    Raises
    ------
    PlanError
        If `alarm` is no probability between 0 and 1.

    Examples
    --------
    >>> drift_test(range(15), np.arange(40.0, 60.0)).alarmed_at
    3
    """
    if not 0 < alarm < 1:
        raise PlanError(f"alarm = {alarm}: a probability above 0 and below 1, e.g. 0.01")
    p_values = conformal_p_values(known, new, stream(seed, "drift"))
    return DriftTest(p_values, log_martingale(p_values, len(np.asarray(known))) / np.log(10), alarm)


def joined(tests: Sequence[DriftTest]) -> DriftTest:
    """Put tests of the same cases together: an alarm of any of them, each at its share of the false alarms.

    Each test's martingale is one among its own p-values only: what the other distance says of the same cases may tell
    the next p-value, so that their mean is a martingale of nothing. The chance that one of k ever reaches k/alarm is at
    most alarm whatever they have in common (Bonferroni).

    Parameters
    ----------
    tests : sequence of DriftTest
        By different distances, with the same alarm; one or more.

    Returns
    -------
    DriftTest
        As evidence the largest martingale over their number; of each case the smallest p-value times their number, at
        most 1.

    Examples
    --------
    >>> one, other = drift_test(range(15), np.arange(40.0, 60.0)), drift_test(range(15), np.arange(20.0))
    >>> one.alarmed_at, joined([one, other]).alarmed_at
    (3, 4)
    """
    p_values = np.minimum(1, len(tests) * np.min([one.p_values for one in tests], axis=0))
    evidence = np.max([one.log10_evidence for one in tests], axis=0) - np.log10(len(tests))
    return DriftTest(p_values, evidence, tests[0].alarm)


def _jumper(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    # Vovk 2021, algorithm 1.
    jumps = np.array(JUMPS)
    money, log_total, path = np.full(len(jumps), 1 / len(jumps)), 0.0, []
    for p in p_values.tolist():
        money = ((1 - RATE) * money + RATE / len(jumps)) * (1 + jumps * (p - 0.5))
        total = float(money.sum())
        money, log_total = money / total, log_total + np.log(total)
        path.append(log_total)
    return np.array(path, dtype=np.float64)


def _mean_of(logs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.asarray(np.logaddexp.reduce(np.stack(logs), axis=0) - np.log(len(logs)), dtype=np.float64)
