"""Weights of evidence of everybody's columns, from the label holder's encrypted labels.

    hello                        both ways          rows and settings, which must be the same at both
    woe.key                      holder, partner    public key of the label holder
    woe.variables   JSON         partner, holder    of each variable, in an order the partner drew: whether its
                                                    bins are ordered, how many are regular, rows per fine bin
    woe.sums                     both ways          encrypted labels, and their sums over the rows of each fine bin
    woe.merged      JSON         holder, partner    of each variable: fine bins that become one, weight of
                                                    evidence of each bin, information value

Who learns what, all of it about training rows: The partner sees ciphertexts of labels, and the weight of
evidence of each of its own bins after they were merged. As it knows the rows of its bins, it can work out how
many of the rows of a bin are bad, and the rate of all rows; where bins of two of its columns differ by few
rows, also how many of those are bad. It learns nothing of the label holder's columns. The label holder learns
how many variables the partner has, which of them have ordered bins, rows and bad rows of each fine bin, and
the same of special and missing values. It does not learn which column, range, category or row this is:
variables are numbered in a drawn order, `partner-b 3`, and no bin has fewer than `settings.min_rows` rows, or
the partner merged it before anything was sent.

Assumption: RLWE, and parties that follow the protocol. A partner that chooses bins by rows of interest learns
the rate of these rows, of at least `min_share` of all or, as a special value, of `min_rows`; one that lies
about its bins spoils its own variables, which the label holder notices only where totals do not fit.

Cost: for each partner one fresh encryption of the labels, and an answer for each few fine bins: see
`crypto.bfv.sums`. 24,000 rows and 18 columns of a partner, 32 fine bins each: 1.4 MB each way.

Source: binning with encrypted labels as in FATE's hetero feature binning (Liu, Fan, Chen, Xu and Yang,
"FATE", JMLR 22, 2021); the sums are `crypto.bfv.sums`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from crypto.bfv.keys import SecretKey, new_keys, public_key_bytes, read_public_key
from crypto.bfv.ring import SMALL
from crypto.bfv.sums import sums_receive, sums_send
from crypto.channel import Channel
from crypto.errors import ProtocolError
from fedcore.errors import DataError
from fedcore.jobs.vertical import Bin
from fedcore.vertical.binning import Bins, prebins
from fedcore.vertical.evidence import Counts, Variable, WoeResult, codes_of, evidence
from fedcore.vertical.monotone import Groups, merge
from fedcore.vertical.table import TRAIN, Table
from fedcore.vertical.woe_messages import (
    LIMIT,
    Fine,
    Merged,
    agree,
    read_fine,
    read_merged,
    write_fine,
    write_merged,
)

__all__ = ["Variable", "Watch", "WoeResult", "codes_of", "woe_label_holder", "woe_partner"]

Watch = Callable[[str, int, int], None]
"""Told phase, done, of."""


def woe_label_holder(
    channels: Sequence[Channel],
    table: Table,
    settings: Bin,
    keys: SecretKey | None = None,
    watch: Watch = lambda phase, done, of: None,
    *,
    owner: str = "own",
    partners: Sequence[str] | None = None,
) -> WoeResult:
    """Bins and weights of evidence of all parties' columns; at the label holder.

    Args:
        channels: One to each partner.
        table: Own columns and the label.
        settings: Of the job.
        keys: Of the ring for sums; fresh ones when None.
        watch: Told the progress.
        owner: Own name.
        partners: The partners' names; those that the channels know when None.

    Returns:
        Own variables in the order of the table, then each partner's.

    Raises:
        DataError: The label is not 0 and 1, or has one class only; a column has infinite values.
        ProtocolError: A partner disagrees on the settings, or sent what the protocol does not allow.
    """
    rows = table.rows(TRAIN)
    label = _label(table, rows)
    bads = int(label.sum())
    goods = len(rows) - bads
    own = []
    for done, name in enumerate(table.columns):
        watch("own columns", done, len(table.columns))
        own.append(_own(owner, name, *_binned(name, table.columns[name], rows, settings), label, settings))
    partners = names_of(channels, partners)
    secret = keys or new_keys(SMALL)
    others: list[Variable] = []
    for done, (channel, partner) in enumerate(zip(channels, partners, strict=True)):
        watch("partners' columns", done, len(partners))
        agree(channel, "label holder", len(rows), settings)
        channel.send("woe.key", secret.public.to_bytes())
        fine = read_fine(channel.recv("woe.variables", limit=LIMIT), len(rows), settings.min_rows)
        bad = _bad_rows(channel, secret, label, fine)
        answer = []
        for number, (each, of_bad) in enumerate(zip(fine, bad, strict=True)):
            groups, rows_, bad_ = _merge(each, of_bad, goods, bads, settings)
            woe, parts = evidence(rows_ - bad_, bad_, goods, bads)
            iv = float(parts.sum())
            answer.append(Merged(groups, tuple(woe.tolist()), iv))
            others.append(
                Variable(
                    owner=partner,
                    name=f"{partner} {number}",
                    number=number,
                    ordered=each.ordered,
                    regular=len(groups),
                    rows=rows_,
                    good=rows_ - bad_,
                    bad=bad_,
                    woe=woe,
                    iv=iv,
                    missing=float(rows_[-1] / len(rows)),
                    bins=None,
                )
            )
        channel.send("woe.merged", write_merged(answer))
    watch("partners' columns", len(partners), len(partners))
    return WoeResult((*own, *others))


def woe_partner(
    channel: Channel,
    table: Table,
    settings: Bin,
    watch: Watch = lambda phase, done, of: None,
    *,
    owner: str = "own",
) -> WoeResult:
    """Bins and weights of evidence of own columns; at a partner.

    Args:
        channel: To the label holder.
        table: Own columns.
        settings: Of the job.
        watch: Told the progress.
        owner: Own name.

    Returns:
        Own variables in the order of the table; `number` is what the label holder calls them by.

    Raises:
        DataError: A column has infinite values, or there are too few training rows for one bin.
        ProtocolError: The label holder disagrees on the settings, or sent what the protocol does not allow.
    """
    rows = table.rows(TRAIN)
    names = list(table.columns)
    bins: dict[str, Bins] = {}
    codes: dict[str, npt.NDArray[np.uint16]] = {}
    for done, name in enumerate(names):
        watch("own columns", done, len(names))
        bins[name], codes[name] = _binned(name, table.columns[name], rows, settings)
    drawn = list(names)
    secrets.SystemRandom().shuffle(drawn)
    fine = [
        Fine(bins[name].numeric, bins[name].regular, tuple(_count(codes[name], bins[name].size)))
        for name in drawn
    ]
    agree(channel, "partner", len(rows), settings)
    public = read_public_key(channel.recv("woe.key", size=public_key_bytes(SMALL)), SMALL)
    channel.send("woe.variables", write_fine(fine))
    watch("sums", 0, 1)
    places = _places(fine)
    if len(places):
        sums_send(
            channel,
            public,
            [codes[name] for name in drawn],
            [len(rows)],
            places[None],
            1,
            len(rows),
            "woe.sums",
        )
    watch("sums", 1, 1)
    merged = read_merged(channel.recv("woe.merged", limit=LIMIT), fine)
    made = {}
    for number, (name, each, before) in enumerate(zip(drawn, merged, fine, strict=True)):
        found = _rows_of(each.groups, before, np.array(before.rows))
        made[name] = Variable(
            owner=owner,
            name=name,
            number=number,
            ordered=before.ordered,
            regular=len(each.groups),
            rows=found,
            good=None,
            bad=None,
            woe=np.array(each.woe),
            iv=each.iv,
            missing=float(found[-1] / len(rows)),
            bins=bins[name].merged(each.groups),
        )
    return WoeResult(tuple(made[name] for name in names))


def names_of(channels: Sequence[Channel], partners: Sequence[str] | None) -> Sequence[str]:
    """The partners' names: those given, or those that the channels know."""
    if partners is not None:
        return partners
    return [getattr(each, "peer", f"partner {number + 1}") for number, each in enumerate(channels)]


