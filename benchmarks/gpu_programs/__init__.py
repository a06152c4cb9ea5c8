"""The programs that a GPU would run, which are lowered, compiled and counted without a GPU."""
