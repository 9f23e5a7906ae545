"""Tests for implementations of `TokenStore`.

```python
from blink_oauth_testing.store_contract import ManualClock, TokenStoreContract

class TestMyStore(TokenStoreContract):
    def make_store(self, clock: ManualClock) -> MyStore:
        return MyStore(clock=clock)
```

Run it with pytest: each test checks one promise of `TokenStore`, on a new store.
"""

from .claims import Claims, Settling
from .consents import Consents, Salvaging
from .forgetting import Forgetting
from .harness import ManualClock
from .notices import Delivering, Notices
from .queries import DueRecords, Listing
from .values import Values
from .write_back import WritingBack

__all__ = ["ManualClock", "TokenStoreContract"]


class TokenStoreContract(
    Claims,
    Settling,
    Consents,
    Salvaging,
    Forgetting,
    WritingBack,
    Notices,
    Delivering,
    DueRecords,
    Listing,
    Values,
):
    """Test that a store does what `TokenStore` promises.

    Subclass it in a test module and override:

    * `make_store`: returns a new empty store. An autouse fixture of your class may prepare what it
      needs, such as a path.
    * `reopen`: returns a second store on the same data, if that is possible. The tests read through
      it to check that changes are durable and visible to other processes.
    * `let_pass`: lets time pass, if the store does not run by the clock that it was given.
    * `journal_retention` and `history_retention`, if the retention of the store is different.

    The tests use plain assertions. Any runner works that calls `teardown_method` after each test.
    """
