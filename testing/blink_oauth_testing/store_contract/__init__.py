"""The tests that prove a store of tokens right, to be run by whoever writes one.

```python
from blink_oauth_testing.store_contract import Clock, TokenStoreContract

class TestMyStore(TokenStoreContract):
    def make_store(self, clock: Clock) -> MyStore:
        return MyStore(clock=clock)
```

Run it with pytest: each test is a sentence on what `TokenStore` promises, on a new store.
"""

from .claims import Claims, Settling
from .consents import Consents, Salvaging
from .finding import Finding, Listing
from .harness import Clock
from .values import Values

__all__ = ["Clock", "TokenStoreContract"]


class TokenStoreContract(Claims, Settling, Consents, Salvaging, Finding, Listing, Values):
    """Prove that a store keeps what `TokenStore` promises.

    Subclass it in a test module and override:

    * `make_store`: returns a new empty store. An autouse fixture of your class may prepare what it
      needs, such as a path.
    * `reopen`: returns a second store upon the same data, if there can be one. Durability and
      visibility to other processes are proven by reading through it.
    * `let_pass`: lets time pass, if the store does not run by the clock that it was given.
    * `journal_retention` and `history_retention`, if the store keeps entries for another time.

    The methods use plain assertions, and need no runner but one that calls `teardown_method` after
    each test.
    """
