"""Where tokens are kept: the protocol of a store, and the stores that ship."""
