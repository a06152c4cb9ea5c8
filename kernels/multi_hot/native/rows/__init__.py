"""Sources of the kernels for the touched rows of a table: a library of its own, which takes as long
to compile as the others, and which few runs need."""
