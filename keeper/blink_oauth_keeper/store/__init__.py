"""Token stores: the protocol, a store in memory and a store in a database."""
