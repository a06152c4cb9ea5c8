"""Code that every room uses: errors, checks, whole files, memory, processes."""
