"""The errors of cosim.

CosimError
├── ConfigError          (ValueError)    a file or an option that cannot be used: names file, field, remedy
├── PruningError         (ValueError)    a plan or a removal that a network cannot have
│   └── UntraceableError (TypeError)     a module or operator that the channel tracer cannot follow
├── TrainingError        (RuntimeError)  a training that produced no usable network
└── InfeasibleError      (RuntimeError)  a search of which no design keeps the limits

accel_models and search have trees of their own (`AccelError`, `SearchError`).
"""


class CosimError(Exception):
    """Base of every error that cosim raises on purpose."""


class ConfigError(CosimError, ValueError):
    """A file or an option that cannot be used; the message names file, field and remedy."""


class PruningError(CosimError, ValueError):
    """A plan or a removal that this network cannot have."""


class UntraceableError(PruningError, TypeError):
    """A module or an operator that the channel tracer cannot follow."""


class TrainingError(CosimError, RuntimeError):
    """A training that produced no usable network (a loss that is not finite, an empty loader)."""


class InfeasibleError(CosimError, RuntimeError):
    """A search of which no design keeps the limits; the message names the closest."""