def _label(table: Table, rows: npt.NDArray[np.intp]) -> Counts:
    """Training rows' labels.

    Raises:
        DataError: There is none, it is not 0 and 1, or has one class only.
    """
    if table.label is None:
        raise DataError("label: the table has none; weights of evidence begin at the label holder")
    label = table.label[rows]
    strange = int((~np.isin(label, (0.0, 1.0))).sum())
    if strange:
        raise DataError(
            f"label: {strange} of {len(rows)} training rows are neither 0 nor 1; weights of evidence need the two, "
            "for other targets set on: values"
        )
    for each in (0, 1):
        if not (label == each).any():
            raise DataError(
                f"label: none of {len(rows)} training rows is {each}; both classes are needed. Widen the window of "
                "the data, or look at how the event is defined"
            )
    return label.astype(np.int64)


def _binned(
    name: str, column: npt.NDArray[Any], rows: npt.NDArray[np.intp], settings: Bin
) -> tuple[Bins, npt.NDArray[np.uint16]]:
    """Fine bins of a column, made of its training rows, and the codes of these."""
    bins = prebins(column[rows], settings, settings.special.get(name, ()), name=name)
    # All rows are looked up, so that an infinite value of a later step is found here.
    return bins, bins.codes(column, name=name)[rows]


def _own(
    owner: str, name: str, bins: Bins, codes: npt.NDArray[np.uint16], label: Counts, settings: Bin
) -> Variable:
    """A column of the label holder, as if its totals had been told."""
    bads = int(label.sum())
    goods = len(label) - bads
    fine = Fine(bins.numeric, bins.regular, tuple(_count(codes, bins.size)))
    groups, rows, bad = _merge(
        fine, np.bincount(codes[label == 1], minlength=bins.size), goods, bads, settings
    )
    woe, parts = evidence(rows - bad, bad, goods, bads)
    return Variable(
        owner=owner,
        name=name,
        number=None,
        ordered=bins.numeric,
        regular=len(groups),
        rows=rows,
        good=rows - bad,
        bad=bad,
        woe=woe,
        iv=float(parts.sum()),
        missing=float(rows[-1] / len(label)),
        bins=bins.merged(groups),
    )


