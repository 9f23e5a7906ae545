"""Which calls are going to fail, and how."""

from __future__ import annotations

import threading
from collections.abc import Collection

from attrs import field, frozen

from .faults import OPERATIONS, Fault


@frozen
class _Planned:
    fault: Fault
    target_id: str | None
    operation: str | None

    def matches(self, target_id: str, operation: str) -> bool:
        return self.target_id in {None, target_id} and self.operation in {None, operation}


@frozen
class FaultPlan:
    """The faults that were asked for and have not happened yet, oldest first.

    Attributes:
        targets: The ids of the banks there are.
    """

    targets: Collection[str]
    _planned: list[_Planned] = field(init=False, factory=list)
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False)

    def add(
        self, fault: Fault, *, target_id: str | None, operation: str | None, times: int
    ) -> None:
        """Let the next matching calls fail.

        Args:
            fault: How they fail.
            target_id: Only calls to this bank, or None for any.
            operation: Only calls of this operation, or None for any that the fault fits.
            times: How many calls fail.

        Raises:
            ValueError: It could never happen: there is no such bank or operation, the fault does
                not fit the operation, or `times` is below 1.
        """
        if target_id is not None and target_id not in self.targets:
            raise ValueError(f"There is no such bank. There are: {', '.join(self.targets)}.")
        if operation is not None and operation not in OPERATIONS:
            raise ValueError(f"There is no such operation. There are: {', '.join(OPERATIONS)}.")
        if fault.operation is not None and operation not in {None, fault.operation}:
            raise ValueError(f"The fault {fault.name} fits only {fault.operation}.")
        if times < 1:
            raise ValueError("A fault must happen at least once.")
        planned = _Planned(fault, target_id, operation or fault.operation)
        with self._lock:
            self._planned.extend([planned] * times)

    def take(self, target_id: str, operation: str) -> Fault | None:
        """Return the fault for this call and forget it, or None if it is to succeed."""
        with self._lock:
            for index, planned in enumerate(self._planned):
                if planned.matches(target_id, operation):
                    return self._planned.pop(index).fault
        return None

    def clear(self) -> None:
        """Forget everything that was asked for."""
        with self._lock:
            self._planned.clear()
