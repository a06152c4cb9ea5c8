"""Named shapes, shared by tests and benchmarks, so that nothing untested is timed."""

from kernels.multi_hot.cases import Case

# B, V, H and the mean length.
IMDB_500 = Case("imdb_500", 500, 10_000, 50, 130.2, unique=True)
IMDB_4096 = Case("imdb_4096", 4_096, 10_000, 50, 130.2, unique=True)
REPEATED_500 = Case("repeated_500", 500, 10_000, 50, 234.7)
TF_IDF_500 = IMDB_500._replace(name="tf_idf_500", weighted=True)
PADDED = Case("padded", 33, 300, 50, 12, unique=True, spare=97)
WIDE = Case("wide", 17, 97, 131, 9, spare=3)
NARROW = Case("narrow", 64, 41, 1, 5)
ALIGNED = Case("aligned", 40, 128, 64, 7, unique=True)
SPARSE = Case("sparse", 50, 1_000, 3, 0.7, spare=10)
WEIGHTED = Case("weighted", 30, 90, 21, 11, spare=5, weighted=True)

SMALL = (PADDED, WIDE, NARROW, ALIGNED, SPARSE, WEIGHTED)
LARGE = (IMDB_500, IMDB_4096, REPEATED_500, TF_IDF_500)
CASES = {case.name: case for case in SMALL + LARGE}
