"""The errors of search.

SearchError
├── InvalidProblemError (ValueError)    a space, objective or option that cannot be used
└── ResumeError         (RuntimeError)  a storage that does not belong to this problem, seed or sampler
"""


class SearchError(Exception):
    """Base of every error that search raises on purpose."""


class InvalidProblemError(SearchError, ValueError):
    """A space, an objective or an option that cannot be used."""


class ResumeError(SearchError, RuntimeError):
    """A storage that does not belong to this problem, seed or sampler."""
