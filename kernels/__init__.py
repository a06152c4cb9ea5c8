"""Operations, one folder each; nothing here knows of the harness."""
