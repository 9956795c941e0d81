"""The kinds of refusals that the backend tells apart."""


class GatedRepoError(Exception):
    pass


class RepositoryNotFoundError(Exception):
    pass


class EntryNotFoundError(Exception):
    pass


class RevisionNotFoundError(Exception):
    pass
