"""The programs that a GPU would run: lowered here, then compiled and counted without a GPU."""
