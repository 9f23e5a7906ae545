"""The machinery of `blink-oauth login`: from the bank's authorize page into the store."""
