"""Operations, one folder each, which are independent of the harness."""
