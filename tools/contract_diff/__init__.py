"""What a change of the contract means for the caller: run it with `python -m contract_diff`."""
