"""Damage to HDF5 files, the format of a model's weights."""

import io
import random

import h5py
import numpy as np


def damage_hdf5(rng: random.Random, content: bytes) -> bytes:
    """Replaces or removes a data set, or makes it lead elsewhere."""
    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        names: list[str] = []
        file.visititems(
            lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None
        )
        name = rng.choice(names)
        before = file[name][()]
        del file[name]
        how = rng.randrange(10)
        if how == 0:  # a small file that unpacks to much
            shape = rng.choice(((2**28,), (2**40,), (2**20, 2**20), before.shape))
            file.create_dataset(name, shape, "f4", chunks=True, fillvalue=1.0, compression="gzip")
        elif how == 1:
            file.create_dataset(name, (2**27,), "f4")
        elif how == 2:
            file[name] = before.astype(rng.choice(("f2", "f8", "i1", "i8", "u8", "c8", "S3")))
        elif how == 3:
            file[name] = np.resize(before, rng.choice(((), (0,), (1,), (3,), (2, 2), (1, 2, 3))))
        elif how == 4:
            file[name] = rng.choice(("text", [b"a", b"b"], h5py.Empty("f4"), [True, False]))
        elif how == 5:
            file[name] = rng.choice(
                (
                    h5py.SoftLink("/"),
                    h5py.SoftLink("/" + name),
                    h5py.ExternalLink("/etc/passwd", "/"),
                )
            )
        elif how == 6:
            layout = h5py.VirtualLayout(before.shape or (1,), "f4")
            layout[...] = h5py.VirtualSource("other.h5", "a", before.shape or (1,))
            file.create_virtual_dataset(name, layout)
        elif how == 7:
            file.create_group(name)
        elif how == 8:
            file.create_dataset(
                name, before.shape, "f4", external=[("/etc/passwd", 0, before.nbytes)]
            )
        # else: it is missing
    return stream.getvalue()