def _merge(fine: Fine, bad: Counts, goods: int, bads: int, settings: Bin) -> tuple[Groups, Counts, Counts]:
    """Which fine bins become one, and rows and bad rows of the bins then."""
    rows = np.array(fine.rows)
    groups: Groups = tuple((each,) for each in range(fine.regular))
    if settings.method == "monotone":
        groups = merge(
            (rows - bad)[: fine.regular],
            bad[: fine.regular],
            goods,
            bads,
            max_bins=settings.max_bins,
            least=settings.min_share * (goods + bads),
            ordered=fine.ordered,
        )
    return groups, _rows_of(groups, fine, rows), _rows_of(groups, fine, bad)


def _rows_of(groups: Groups, fine: Fine, rows: Counts) -> Counts:
    """Rows of merged bins from those of fine ones."""
    regular = [int(rows[list(group)].sum()) for group in groups]
    return np.array([*regular, *rows[fine.regular :].tolist()], dtype=np.int64)


def _bad_rows(channel: Channel, secret: SecretKey, label: Counts, fine: Sequence[Fine]) -> list[Counts]:
    """Bad rows of each fine bin of each variable.

    Raises:
        ProtocolError: They do not fit the rows that were told, or do not come to all bad rows.
    """
    step = "woe.sums"
    places = _places(fine)
    bad = [np.zeros(len(each.rows), dtype=np.int64) for each in fine]
    if len(places):
        sums = sums_receive(channel, secret, label[:, None], [len(label)], len(places), len(label), step)
        for (number, code), total in zip(places.tolist(), sums[0, :, 0].tolist(), strict=True):
            bad[number][code] = total
    for number, (each, of_bad) in enumerate(zip(fine, bad, strict=True)):
        if (of_bad < 0).any() or (of_bad > np.array(each.rows)).any() or of_bad.sum() != label.sum():
            raise ProtocolError(
                f"the totals of variable {number} do not come to the label's; the partner's rows are other ones, or a "
                "message was changed. Match the rows again",
                step=step,
            )
    return bad


def _places(fine: Sequence[Fine]) -> npt.NDArray[np.int32]:
    """Variable and bin of each total that is asked for: of all bins with rows."""
    places = [
        (number, code) for number, each in enumerate(fine) for code, rows in enumerate(each.rows) if rows
    ]
    return np.array(places, dtype=np.int32).reshape(-1, 2)


def _count(codes: npt.NDArray[np.uint16], size: int) -> list[int]:
    found: list[int] = np.bincount(codes, minlength=size).tolist()
    return found
