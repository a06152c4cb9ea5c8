"""Sources of the kernels for the touched rows of a table. They are a library of their own, since it
takes as long to compile as the others, and few runs need it."""
