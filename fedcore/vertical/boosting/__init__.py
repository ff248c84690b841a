"""Gradient-boosted trees over columns of several parties, of the SecureBoost family.

The label holder has labels, some columns perhaps, and one channel to each partner; partners have columns. All have the
training rows in the same order, each column cut into bins. A level of the trees of a round (one tree, or one for each
class) is grown at once:

1. A partner shuffles its split candidates into places, for each pair of siblings afresh (`candidates`).
2. The label holder sends (g, h) of the rows of the smaller sibling of each pair, encrypted, ordered by node; the
   partner answers with the sums of each place, encrypted (`encrypted`). The larger sibling's sums are the parent's less
   the smaller's.
3. The label holder looks for the best split of each node among its own columns and all places. The winning partner is
   told node and place, keeps column and bin under a random name, and answers with the sides of the node's rows;
   the other partners are told the sides. Leaf weights are computed from exact (g, h) and stay at the label holder.

All nodes of a level share one message of each kind. A level costs two round trips, three where another partner's sides
have to be passed on, and a round of the label holder's own costs none.

Who learns what. This is SecureBoost: it is much faster than protocols that hide everything, and it is *not* provably
secure. With parties that follow the protocol,

- a partner learns the shape of the jointly grown trees, and of each node which rows come to it. Rows in one leaf have
  alike labels, so this tells about labels; most in the first trees, whose splits separate the classes best, and the
  more the purer a leaf. It does not learn (g, h), gains, leaf weights, or other parties' columns and bins. A partner
  whose splits are never chosen learns as much. With GOSS it learns which rows were chosen (see `goss`);
- the label holder learns, for each place of each node, the exact sums of g and h over the rows to its left, of which
  it knows every single g and h. From them it can often tell *which* rows these are, where few rows or few different
  values are added: Weng, Zhang, Xue, Wei, Ji and Zong, "Privacy Leakage of Real-World Vertical Federated Learning",
  arXiv 2011.09290, call this the reverse-sum attack. What it then knows is that these rows are below one threshold of
  some anonymous column. It learns the sides of all rows of the nodes that a partner splits, how many places
  each node has, in which sibling each can be chosen, and which place at the parent is the same candidate. The last
  goes without saying: sums are exact, so a parent's place is found as the one that is the sum of two of its
  children's, whatever order they are in, and shuffling keeps apart columns and bins, not the nodes of one tree.
  Across trees nothing ties places together but what such an attack finds;
- a partner that is not the label holder's only one learns the sides of nodes that another party splits, and that it
  was or was not the label holder; nothing else of the others.

What stands against it. `own_first`: partners see no rows of the first trees, and later gradients tell less of labels.
`min_leaf`: both partner and label holder refuse a node, and so a leaf, of fewer rows. `min_bin`: a partner has no place
for a candidate that would show sums over fewer rows, be it on one side, between neighbouring candidates of a column, or
by the difference of parent and sibling. It does not hinder a label holder that combines sums of several trees or
columns. Sums are over numbers rounded to a few bits, which leaves the reverse-sum attack less to go by and does
not stop it. Where that is too little, trees are the wrong model: a shared linear model opens neither sums nor row sets.

A label holder that does not follow the protocol can encrypt other numbers than g and h, such as a one for a single row,
and so be told on which side of each place that row is; min_leaf and min_bin do not hinder that. A partner that lies
about sides is found out when the sums of a split do not fit them; one that lies about sums spoils the trees.

Missing and special values are the last codes of a column and go right with the rows above a split.

Source: Cheng, Fan, Jin, Liu, Chen, Papadopoulos and Yang, "SecureBoost: A Lossless Federated Learning Framework", IEEE
Intelligent Systems 2021, arXiv 1901.08755. Chen, Ma, Fan, Kang, Xu and Yang, "SecureBoost+", arXiv 2110.10927 (both
numbers in one plaintext, subtraction, one message for a level, GOSS).
"""

from fedcore.vertical.boosting.ensemble import Ensemble, PartnerSplits
from fedcore.vertical.boosting.label_holder import grow_label_holder
from fedcore.vertical.boosting.losses import expected
from fedcore.vertical.boosting.partner import grow_partner
from fedcore.vertical.boosting.predict import predict_label_holder, predict_partner

__all__ = [
    "Ensemble",
    "PartnerSplits",
    "expected",
    "grow_label_holder",
    "grow_partner",
    "predict_label_holder",
    "predict_partner",
]
