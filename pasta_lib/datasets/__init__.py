"""One reader for each schema; every reader returns a `ChoiceData`."""
