"""The errors of accel_models.

AccelError
├── InvalidInputError (ValueError)   a file, field or dimension that cannot be used: names where and what to do
├── UnknownNameError  (KeyError)     a name that the library does not hold: names the nearest one
└── NoMappingError    (ValueError)   a layer that no mapping fits: names the buffer and the missing bytes
"""


class AccelError(Exception):
    """Base of every error that accel_models raises on purpose."""


class InvalidInputError(AccelError, ValueError):
    """A file, field or dimension that cannot be used; the message names where and what to do."""


class UnknownNameError(AccelError, KeyError):
    """A name that the library does not hold; the message names the nearest one."""

    def __str__(self) -> str:
        return str(self.args[0])


class NoMappingError(AccelError, ValueError):
    """A layer that no mapping fits; the message names the layer, the buffer and the missing bytes."""

    def __init__(self, message: str, missing_bytes: int) -> None:
        super().__init__(message, missing_bytes)
        self.missing_bytes = missing_bytes

    def __str__(self) -> str:
        return str(self.args[0])
