from typing import Literal

Source = Literal["PLATFORM", "PROVIDER"]

SOURCE_VALUES: set[Source] = {
    "PLATFORM",
    "PROVIDER",
}


def check_source(value: str) -> Source:
    if value in SOURCE_VALUES:
        return value
    raise TypeError(f"Unexpected value {value!r}. Expected one of {SOURCE_VALUES!r}")
