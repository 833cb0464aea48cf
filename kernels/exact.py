"""Numbers of the sampler that every backend computes bit for bit alike.

Which tokens are allowed (top-p, typical-p) and which one wins (the noise) must not depend on the backend, the batch or
the order of a sum. So both follow from single fp32 operations (add, multiply, divide: rounded once, never fused) and
from integer sums, which have no order:

- ``ln(x)``: x = 2^k * m with m in [sqrt(1/2), sqrt(2)), then the polynomial of Cephes' logf (Moshier) in m - 1.
- noise of a token: u = (bits + 0.5) * 2^-32, at most 1 - 2^-24, from 32 bits of Philox-4x32-10 (Salmon et al. 2011,
  doi 10.1145/2063384.2063405); Gumbel = -ln(E) with E = -log1p(-u). With y = 1 - u rounded, E = -(ln(y) + e (2 - y)),
  where e = -u - (y - 1) is what the rounding lost, exactly.
- weight of a token that lies r >= 0 below the best logit: exp(-r) in units of 2^-40, truncated to an int64. It is 2^40
  for the best token and 0 beyond r = 28; a vocabulary of 2^18 sums to less than 2^58. exp(-r) = 2^k * 2^f with
  f in [-1/2, 1/2] and 2^f = 1 + f Q(f), Q by Chebyshev interpolation: relative error below 1e-7.
- mean distance, for typical-p: the sum of weight * r (one fp32 product, truncated to an int64) over the sum of weights,
  divided in fp64, rounded to fp32. Entropy and mean distance differ by a constant, so that is all typical-p needs.
"""

# Philox-4x32: round multipliers and Weyl constants of Random123.
PHILOX_M0 = 0xD2511F53
PHILOX_M1 = 0xCD9E8D57
PHILOX_W0 = 0x9E3779B9
PHILOX_W1 = 0xBB67AE85

TWO_POW_MINUS_32 = 2.0**-32
BELOW_ONE = 1.0 - 2.0**-24

SQRT_HALF_BITS = 0x3F3504F3
LN2_HIGH = 0.693359375  # 9 bits: k * LN2_HIGH is exact
LN2_LOW = -2.12194440e-4
LN_POLYNOMIAL = (  # highest power first
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)

MINUS_LOG2_E = -1.4426950408889634
EXP2_POLYNOMIAL = (  # Q, highest power first
    0.00015453163359779865,
    0.0013390863314270973,
    0.009618083015084267,
    0.055503569543361664,
    0.24022650718688965,
    0.6931471824645996,
)
FAR = 64.0  # distances are cut here before exp: the weight is 0 long before
WEIGHT_BITS = 40  # weights are multiples of 2^-40
MASSLESS = 28.0  # from this distance on the weight is 0

HIGHEST_LOGIT = 1e38  # processed logits are cut here, so that a sum with noise or a difference stays finite
LOWEST_MIN_P = 2.0**-100  # normal, and far below any weight
LOWEST_TEMPERATURE = 2.0**-20  # below it the noise is lost in the rounding of the logits anyway
