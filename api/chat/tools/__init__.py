"""Tool calls: what may be called, how a family writes it, finding it in the answer."""
