"""RaggedSets to fixed-shape batches: order, capacity, the tf.data stream."""
